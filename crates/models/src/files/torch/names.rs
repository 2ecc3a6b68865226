//! The tensors of a pickle under names, as a safetensors file would have them.
//!
//! Checkpoints keep their weights under `state_dict`: then those are meant. Other dictionaries
//! in dictionaries are joined with dots. A number that is no tensor (an alpha, say) is a tensor
//! of one value; text beside the tensors is metadata.

use std::collections::BTreeMap;

use super::pickle::Pickle;
use super::refusal::{DAMAGED, Refusal, Result};
use super::value::{Heap, Tensor, Value};
use crate::files::tensor_file::{check_name, shown};

/// Dictionaries that lie deeper hold no weights, but the state of a training.
const DEEPEST: usize = 4;
/// Names of SDXL take 0.4 MB, counted so. A dictionary can be in many others, and the same text
/// be many names, so the pickle's length is no limit to this.
const MOST_TEXT: usize = 16 << 20;
/// What a name takes beside its text.
const PER_NAME: usize = 64;

/// The tensors of a pickle under names.
#[derive(Debug)]
pub(super) struct Named<'a> {
    pub(super) tensors: BTreeMap<String, Found<'a>>,
    pub(super) texts: BTreeMap<String, String>,
}

/// What a name stands for.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Tensor(&'a Tensor<'a>),
    /// Little-endian.
    Number {
        dtype: &'static str,
        bytes: [u8; 8],
    },
}

impl<'a> Named<'a> {
    pub(super) fn of(pickle: &'a Pickle<'a>) -> Result<Self> {
        let Value::Dict(outer) = pickle.value else {
            return Err(Refusal::new(format!(
                "it holds {}, expected a dictionary of tensors",
                pickle.value.kind()
            )));
        };
        let pairs = &pickle.heap.dicts[outer as usize];
        let mut inner = pairs.iter().filter_map(|(key, value)| match (key, value) {
            (Value::Text("state_dict"), Value::Dict(dict)) => Some(*dict),
            _ => None,
        });
        let chosen = inner.next().unwrap_or(outer);
        if inner.next().is_some() {
            return Err(damaged("it holds `state_dict` twice".to_owned()));
        }
        let named = Self { tensors: BTreeMap::new(), texts: BTreeMap::new() };
        let mut walk = Walk { heap: &pickle.heap, named, above: Vec::new(), left: MOST_TEXT };
        walk.dict("", chosen)?;
        Ok(walk.named)
    }
}

struct Walk<'a> {
    heap: &'a Heap<'a>,
    named: Named<'a>,
    /// The dictionaries that lead to this one.
    above: Vec<u32>,
    /// Bytes of text that may still be taken.
    left: usize,
}

impl<'a> Walk<'a> {
    fn dict(&mut self, prefix: &str, dict: u32) -> Result<()> {
        if self.above.contains(&dict) {
            return Err(damaged("it has a dictionary that holds itself".to_owned()));
        }
        if self.above.len() == DEEPEST {
            return Ok(());
        }
        self.above.push(dict);
        for (key, value) in &self.heap.dicts[dict as usize] {
            self.entry(prefix, *key, *value)?;
        }
        self.above.pop();
        Ok(())
    }

    fn entry(&mut self, prefix: &str, key: Value<'a>, value: Value<'a>) -> Result<()> {
        let number;
        let key = match key {
            Value::Text(key) => key,
            Value::Int(key) => {
                number = key.to_string();
                &number
            }
            other => {
                let reason = format!("it has {} as a key, expected text", other.kind());
                return Err(Refusal::new(reason));
            }
        };
        self.spend(prefix.len() + key.len() + PER_NAME)?;
        let name = || format!("{prefix}{key}");
        let found = match value {
            Value::Tensor(tensor) => Found::Tensor(&self.heap.tensors[tensor as usize]),
            Value::Int(number) => Found::Number { dtype: "I64", bytes: number.to_le_bytes() },
            Value::Float(number) => Found::Number { dtype: "F64", bytes: number.to_le_bytes() },
            Value::Dict(dict) => return self.dict(&format!("{}.", name()), dict),
            Value::Text(text) if prefix.is_empty() => {
                check_name(key).map_err(damaged)?;
                self.spend(text.len())?;
                self.named.texts.insert(name(), text.to_owned());
                return Ok(());
            }
            _ => return Ok(()),
        };
        let name = name();
        check_name(&name).map_err(damaged)?;
        if self.named.tensors.contains_key(&name) {
            return Err(damaged(format!("it holds `{}` twice", shown(&name))));
        }
        self.named.tensors.insert(name, found);
        Ok(())
    }

    fn spend(&mut self, length: usize) -> Result<()> {
        let left = self.left.checked_sub(length);
        self.left =
            left.ok_or_else(|| damaged(format!("its names take more than {MOST_TEXT} bytes")))?;
        Ok(())
    }
}

fn damaged(reason: String) -> Refusal {
    Refusal::new(reason).hint(DAMAGED)
}
