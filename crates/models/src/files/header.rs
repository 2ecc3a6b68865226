//! The header of a safetensors file, checked before anything believes it.
//!
//! Eight bytes of length, then JSON: name → dtype, shape, byte range. The rules are those of
//! the `safetensors` crate 0.8 (ranges without overlap or hole, lengths that fit shape and
//! dtype, nothing after the last), with messages that name the tensor, and one rule more: no
//! name twice, and none that could not be shown.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::error::{Error, Result};
use crate::files::Foreign;
use crate::files::tensor_file::{check_name, shown};

/// Longest header the format allows.
const LONGEST_HEADER: u64 = 100_000_000;

/// What the header says, with every range inside the file.
#[derive(Debug)]
pub(super) struct Header {
    /// Where the data begins in the file.
    pub(super) data_start: usize,
    /// In the order of the data.
    pub(super) tensors: Vec<(String, TensorEntry)>,
    /// `__metadata__`.
    pub(super) metadata: BTreeMap<String, String>,
}

/// One tensor as the header describes it; offsets count from the start of the data.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct TensorEntry {
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) data_offsets: (usize, usize),
}

impl Header {
    pub(super) fn parse(bytes: &[u8], path: &str) -> Result<Self> {
        let wrong = |reason: String| Error::Header { path: path.to_owned(), reason };
        if let Some(found) = Foreign::recognise(bytes) {
            return Err(Error::NotSafetensors { path: path.to_owned(), found });
        }
        let (length, rest) = bytes.split_first_chunk::<8>().expect("fewer bytes are foreign");
        let length = u64::from_le_bytes(*length);
        if length > LONGEST_HEADER || rest.first().is_some_and(|first| *first != b'{') {
            let found = Foreign::Unknown;
            return Err(Error::NotSafetensors { path: path.to_owned(), found });
        }
        let Some(json) = usize::try_from(length).ok().and_then(|length| rest.get(..length)) else {
            return Err(truncated(path, bytes.len(), 8 + length));
        };
        let json =
            std::str::from_utf8(json).map_err(|_| wrong("it is not UTF-8 text".to_owned()))?;
        let Entries { mut tensors, metadata } =
            serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;

        tensors.sort_by(|(a_name, a), (b_name, b)| {
            a.data_offsets.cmp(&b.data_offsets).then_with(|| a_name.cmp(b_name))
        });
        let mut end = 0;
        for (name, tensor) in &tensors {
            end = tensor.check(name, end).map_err(wrong)?;
        }
        let data_start = 8 + json.len();
        let need = (data_start as u64).saturating_add(end as u64);
        match (bytes.len() as u64).checked_sub(need) {
            None => Err(truncated(path, bytes.len(), need)),
            Some(0) => Ok(Self { data_start, tensors, metadata }),
            Some(extra) => Err(wrong(format!("{extra} bytes follow after the last tensor"))),
        }
    }
}

impl TensorEntry {
    /// Checks the entry against its neighbour, which ended at `previous_end`; returns its end.
    fn check(&self, name: &str, previous_end: usize) -> Result<usize, String> {
        check_name(name)?;
        let (start, end) = self.data_offsets;
        if start > end {
            return Err(format!("`{name}` ends at {end}, before its start at {start}"));
        }
        if start < previous_end {
            return Err(format!("`{name}` starts at {start}, inside the tensor before it"));
        }
        if start > previous_end {
            return Err(format!(
                "{} bytes before `{name}` belong to nothing",
                start - previous_end
            ));
        }
        let bits = bits_per_value(&self.dtype)
            .ok_or_else(|| format!("`{name}` has the unknown dtype `{}`", shown(&self.dtype)))?;
        let bytes = self
            .shape
            .iter()
            .try_fold(1_usize, |product, dim| product.checked_mul(*dim))
            .and_then(|count| count.checked_mul(bits))
            .filter(|bits| bits.is_multiple_of(8))
            .map(|bits| bits / 8);
        if bytes != Some(end - start) {
            return Err(format!(
                "`{name}` is {} {:?}, which does not fit its {} bytes",
                self.dtype,
                self.shape,
                end - start
            ));
        }
        Ok(end)
    }
}

/// Every dtype the format knows; which ones the networks read is decided per weight.
fn bits_per_value(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ"
        | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

fn truncated(path: &str, have: usize, need: u64) -> Error {
    Error::Truncated { path: path.to_owned(), have: have as u64, need }
}

/// The JSON object, with names seen twice refused: which of the two would count?
struct Entries {
    tensors: Vec<(String, TensorEntry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut seen = std::collections::HashSet::new();
                let mut entries = Entries { tensors: Vec::new(), metadata: BTreeMap::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!(
                            "`{}` is there twice",
                            shown(&name)
                        )));
                    }
                    if name == "__metadata__" {
                        let metadata: Option<BTreeMap<String, String>> = map.next_value()?;
                        entries.metadata = metadata.unwrap_or_default();
                    } else {
                        entries.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Object)
    }
}
