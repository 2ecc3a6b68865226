//! Pickles and zips made by hand, byte by byte: sound ones, and hostile ones.

#![allow(dead_code, reason = "every test file uses its own part")]
#![expect(clippy::cast_possible_wrap, reason = "files of some kilobytes")]

pub(crate) mod hostile;

use unwrong_models::files::{Dtype, TensorFile};

/// An entry of a zip in the making. What is written of it can be changed before.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) data: Vec<u8>,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    /// Sizes as the directory and as the entry's own header have them.
    pub(crate) sizes: [u32; 2],
    pub(crate) local_sizes: [u32; 2],
    pub(crate) local_name: String,
    /// Added to the place in the directory.
    pub(crate) shift: i64,
    /// Extra field in the directory.
    pub(crate) extra: Vec<u8>,
}

impl Entry {
    pub(crate) fn new(name: &str, data: &[u8]) -> Self {
        let length = u32::try_from(data.len()).expect("small");
        Self {
            name: name.to_owned(),
            data: data.to_vec(),
            flags: 0,
            method: 0,
            sizes: [length; 2],
            local_sizes: [length; 2],
            local_name: name.to_owned(),
            shift: 0,
            extra: Vec::new(),
        }
    }
}

/// A zip of these entries.
pub(crate) fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let place = u32::try_from(bytes.len() as i64 + entry.shift).unwrap_or(u32::MAX);
        bytes.extend(b"PK\x03\x04\0\0");
        bytes.extend(entry.flags.to_le_bytes());
        bytes.extend(entry.method.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(entry.local_sizes.iter().flat_map(|size| size.to_le_bytes()));
        bytes.extend((entry.local_name.len() as u16).to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(entry.local_name.bytes());
        bytes.extend(&entry.data);
        directory.extend(b"PK\x01\x02\0\0\0\0");
        directory.extend(entry.flags.to_le_bytes());
        directory.extend(entry.method.to_le_bytes());
        directory.extend([0; 8]);
        directory.extend(entry.sizes.iter().flat_map(|size| size.to_le_bytes()));
        directory.extend((entry.name.len() as u16).to_le_bytes());
        directory.extend((entry.extra.len() as u16).to_le_bytes());
        directory.extend([0; 10]);
        directory.extend(place.to_le_bytes());
        directory.extend(entry.name.bytes());
        directory.extend(&entry.extra);
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(end(entries.len() as u16, directory.len() as u32, start));
    bytes
}

/// The record at the end of a zip.
pub(crate) fn end(count: u16, size: u32, offset: u32) -> Vec<u8> {
    let mut bytes = b"PK\x05\x06\0\0\0\0".to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// A file of torch with this pickle and one storage of four f32, 0 to 3.
pub(crate) fn file(pickle: &[u8]) -> Vec<u8> {
    zip(&[Entry::new("a/data.pkl", pickle), Entry::new("a/data/0", &storage())])
}

pub(crate) fn storage() -> Vec<u8> {
    [0.0_f32, 1.0, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `PROTO 2`, these operations, `STOP`.
pub(crate) fn pickle(operations: &[&[u8]]) -> Vec<u8> {
    [&b"\x80\x02"[..], &operations.concat(), b"."].concat()
}

/// Text of fewer than 256 bytes.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("short");
    [&[0x8c, length], text.as_bytes()].concat()
}

/// An integer of 64 bits.
pub(crate) fn int(value: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &value.to_le_bytes()].concat()
}

/// A tuple of integers.
pub(crate) fn ints(values: &[i64]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|value| int(*value)).collect();
    [b"(", &values[..], b"t"].concat()
}

/// The storage `key`, said to have `count` elements.
pub(crate) fn storage_id(class: &str, key: &str, count: i64) -> Vec<u8> {
    let class = format!("ctorch\n{class}\n");
    [b"(", &text("storage")[..], class.as_bytes(), &text(key), &text("cpu"), &int(count), b"tQ"]
        .concat()
}

/// `_rebuild_tensor_v2` of a storage.
pub(crate) fn tensor(storage: &[u8], offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n("[..],
        storage,
        &int(offset),
        &ints(shape),
        &ints(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

/// A dictionary of one tensor `w`.
pub(crate) fn one(tensor: &[u8]) -> Vec<u8> {
    pickle(&[b"}", &text("w"), tensor, b"s"])
}

/// The four numbers of [`file`].
pub(crate) fn floats() -> Vec<u8> {
    storage_id("FloatStorage", "0", 4)
}

/// The weights of a file as torch would have written them, in a `state_dict`.
pub(crate) fn written(file: &TensorFile) -> Vec<u8> {
    let mut operations = [b"}", &text("state_dict")[..], b"}"].concat();
    let mut entries = Vec::new();
    for (place, (name, weight)) in file.weights().iter().enumerate() {
        let class = match weight.dtype() {
            Dtype::F32 => "FloatStorage",
            Dtype::F16 => "HalfStorage",
            Dtype::Bf16 => "BFloat16Storage",
        };
        let key = place.to_string();
        let shape: Vec<i64> = weight.shape().iter().map(|dim| *dim as i64).collect();
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        let storage = storage_id(class, &key, weight.count() as i64);
        operations.extend([text(name), tensor(&storage, 0, &shape, &strides)].concat());
        operations.push(b's');
        entries.push(Entry::new(&format!("archive/data/{key}"), weight.bytes()));
    }
    operations.push(b's');
    entries.insert(0, Entry::new("archive/data.pkl", &pickle(&[&operations])));
    zip(&entries)
}
