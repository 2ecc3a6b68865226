//! Which seeds every prompt is drawn with.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use unwrong::{Error, Result};

use crate::wrong_request;

/// Seeds that follow each other, `0..8` without the 8, or one of them, `7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(Range<u64>);

impl Seeds {
    /// All of them, in order.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.0.clone()
    }

    /// How many; at least one.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.end - self.0.start
    }
}

impl FromStr for Seeds {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || Error::Malformed {
            value: text.to_owned(),
            expected: "a range of seeds such as `0..8`, which is 0 to 7, or one seed",
        };
        let number = |text: &str| -> Result<u64> {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            if digits { text.parse().map_err(|_| malformed()) } else { Err(malformed()) }
        };
        let Some((start, end)) = text.split_once("..") else {
            let seed = number(text)?;
            return Ok(Self(seed..seed.checked_add(1).ok_or_else(malformed)?));
        };
        let (start, end) = (number(start)?, number(end)?);
        if start >= end {
            return Err(wrong_request(
                format!("`{text}` holds no seed: the end is not part of it"),
                if start == end {
                    format!("for the one seed, say `{start}`")
                } else {
                    format!("turn it round: `{end}..{start}`")
                },
            ));
        }
        Ok(Self(start..end))
    }
}

impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.0.start, self.0.end)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn a_range_ends_before_its_end() {
        let seeds: Seeds = "3..6".parse().unwrap();
        assert_eq!(seeds.range().collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(("7".parse::<Seeds>().unwrap().count(), seeds.to_string()), (1, "3..6".into()));
    }

    #[test]
    fn a_range_without_seeds_says_what_to_write() {
        let error = "5..2".parse::<Seeds>().unwrap_err();
        assert_eq!(error.hint().unwrap(), "turn it round: `2..5`");
        assert_eq!(
            "5..5".parse::<Seeds>().unwrap_err().hint().unwrap(),
            "for the one seed, say `5`"
        );
        for text in ["", "a", "-1", "+1", "1..", "..2", "1...3", "1..=3", "0..99999999999999999999"]
        {
            let error = text.parse::<Seeds>().unwrap_err();
            assert!(error.to_string().contains("such as `0..8`"), "{text}: {error}");
        }
    }
}
