//! The files that a picture records, and those that the command line names beside it.

use std::path::Path;

use unwrong::request::{EmbeddingRequest, LoraRequest};

/// A file with more about it than where it is.
pub(crate) trait Named: Clone {
    fn path(&self) -> &str;
    /// The same at another place.
    fn at(&self, path: &str) -> Self;
    /// Whether it says nothing but where it is.
    fn is_place(&self) -> bool;
}

impl Named for LoraRequest {
    fn path(&self) -> &str {
        &self.path
    }

    fn at(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    fn is_place(&self) -> bool {
        *self == Self::new(&*self.path, 1.0)
    }
}

impl Named for EmbeddingRequest {
    fn path(&self) -> &str {
        &self.path
    }

    fn at(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    fn is_place(&self) -> bool {
        self.word.is_none()
    }
}

/// The name without folders.
pub(crate) fn file_name(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path)
}

/// Whether one of the files of `given` is one of `recorded`, by name.
pub(crate) fn names_one_of<T: Named>(given: &[T], recorded: &[T]) -> bool {
    given.iter().any(|own| recorded.iter().any(|other| has_name_of(own, other)))
}

/// What is `recorded`, where `given` says it is.
///
/// A given file without a scale or word says where the recorded one of its name is; with one it
/// stands in its place. Others come behind. Where no name is recorded, `given` is all there is.
pub(crate) fn located<T: Named>(recorded: &[T], given: &[T]) -> Vec<T> {
    if !names_one_of(given, recorded) {
        return if given.is_empty() { recorded.to_vec() } else { given.to_vec() };
    }
    let mut all = Vec::new();
    for (place, own) in recorded.iter().enumerate() {
        let earlier = recorded[..place].iter().filter(|other| has_name_of(*other, own)).count();
        let alike: Vec<&T> = given.iter().filter(|other| has_name_of(*other, own)).collect();
        match (alike.get(earlier), alike.last()) {
            (None, None) => all.push(own.clone()),
            (Some(other), _) if !other.is_place() => all.push((*other).clone()),
            (Some(other), _) => all.push(own.at(other.path())),
            // Named twice in the picture, and once here.
            (None, Some(last)) if last.is_place() => all.push(own.at(last.path())),
            (None, Some(_)) => {}
        }
    }
    for (place, own) in given.iter().enumerate() {
        let earlier = given[..place].iter().filter(|other| has_name_of(*other, own)).count();
        if recorded.iter().filter(|other| has_name_of(*other, own)).count() <= earlier {
            all.push(own.clone());
        }
    }
    all
}

fn has_name_of<T: Named>(one: &T, other: &T) -> bool {
    file_name(one.path()) == file_name(other.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loras(texts: &[&str]) -> Vec<LoraRequest> {
        texts.iter().map(|text| text.parse().expect("it is a LoRA")).collect()
    }

    #[test]
    fn a_given_file_says_where_the_recorded_one_of_its_name_is() {
        let recorded = ["a.pt:-0.5:blocks=IN=0", "b.pt:0.3"];
        for (given, expected) in [
            (&[][..], &recorded[..]),
            (&["lo/a.pt"], &["lo/a.pt:-0.5:blocks=IN=0", "b.pt:0.3"]),
            (&["lo/b.pt", "a.pt"], &["a.pt:-0.5:blocks=IN=0", "lo/b.pt:0.3"]),
            (&["lo/a.pt:0.9"], &["lo/a.pt:0.9", "b.pt:0.3"]),
            (&["lo/a.pt", "c.pt:2"], &["lo/a.pt:-0.5:blocks=IN=0", "b.pt:0.3", "c.pt:2"]),
            (&["c.pt"], &["c.pt"]),
        ] {
            assert_eq!(located(&loras(&recorded), &loras(given)), loras(expected), "{given:?}");
        }
    }

    #[test]
    fn a_file_that_is_recorded_twice_is_located_once_or_twice() {
        let recorded = loras(&["a.pt:0.5:te=0", "a.pt:0.3"]);
        for (given, expected) in [
            (&["x/a.pt"][..], &["x/a.pt:0.5:te=0", "x/a.pt:0.3"][..]),
            (&["x/a.pt", "y/a.pt"], &["x/a.pt:0.5:te=0", "y/a.pt:0.3"]),
            (&["x/a.pt:2"], &["x/a.pt:2"]),
        ] {
            assert_eq!(located(&recorded, &loras(given)), loras(expected), "{given:?}");
        }
    }
}
