//! Writes safetensors files: the same tensors and metadata always give the same bytes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::files::FrozenWeight;

/// The bytes of a safetensors file.
///
/// Wide values come first, so that every tensor is aligned; then names count. Metadata is
/// sorted by key.
#[must_use]
pub fn safetensors_bytes(
    tensors: &BTreeMap<String, FrozenWeight>,
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    let mut order: Vec<(&String, &FrozenWeight)> = tensors.iter().collect();
    order.sort_by_key(|(_, weight)| std::cmp::Reverse(weight.dtype().size()));
    let slots: Vec<TensorSlot> = order
        .iter()
        .map(|(name, weight)| TensorSlot {
            name: (*name).clone(),
            dtype: weight.dtype().name().to_owned(),
            shape: weight.shape().to_vec(),
            bytes: weight.bytes().len(),
        })
        .collect();
    let mut bytes = safetensors_header(&slots, metadata);
    bytes.reserve_exact(slots.iter().map(|slot| slot.bytes).sum());
    for (_, weight) in order {
        bytes.extend_from_slice(weight.bytes());
    }
    bytes
}

/// A tensor that a file is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSlot {
    /// Its key.
    pub name: String,
    /// Its number format, as safetensors calls it.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How long it is.
    pub bytes: usize,
}

/// The beginning of a safetensors file whose tensors follow in this order: for files that are
/// larger than the memory.
#[must_use]
pub fn safetensors_header(slots: &[TensorSlot], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut end = 0;
    for slot in slots {
        let start = end;
        end += slot.bytes;
        let entry = json!({
            "dtype": slot.dtype,
            "shape": slot.shape,
            "data_offsets": [start, end],
        });
        header.insert(slot.name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string();
    // The format allows spaces at the end; so the data begin at a multiple of 8.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));

    let mut bytes = Vec::with_capacity(8 + header.len());
    bytes.extend_from_slice(&(header.len() as u64).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Bytes, Dtype, TensorFile};

    #[test]
    fn what_is_written_is_read_again_and_aligned() -> crate::Result<()> {
        let tensors = BTreeMap::from([
            ("a".to_owned(), FrozenWeight::rounded(&[1.0, -2.5, 3.0], Dtype::F16, &[3])),
            ("b".to_owned(), FrozenWeight::from_f32(&[0.1, 0.2], &[2, 1])),
            ("c".to_owned(), FrozenWeight::rounded(&[7.0], Dtype::Bf16, &[])),
        ]);
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let bytes = safetensors_bytes(&tensors, &metadata);
        assert_eq!(bytes, safetensors_bytes(&tensors, &metadata));
        let file = TensorFile::parse(&Bytes::owned(bytes.clone()), "made")?;
        assert_eq!(file.metadata(), &metadata);
        for (name, weight) in &tensors {
            let read = &file.weights()[name];
            assert_eq!((read.dtype(), read.shape()), (weight.dtype(), weight.shape()));
            assert_eq!(read.bytes(), weight.bytes());
            let offset = read.bytes().as_ptr() as usize - file.bytes().as_ptr() as usize;
            assert_eq!(offset % read.dtype().size(), 0, "{name}");
        }
        Ok(())
    }
}
