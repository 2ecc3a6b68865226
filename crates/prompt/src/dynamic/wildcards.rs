//! Where wildcards come from, and which of them a name in a prompt means.

use std::collections::{BTreeMap, HashSet};

/// Named lists of entries, such as a folder of text files.
pub trait Wildcards {
    /// All names, in any order: `animals/cats` for a file `cats.txt` in a folder `animals`.
    fn names(&self) -> Vec<&str>;

    /// The text of one of the [`names`](Self::names): one entry a line. Blank lines and lines
    /// with `#` in front are none.
    ///
    /// # Errors
    /// A sentence that says why it cannot be read.
    fn read(&self, name: &str) -> Result<String, String>;
}

/// Wildcards in memory. An empty map for a prompt that has none.
impl Wildcards for BTreeMap<String, String> {
    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }

    fn read(&self, name: &str) -> Result<String, String> {
        self.get(name).cloned().ok_or_else(|| "it is gone".to_owned())
    }
}

/// Names that an error shows at most.
const MOST_SHOWN: usize = 5;

/// The names there are, ready to be looked up.
pub(super) struct Names<'a> {
    sorted: Vec<&'a str>,
    set: HashSet<&'a str>,
}

impl<'a> Names<'a> {
    pub(super) fn new(wildcards: &'a dyn Wildcards) -> Self {
        let mut sorted = wildcards.names();
        sorted.sort_unstable();
        sorted.dedup();
        let set = sorted.iter().copied().collect();
        Self { sorted, set }
    }

    /// The names that `pattern` stands for, sorted: itself, or what its `*` and `?` match, or
    /// where that is nothing, what it matches inside any folder.
    pub(super) fn matching(&self, pattern: &str) -> Vec<&'a str> {
        if let Some(name) = self.set.get(pattern) {
            return vec![name];
        }
        let all = |wanted: &dyn Fn(&str) -> bool| -> Vec<&'a str> {
            self.sorted.iter().copied().filter(|name| wanted(name)).collect()
        };
        let found = if pattern.contains(['*', '?']) {
            all(&|name| matches(pattern, name))
        } else {
            Vec::new()
        };
        if found.is_empty() {
            let anywhere = format!("*/{pattern}");
            return all(&|name| matches(&anywhere, name));
        }
        found
    }

    /// A few names, those with the same start first.
    pub(super) fn some(&self, like: &str) -> Vec<String> {
        let common =
            |name: &str| name.bytes().zip(like.bytes()).take_while(|(a, b)| a == b).count();
        let mut names = self.sorted.clone();
        names.sort_by_key(|name| std::cmp::Reverse(common(name)));
        names.iter().take(MOST_SHOWN).map(|&name| name.to_owned()).collect()
    }
}

/// Whether all of `name` matches: `*` is any characters, `/` among them, and `?` is one.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut read) = (0, 0);
    // Where the last `*` stands, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while read < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[read] => {
                // A `?` takes a whole character.
                read += 1;
                while byte == b'?' && name.get(read).is_some_and(|next| next & 0xc0 == 0x80) {
                    read += 1;
                }
                at += 1;
            }
            _ => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                (at, read) = (place + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// The entries of a wildcard's text with their lines, from 1.
pub(super) fn entries(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| (number + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_characters_and_a_question_mark_is_one() {
        for (pattern, name, expected) in [
            ("animals/*", "animals/cats", true),
            ("animals/*", "animals/big/cats", true),
            ("animals/**", "animals/big/cats", true),
            ("colours*", "colours-cold", true),
            ("colours*", "warm-colours", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("c?ts", "cats", true),
            ("c?ts", "cäts", true),
            ("c?ts", "cts", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_name_without_its_folder_is_found_in_any() {
        let map: BTreeMap<_, _> = ["animals/cats", "wild/cats", "dogs", "cats2"]
            .into_iter()
            .map(|name| (name.to_owned(), String::new()))
            .collect();
        let names = Names::new(&map);
        assert_eq!(names.matching("cats"), ["animals/cats", "wild/cats"]);
        assert_eq!(names.matching("dogs"), ["dogs"]);
        assert_eq!(names.matching("*ats"), ["animals/cats", "wild/cats"]);
        assert!(names.matching("ats").is_empty());
        assert_eq!(names.some("cat")[0], "cats2");
    }

    #[test]
    fn blank_lines_and_comments_are_no_entries() {
        let found: Vec<_> =
            entries("\u{feff}# colours\r\nred\r\n\n  dark blue \n #x\n#1").collect();
        assert_eq!(found, [(2, "red"), (4, "dark blue")]);
    }
}
