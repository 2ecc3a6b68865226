//! The classes and functions a pickle may name: those that build tensors, and no other.
//!
//! A pickle that names anything else is refused by that name. None of these is run here either:
//! each is a word for one thing that [`call`] builds itself.
//!
//! Source: `_rebuild_*` in `torch/_utils.py`, `_rebuild_from_type_v2` in `torch/_tensor.py` and
//! `persistent_id` in `torch/serialization.py` of torch 2.15.

use super::elements::{Element, UNTYPED};
use super::refusal::{DAMAGED, NOT_ONLY_TENSORS, Refusal, Result};
use super::value::{Heap, Span, Storage, Tensor, Value};
use crate::files::tensor_file::shown;

/// More than any tensor of a network has; as every tensor keeps its own shape, there is a limit.
const MOST_DIMENSIONS: usize = 16;
/// More than any of the functions takes.
const MOST_ARGUMENTS: usize = 12;

/// A class or function that a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    /// How protocol 2 writes bytes.
    Encode,
    Size,
    Device,
    Dtype(&'static Element),
    StorageClass(&'static Element),
    TensorClass,
    Rebuild(Rebuild),
    /// A tensor that has attributes in Python.
    RebuildFromType,
}

/// A function that makes a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rebuild {
    /// Storage, offset, shape, strides, and then what training needs.
    V2,
    /// The same of an untyped storage, with the dtype.
    V3,
    /// Another tensor, called a parameter.
    Parameter,
}

impl Global {
    pub(super) fn find(module: &str, name: &str) -> Result<Self> {
        let known = match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("_codecs", "encode") => Some(Self::Encode),
            ("torch", "Size") => Some(Self::Size),
            ("torch", "device") => Some(Self::Device),
            ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Some(Self::TensorClass),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
                Some(Self::Rebuild(Rebuild::V2))
            }
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::Rebuild(Rebuild::V3)),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Some(Self::Rebuild(Rebuild::Parameter))
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Some(Self::RebuildFromType),
            ("torch" | "torch.storage" | "torch.cuda", "UntypedStorage") => {
                Some(Self::StorageClass(UNTYPED))
            }
            // Files of old: storages on a graphics card had classes of their own.
            ("torch" | "torch.cuda", _) => Element::of_storage(name)
                .map(Self::StorageClass)
                .or_else(|| Element::of_dtype(name).map(Self::Dtype)),
            _ => None,
        };
        known.ok_or_else(|| {
            Refusal::new(format!(
                "it would run `{}.{}` when a Python program opens it",
                shown(module),
                shown(name)
            ))
            .hint(NOT_ONLY_TENSORS)
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::OrderedDict => "OrderedDict",
            Self::Encode => "_codecs.encode",
            Self::Size => "torch.Size",
            Self::Device => "torch.device",
            Self::Dtype(_) => "torch.dtype",
            Self::StorageClass(_) => "torch.Storage",
            Self::TensorClass => "torch.Tensor",
            Self::Rebuild(Rebuild::V2) => "_rebuild_tensor_v2",
            Self::Rebuild(Rebuild::V3) => "_rebuild_tensor_v3",
            Self::Rebuild(Rebuild::Parameter) => "_rebuild_parameter",
            Self::RebuildFromType => "_rebuild_from_type_v2",
        }
    }
}

/// What the call would have made.
pub(super) fn call<'a>(
    heap: &mut Heap<'a>,
    function: Value<'a>,
    arguments: Value<'a>,
) -> Result<Value<'a>> {
    let Value::Global(global) = function else {
        return Err(wrong(format!("it calls {}, which is no function", function.kind())));
    };
    let Value::Tuple(span) = arguments else {
        return Err(wrong(format!("it calls a function with {}", arguments.kind())));
    };
    let arguments = arguments_of(heap, span)?;
    match (global, &*arguments) {
        (Global::OrderedDict, []) => Ok(heap.dict()),
        (Global::Encode, [Value::Text(_), Value::Text(_)]) => Ok(Value::Bytes),
        (Global::Size, [Value::Tuple(span)]) => Ok(Value::Tuple(*span)),
        (Global::Device, [Value::Text(name), ..]) => Ok(Value::Text(name)),
        (Global::Rebuild(rebuild), arguments) => rebuild.call(heap, arguments),
        (
            Global::RebuildFromType,
            [
                Value::Global(Global::Rebuild(rebuild)),
                Value::Global(Global::TensorClass),
                Value::Tuple(span),
                ..,
            ],
        ) => {
            let arguments = arguments_of(heap, *span)?;
            rebuild.call(heap, &arguments)
        }
        (global, arguments) => Err(not_so(global.name(), arguments)),
    }
}

