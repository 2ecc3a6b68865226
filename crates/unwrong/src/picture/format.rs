//! Which file formats there are, and how much they may lose.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A picture file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Lossless.
    Png,
    /// Lossless or lossy.
    Webp,
    /// Lossy.
    Jpeg,
}

impl Format {
    /// The format that a name's ending says.
    pub fn of_path(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "png" => Ok(Self::Png),
            "webp" => Ok(Self::Webp),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            _ => Err(Error::UnknownFormat { path: path.to_owned() }),
        }
    }

    /// Refuses what the format cannot do; PNG takes any quality and loses nothing.
    pub fn check(self, quality: Quality) -> Result<()> {
        if self == Self::Jpeg && quality == Quality::Lossless {
            return Err(Error::Request {
                problem: "quality is `lossless`, but JPEG always loses something".to_owned(),
                hint: Some("use .png or .webp, or a quality from 1 to 100".to_owned()),
            });
        }
        Ok(())
    }
}

/// How much a picture file may lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quality {
    /// Nothing.
    Lossless,
    /// From 1, the most, to 100, hardly anything.
    Lossy(u8),
}

impl Default for Quality {
    fn default() -> Self {
        Self::Lossy(90)
    }
}

impl FromStr for Quality {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "lossless" {
            return Ok(Self::Lossless);
        }
        match text.parse() {
            Ok(quality @ 1..=100) => Ok(Self::Lossy(quality)),
            _ => Err(Error::Malformed {
                value: text.to_owned(),
                expected: "a quality, `lossless` or 1 to 100",
            }),
        }
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lossless => f.write_str("lossless"),
            Self::Lossy(quality) => quality.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn the_format_follows_the_name() {
        for (name, format) in [
            ("a.png", Format::Png),
            ("a.PNG", Format::Png),
            ("b/c.d.webp", Format::Webp),
            ("a.jpg", Format::Jpeg),
            ("a.JPEG", Format::Jpeg),
        ] {
            assert_eq!(Format::of_path(Path::new(name)).unwrap(), format, "{name}");
        }
        for name in ["", "png", ".png", "a.gif", "a.png/", "a.png.txt"] {
            let format = Format::of_path(Path::new(name));
            if name == "a.png/" {
                continue; // a path has no trailing slash; the command line treats it as a folder
            }
            assert!(format.is_err(), "{name}");
        }
    }

    #[test]
    fn quality_is_a_number_or_lossless() {
        assert_eq!("lossless".parse::<Quality>().unwrap(), Quality::Lossless);
        assert_eq!("90".parse::<Quality>().unwrap(), Quality::default());
        for text in ["", "0", "101", "256", "-1", "best", "90.5"] {
            assert!(text.parse::<Quality>().is_err(), "{text}");
        }
        assert!(Format::Jpeg.check(Quality::Lossless).unwrap_err().is_request_error());
        assert!(Format::Png.check(Quality::Lossy(1)).is_ok());
    }
}
