//! What `torch.save` wrote before the zip, and still writes when it is asked to.
//!
//! Five pickles: a magic number, the version, facts of the machine, the object, the keys of the
//! storages in order. Then each storage: its number of elements in eight bytes, and these.
//!
//! Source: `_legacy_save` in `torch/serialization.py` and `Storage._write_file` of torch 2.15.

use std::collections::BTreeMap;
use std::ops::Range;

use super::pickle::Pickle;
use super::refusal::{DAMAGED, Refusal, Result};
use super::value::{Storage, Value};
use super::{big_endian, no_storage};
use crate::files::tensor_file::shown;

/// `MAGIC_NUMBER`, 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// `PROTOCOL_VERSION`.
const VERSION: i64 = 1001;
/// The number of elements before each storage.
const COUNT: usize = 8;

/// The object of such a file, and where its storages lie.
#[derive(Debug)]
pub(super) struct Legacy<'a> {
    pub(super) pickle: Pickle<'a>,
    places: BTreeMap<&'a str, Range<usize>>,
}

impl<'a> Legacy<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self> {
        let magic = Pickle::read(bytes)?;
        if !matches!(magic.value, Value::Long(number) if number == MAGIC) {
            return Err(Refusal::new(format!(
                "it is a Python pickle that torch did not write: it begins with {}",
                magic.value.kind()
            ))
            .hint("get a .safetensors of it"));
        }
        let version = Pickle::read(magic.rest)?;
        if !matches!(version.value, Value::Int(VERSION)) {
            return Err(damaged("it is of another version of torch's format".to_owned()));
        }
        let machine = Pickle::read(version.rest)?;
        check_machine(&machine)?;
        let pickle = Pickle::read(machine.rest)?;
        let keys = Pickle::read(pickle.rest)?;
        let places = places(bytes, &pickle, &keys)?;
        Ok(Self { pickle, places })
    }

    pub(super) fn place(&self, storage: &Storage<'_>) -> Result<Range<usize>> {
        self.places.get(storage.key).cloned().ok_or_else(|| no_storage(storage))
    }
}

fn check_machine(machine: &Pickle<'_>) -> Result<()> {
    let Value::Dict(dict) = machine.value else {
        return Err(damaged(format!("of its machine it says {}", machine.value.kind())));
    };
    let big = machine.heap.dicts[dict as usize].iter().any(|(key, value)| {
        matches!((key, value), (Value::Text("little_endian"), Value::Bool(false)))
    });
    if big { Err(big_endian("big")) } else { Ok(()) }
}

/// Walks through the storages, which follow after their keys to the end of the file.
fn places<'a>(
    bytes: &'a [u8],
    pickle: &Pickle<'a>,
    keys: &Pickle<'a>,
) -> Result<BTreeMap<&'a str, Range<usize>>> {
    let Value::List(list) = keys.value else {
        return Err(damaged(format!("for its storages it has {}", keys.value.kind())));
    };
    let storages: BTreeMap<&str, &Storage<'a>> =
        pickle.heap.storages.iter().map(|storage| (storage.key, storage)).collect();
    let mut places = BTreeMap::new();
    let mut end = bytes.len() - keys.rest.len();
    for key in &keys.heap.lists[list as usize] {
        let Value::Text(key) = *key else {
            return Err(damaged(format!("a storage is named by {}", key.kind())));
        };
        let Some(storage) = storages.get(key) else {
            return Err(damaged(format!("no tensor names its storage `{}`", shown(key))));
        };
        let length = storage.count.checked_mul(storage.element.size);
        let length = length.ok_or_else(|| damaged(too_long(storage)))?;
        let start = end.saturating_add(COUNT);
        if places.insert(key, start..start.saturating_add(length)).is_some() {
            return Err(damaged(format!("it has the storage `{}` twice", shown(key))));
        }
        end = start.saturating_add(length);
    }
    if end > bytes.len() {
        return Err(Refusal::Truncated { have: bytes.len() as u64, need: end as u64 });
    }
    if end < bytes.len() {
        let extra = bytes.len() - end;
        return Err(damaged(format!("{extra} bytes follow after the last storage")));
    }
    for (key, place) in &places {
        let written = bytes[place.start - COUNT..].first_chunk().copied().map(u64::from_le_bytes);
        let storage = storages[key];
        if written != Some(storage.count as u64) {
            return Err(damaged(format!(
                "its storage `{}` is said to have {} values and {} in another place",
                shown(key),
                storage.count,
                written.unwrap_or_default()
            )));
        }
    }
    Ok(places)
}

fn too_long(storage: &Storage<'_>) -> String {
    let (key, count) = (shown(storage.key), storage.count);
    format!("its storage `{key}` has {count} values, more than fit any file")
}

fn damaged(reason: String) -> Refusal {
    Refusal::new(reason).hint(DAMAGED)
}