/// A copy of the arguments: few, as the same tuple may be given a million times.
fn arguments_of<'a>(heap: &Heap<'a>, span: Span) -> Result<Vec<Value<'a>>> {
    let items = heap.items(span);
    if items.len() > MOST_ARGUMENTS {
        return Err(wrong(format!("it calls a function with {} arguments", items.len())));
    }
    Ok(items.to_vec())
}

impl Rebuild {
    fn call<'a>(self, heap: &mut Heap<'a>, arguments: &[Value<'a>]) -> Result<Value<'a>> {
        match (self, arguments) {
            (Self::Parameter, [tensor @ Value::Tensor(_), ..]) => Ok(*tensor),
            (
                Self::V2,
                [
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    ..,
                ],
            ) => {
                let storage = heap.storages[*storage as usize];
                let (shape, strides) = (heap.items(*shape), heap.items(*strides));
                let tensor = tensor(storage, storage.element, *offset, shape, strides)?;
                Ok(heap.tensor(tensor))
            }
            (
                Self::V3,
                [
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    _,
                    _,
                    Value::Global(Global::Dtype(element)),
                    ..,
                ],
            ) => {
                let storage = heap.storages[*storage as usize];
                let (shape, strides) = (heap.items(*shape), heap.items(*strides));
                let tensor = tensor(storage, element, *offset, shape, strides)?;
                Ok(heap.tensor(tensor))
            }
            (rebuild, arguments) => Err(not_so(Global::Rebuild(rebuild).name(), arguments)),
        }
    }
}

fn tensor<'a>(
    storage: Storage<'a>,
    element: &'static Element,
    offset: i64,
    shape: &[Value<'_>],
    strides: &[Value<'_>],
) -> Result<Tensor<'a>> {
    if shape.len() != strides.len() || shape.len() > MOST_DIMENSIONS {
        return Err(wrong(format!(
            "a tensor has {} dimensions and {} strides, expected as many and at most \
             {MOST_DIMENSIONS}",
            shape.len(),
            strides.len()
        )));
    }
    let sizes = |what: &str, values: &[Value<'_>]| -> Result<Vec<usize>> {
        let sizes = values.iter().map(|value| size(what, *value));
        sizes.collect()
    };
    Ok(Tensor {
        storage,
        element,
        offset: size("offset", Value::Int(offset))?,
        shape: sizes("dimension", shape)?,
        strides: sizes("stride", strides)?,
    })
}

/// The storage that a persistent id names: `("storage", class, key, device, elements)`, with
/// one more field in files before the zip, which has been `None` since torch 0.4.
pub(super) fn storage<'a>(heap: &mut Heap<'a>, id: Value<'a>) -> Result<Value<'a>> {
    let Value::Tuple(span) = id else {
        return Err(wrong(format!("it names a storage by {}, expected a tuple", id.kind())));
    };
    match *heap.items(span) {
        [
            Value::Text("storage"),
            Value::Global(Global::StorageClass(element)),
            Value::Text(key),
            Value::Text(_device),
            Value::Int(count),
        ]
        | [
            Value::Text("storage"),
            Value::Global(Global::StorageClass(element)),
            Value::Text(key),
            Value::Text(_device),
            Value::Int(count),
            Value::None,
        ] => {
            let count = size("length of a storage", Value::Int(count))?;
            Ok(heap.storage(Storage { key, element, count }))
        }
        [Value::Text(kind), ..] if kind != "storage" => {
            Err(wrong(format!("it refers to `{}` outside of the pickle", shown(kind)))
                .hint(NOT_ONLY_TENSORS))
        }
        ref fields => Err(not_so("storage", fields)),
    }
}

fn size(what: &str, value: Value<'_>) -> Result<usize> {
    match value {
        Value::Int(size) => usize::try_from(size)
            .map_err(|_| wrong(format!("a tensor has the {what} {size}, expected 0 or more"))),
        other => Err(wrong(format!("a tensor has {} as {what}", other.kind()))),
    }
}

fn not_so(function: &str, arguments: &[Value<'_>]) -> Refusal {
    const MOST: usize = 8;

    let kinds: Vec<&str> = arguments.iter().take(MOST).map(|value| value.kind()).collect();
    let more = if arguments.len() > MOST { ", …" } else { "" };
    wrong(format!("torch never calls `{function}` with ({}{more})", kinds.join(", ")))
}

fn wrong(reason: String) -> Refusal {
    Refusal::new(reason).hint(DAMAGED)
}
