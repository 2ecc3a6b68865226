//! A JSON object read field by field, with errors that name the field.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A JSON object and the name of its file. A field that is `null` counts as absent.
pub(super) struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(super) fn parse(text: &str, path: &str) -> Result<Self> {
        let map = serde_json::from_str(text).map_err(|error| Error::Malformed {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Self { path: path.to_owned(), map })
    }

    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// A whole number.
    pub(super) fn count(
        &self,
        field: &str,
        default: Option<usize>,
        range: RangeInclusive<usize>,
    ) -> Result<usize> {
        let found = match self.get(field) {
            Some(value) => as_count(value),
            None => default,
        };
        found
            .filter(|count| range.contains(count))
            .ok_or_else(|| self.wrong(field, &between("a whole number", &range)))
    }

    /// A list of whole numbers of this length, or one number for all.
    pub(super) fn counts(
        &self,
        field: &str,
        default: Option<usize>,
        length: usize,
        range: RangeInclusive<usize>,
    ) -> Result<Vec<usize>> {
        let Some(Value::Array(list)) = self.get(field) else {
            return Ok(vec![self.count(field, default, range)?; length]);
        };
        let counts: Option<Vec<usize>> = list
            .iter()
            .map(|value| as_count(value).filter(|count| range.contains(count)))
            .collect();
        counts
            .filter(|counts| counts.len() == length)
            .ok_or_else(|| self.wrong(field, &between(&format!("{length} numbers"), &range)))
    }

    /// A list of one to `MOST_LAYERS` whole numbers.
    pub(super) fn list(&self, field: &str, range: RangeInclusive<usize>) -> Result<Vec<usize>> {
        let length = match self.get(field) {
            Some(Value::Array(list)) if (1..=super::MOST_LAYERS).contains(&list.len()) => {
                list.len()
            }
            _ => return Err(self.wrong(field, &between("a list of whole numbers", &range))),
        };
        self.counts(field, None, length, range)
    }

    /// A whole number, possibly written as a list of equal ones.
    pub(super) fn uniform(
        &self,
        field: &str,
        default: Option<usize>,
        range: RangeInclusive<usize>,
    ) -> Result<usize> {
        let Some(Value::Array(list)) = self.get(field) else {
            return self.count(field, default, range);
        };
        let first = list.first().and_then(as_count).filter(|first| range.contains(first));
        first
            .filter(|first| list.iter().all(|value| as_count(value) == Some(*first)))
            .ok_or_else(|| self.wrong(field, &between("one whole number for all blocks", &range)))
    }

    pub(super) fn flag(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(field, "true or false")),
        }
    }

    /// A number above 0 and up to `most`.
    pub(super) fn positive(&self, field: &str, default: f64, most: f64) -> Result<f64> {
        let found = self.get(field).map_or(Some(default), Value::as_f64);
        found
            .filter(|number| *number > 0.0 && *number <= most)
            .ok_or_else(|| self.wrong(field, &format!("a number above 0, up to {most}")))
    }

    pub(super) fn texts(&self, field: &str) -> Result<Vec<&str>> {
        let list = self.get(field).and_then(Value::as_array);
        list.and_then(|list| list.iter().map(Value::as_str).collect())
            .ok_or_else(|| self.wrong(field, "a list of names"))
    }

    /// One of the named values.
    pub(super) fn choice<T: Copy>(
        &self,
        field: &str,
        default: &str,
        choices: &[(&str, T)],
    ) -> Result<T> {
        let found = self.get(field).map_or(Some(default), Value::as_str);
        let chosen = choices.iter().find(|(name, _)| Some(*name) == found);
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
            self.wrong(field, &names.join(" or "))
        })
    }

    /// Refuses any value but these; absent and `null` pass as well.
    pub(super) fn only<V: Into<Value>>(&self, field: &str, value: V) -> Result<()> {
        let expected = value.into();
        match self.get(field) {
            Some(found) if !same(found, &expected) => {
                Err(self.wrong(field, &format!("`{}`", plain(&expected))))
            }
            _ => Ok(()),
        }
    }

    /// The error that a field has a wrong value, or none.
    pub(super) fn wrong(&self, field: &str, expected: &str) -> Error {
        let found = self.map.get(field).map_or_else(|| "absent".to_owned(), plain);
        Error::Config {
            field: field.to_owned(),
            // A config is free to hold a megabyte here; a message is not.
            found: shortened(&found),
            expected: expected.to_owned(),
            path: self.path.clone(),
        }
    }
}

/// Numbers may be written `2` or `2.0`.
fn as_count(value: &Value) -> Option<usize> {
    if let Some(number) = value.as_u64() {
        return usize::try_from(number).ok();
    }
    let number = value.as_f64()?;
    let whole = number.fract() == 0.0 && (0.0..=2_f64.powi(53)).contains(&number);
    whole.then_some(number as usize)
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if (a - b).abs() < f64::EPSILON)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

fn between(what: &str, range: &RangeInclusive<usize>) -> String {
    match (range.start(), range.end()) {
        (least, most) if least == most => least.to_string(),
        (least, most) => format!("{what} from {least} to {most}"),
    }
}
