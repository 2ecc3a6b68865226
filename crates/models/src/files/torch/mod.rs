//! Files that `torch.save` wrote: `.bin`, `.pt`, `.pth` and `.ckpt`.
//!
//! A pickle says which tensors there are; their numbers lie beside it, in a zip since torch 1.6
//! (2020), one after the other before. A pickle is a program, and Python runs what it names.
//! Here it can only build dictionaries, lists, plain values and tensors ([`globals`]); a file
//! that names anything else is refused before anything is made of it. Nothing of a file is ever
//! run, and time and memory follow its length.
//!
//! A tensor whose values lie in order stays a view of the file; others are copied into order.
//! Numbers in f64 are read as single numbers only, as they are from safetensors files.

mod elements;
mod globals;
mod legacy;
mod names;
mod pickle;
mod refusal;
mod strided;
mod value;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::Error;
use crate::files::tensor_file::{Contents, OtherTensor, shown};
use crate::files::{Bytes, Dtype, FrozenWeight};
use names::{Found, Named};
use pickle::Pickle;
use refusal::{DAMAGED, Refusal, Result};
use strided::Copies;
use value::Storage;
use zip::Archive;

/// Reads a zip that `torch.save` wrote.
pub(super) fn read_zip(bytes: &Bytes, path: &str) -> Result<Contents, Error> {
    from_zip(bytes).map_err(|refusal| refusal.of(path))
}

/// Reads what `torch.save` wrote before torch 1.6.
pub(super) fn read_legacy(bytes: &Bytes, path: &str) -> Result<Contents, Error> {
    let contents = legacy::Legacy::read(bytes).and_then(|file| {
        let named = Named::of(&file.pickle)?;
        contents(bytes, named, |storage| file.place(storage))
    });
    contents.map_err(|refusal| refusal.of(path))
}

fn from_zip(bytes: &Bytes) -> Result<Contents> {
    let archive = Archive::parse(bytes)?;
    let folder = folder(&archive)?;
    let entry = |name: &str| archive.get(&format!("{folder}/{name}"));
    if let Some(order) = entry("byteorder")?
        && &bytes[order.clone()] != b"little"
    {
        let order = String::from_utf8_lossy(&bytes[order]).into_owned();
        return Err(big_endian(&order));
    }
    let place = entry("data.pkl")?.expect("the folder was found by it");
    let pickle = Pickle::read(&bytes[place])?;
    if !pickle.rest.is_empty() {
        let reason = format!("{} bytes follow after its pickle", pickle.rest.len());
        return Err(Refusal::new(reason).hint(DAMAGED));
    }
    contents(bytes, Named::of(&pickle)?, |storage| {
        entry(&format!("data/{}", storage.key))?.ok_or_else(|| no_storage(storage))
    })
}

/// The one folder in which everything lies; torch names it after the file.
fn folder<'a>(archive: &Archive<'a>) -> Result<&'a str> {
    let mut folders = archive
        .names()
        .filter_map(|name| name.strip_suffix("/data.pkl").filter(|folder| !folder.contains('/')));
    let Some(folder) = folders.next() else {
        let mut names = archive.names().map(|name| format!("`{}`", shown(name)));
        let reason = match names.next() {
            Some(first) => format!("it is a zip that torch did not write: with {first}"),
            None => "it is an empty zip".to_owned(),
        };
        return Err(Refusal::new(reason).hint("if it is a packed folder, unpack it first"));
    };
    if let Some(other) = folders.next() {
        let (folder, other) = (shown(folder), shown(other));
        let reason = format!("it holds two files, `{folder}/data.pkl` and `{other}/data.pkl`");
        return Err(Refusal::new(reason).hint(DAMAGED));
    }
    if archive.names().any(|name| name.strip_prefix(folder) == Some("/constants.pkl")) {
        let reason = "it is a program of TorchScript, not a file of tensors";
        return Err(Refusal::new(reason).hint("use the file of weights it was made from"));
    }
    Ok(folder)
}

/// The tensors of the pickle with the numbers that `place` finds.
fn contents(
    bytes: &Bytes,
    named: Named<'_>,
    place: impl Fn(&Storage<'_>) -> Result<Range<usize>>,
) -> Result<Contents> {
    let mut copies = Copies::of(bytes);
    let mut contents =
        Contents { weights: BTreeMap::new(), others: BTreeMap::new(), metadata: named.texts };
    for (name, found) in named.tensors {
        let (dtype, shape, (bytes, range)) = match found {
            Found::Number { dtype, bytes } => {
                (dtype, Vec::new(), (Bytes::owned(bytes.to_vec()), 0..bytes.len()))
            }
            Found::Tensor(tensor) => {
                let storage = place(&tensor.storage)?;
                let view = copies.view(tensor, storage).map_err(|refusal| refusal.tensor(&name))?;
                (tensor.element.name, tensor.shape.clone(), view)
            }
        };
        if let Some(dtype) = Dtype::from_safetensors(dtype) {
            contents.weights.insert(name, FrozenWeight::new(bytes, range, dtype, &shape));
        } else {
            let dtype = dtype.to_owned();
            contents.others.insert(name, OtherTensor { dtype, shape, bytes, range });
        }
    }
    Ok(contents)
}

fn no_storage(storage: &Storage<'_>) -> Refusal {
    let key = shown(storage.key);
    Refusal::new(format!("the numbers of storage `{key}` are not in it")).hint(DAMAGED)
}

fn big_endian(order: &str) -> Refusal {
    Refusal::new(format!("its numbers are in the byte order `{}`, expected `little`", shown(order)))
        .hint("get a .safetensors of it, or save it again on a little-endian machine")
}
