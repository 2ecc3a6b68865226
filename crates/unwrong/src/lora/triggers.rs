//! What a LoRA file says about the words that wake it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Where kohya's scripts note how often each tag occurs, folder by folder.
const TAGS: &str = "ss_tag_frequency";
/// Tags that are shown at most.
const MOST_TAGS: usize = 10;

/// The words of a LoRA file, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trigger {
    /// The words.
    pub text: String,
    /// The key of the metadata that has them.
    pub from: &'static str,
    /// How many captions of the training had them, where that is known.
    pub captions: Option<u64>,
}

/// The words that the metadata of a file names: the surest first.
///
/// `modelspec.trigger_phrase` is made for them; programs that train note the instance prompt,
/// kohya's scripts the folders (`10_ohwx cat` means ten times a text of `ohwx cat`) and how often
/// each tag of a caption occurs.
pub(super) fn triggers(metadata: &BTreeMap<String, String>) -> Vec<Trigger> {
    let mut found = Vec::new();
    for key in ["modelspec.trigger_phrase", "instance_prompt", "ss_instance_prompt"] {
        let text = metadata.get(key).map(|text| text.trim()).filter(|text| !text.is_empty());
        found.extend(text.map(|text| Trigger { text: text.to_owned(), from: key, captions: None }));
    }
    let folders = metadata.get(TAGS).and_then(|text| serde_json::from_str(text).ok());
    let Some(Value::Object(folders)) = folders else { return found };
    let mut tags: BTreeMap<&str, u64> = BTreeMap::new();
    for (folder, counts) in &folders {
        if let Some(text) = instance(folder) {
            found.push(Trigger { text: text.to_owned(), from: TAGS, captions: None });
        }
        for (tag, count) in counts.as_object().into_iter().flatten() {
            let sum = tags.entry(tag.trim()).or_default();
            *sum = sum.saturating_add(count.as_u64().unwrap_or(0));
        }
    }
    let mut tags: Vec<(&str, u64)> = tags.into_iter().filter(|(tag, _)| !tag.is_empty()).collect();
    // Equal counts stay in the order of the alphabet.
    tags.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    found.extend(tags.into_iter().take(MOST_TAGS).map(|(tag, count)| Trigger {
        text: tag.to_owned(),
        from: TAGS,
        captions: Some(count),
    }));
    found
}

/// What stands behind the number of repeats in a folder's name.
fn instance(folder: &str) -> Option<&str> {
    let (repeats, text) = folder.split_once('_')?;
    let is_number = !repeats.is_empty() && repeats.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !text.trim().is_empty()).then(|| text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Vec<(String, Option<u64>)> {
        let metadata = pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
        let triggers = triggers(&metadata.collect());
        triggers.into_iter().map(|trigger| (trigger.text, trigger.captions)).collect()
    }

    #[test]
    fn words_come_from_every_place_that_has_them() {
        let tags = r#"{"10_ohwx cat": {"cat": 7, "ink": 9}, "regular": {"cat": 3, "dog": 1}}"#;
        let found = of(&[("ss_tag_frequency", tags), ("modelspec.trigger_phrase", " ohwx ")]);
        let expected = [
            ("ohwx", None),
            ("ohwx cat", None),
            ("cat", Some(10)),
            ("ink", Some(9)),
            ("dog", Some(1)),
        ];
        assert_eq!(found, expected.map(|(text, count)| (text.to_owned(), count)));
    }

    #[test]
    fn metadata_of_any_form_is_harmless() {
        for tags in ["", "{", "[]", "1", r#"{"a": 1}"#, r#"{"_": {"": -1, "x": "y"}}"#] {
            assert!(of(&[("ss_tag_frequency", tags)]).len() < 2, "{tags}");
        }
    }
}
