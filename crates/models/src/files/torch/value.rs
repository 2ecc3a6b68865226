//! What a pickle may build: plain values, containers, and tensors that name their storage.
//!
//! Values are small and copied; what a container holds lies in the [`Heap`] and is named by its
//! place there. So a value shared a thousand times costs nothing, a container may hold itself,
//! and nothing recurses when all of it is dropped.

use std::ops::Range;

use super::elements::Element;
use super::globals::Global;

/// One value. Text is a view of the pickle.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian.
    Long(&'a [u8]),
    Float(f64),
    Text(&'a str),
    /// Bytes, which no file of tensors needs for anything.
    Bytes,
    Global(Global),
    Tuple(Span),
    List(u32),
    Dict(u32),
    Storage(u32),
    Tensor(u32),
}

/// A part of the heap's items.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    start: u32,
    length: u32,
}

/// What containers hold.
#[derive(Debug, Default)]
pub(super) struct Heap<'a> {
    items: Vec<Value<'a>>,
    pub(super) lists: Vec<Vec<Value<'a>>>,
    pub(super) dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) tensors: Vec<Tensor<'a>>,
}

/// A run of numbers that tensors are views of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    /// Its name among the storages of the file.
    pub(super) key: &'a str,
    pub(super) element: &'static Element,
    /// Number of elements.
    pub(super) count: usize,
}

/// A tensor as the pickle describes it; nothing of it is checked against the storage yet.
#[derive(Debug, Clone)]
pub(super) struct Tensor<'a> {
    pub(super) storage: Storage<'a>,
    pub(super) element: &'static Element,
    /// In elements.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// In elements.
    pub(super) strides: Vec<usize>,
}

impl<'a> Heap<'a> {
    pub(super) fn tuple(&mut self, items: impl IntoIterator<Item = Value<'a>>) -> Value<'a> {
        let start = self.items.len();
        self.items.extend(items);
        let place = |at: usize| u32::try_from(at).expect("fewer than the operations of a pickle");
        Value::Tuple(Span { start: place(start), length: place(self.items.len() - start) })
    }

    pub(super) fn items(&self, span: Span) -> &[Value<'a>] {
        let start = span.start as usize;
        &self.items[Range { start, end: start + span.length as usize }]
    }

    pub(super) fn list(&mut self) -> Value<'a> {
        Value::List(push(&mut self.lists, Vec::new()))
    }

    pub(super) fn dict(&mut self) -> Value<'a> {
        Value::Dict(push(&mut self.dicts, Vec::new()))
    }

    pub(super) fn storage(&mut self, storage: Storage<'a>) -> Value<'a> {
        Value::Storage(push(&mut self.storages, storage))
    }

    pub(super) fn tensor(&mut self, tensor: Tensor<'a>) -> Value<'a> {
        Value::Tensor(push(&mut self.tensors, tensor))
    }
}

impl Value<'_> {
    /// What it is, for a message.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) | Self::Long(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "text",
            Self::Bytes => "bytes",
            Self::Global(_) => "a class or function",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Storage(_) => "a storage without a tensor",
            Self::Tensor(_) => "a tensor without a name",
        }
    }
}

fn push<T>(all: &mut Vec<T>, one: T) -> u32 {
    all.push(one);
    u32::try_from(all.len() - 1).expect("fewer than the operations of a pickle")
}
