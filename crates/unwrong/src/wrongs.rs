//! The wrong pictures: what the wrong-LoRA is trained on.
//!
//! One request per picture, and each goes through the ordinary pipeline: all keywords, one of
//! them weighted, at one guidance scale. [`WrongFolder`] is where they are kept.
//!
//! Source: the notebook `wrong_image_generator` of minimaxir/sdxl-wrong-lora, which drew 13
//! keywords × 6 guidance scales without negative prompt, LoRA or seed. Here every picture has
//! a seed, so that the set can be drawn again.

mod folder;

use crate::error::{Error, Result};
use crate::plan::random_seed;
use crate::request::{GenerateRequest, MAX_COUNT};

pub use folder::WrongFolder;

/// What goes wrong in pictures, as the method has it.
pub const KEYWORDS: [&str; 13] = [
    "low quality",
    "bad hands",
    "random text",
    "error",
    "missing or extra fingers",
    "cropped",
    "jpeg artifacts",
    "signature",
    "watermark",
    "blurry",
    "ugly",
    "duplicate",
    "mutilated",
];
/// 1.1⁴, in compel's way to write it.
pub const WEIGHT: &str = "++++";
/// From strong to too strong.
pub const GUIDANCE_SCALES: [f64; 6] = [8.0, 9.0, 10.0, 11.0, 12.0, 13.0];

/// Which wrong pictures to draw: every keyword at every guidance scale, `count` times.
#[derive(Debug, Clone, PartialEq)]
pub struct WrongSet {
    /// What every prompt names.
    pub keywords: Vec<String>,
    /// What follows the brackets around one keyword: plus signs, minus signs or a number.
    pub weight: String,
    /// Each makes a picture of each keyword.
    pub guidance_scales: Vec<f64>,
    /// How many of each; the second of all follow the first of all.
    pub count: u32,
}

impl Default for WrongSet {
    /// The 78 pictures of the method.
    fn default() -> Self {
        Self {
            keywords: KEYWORDS.map(str::to_owned).to_vec(),
            weight: WEIGHT.to_owned(),
            guidance_scales: GUIDANCE_SCALES.to_vec(),
            count: 1,
        }
    }
}

impl WrongSet {
    /// One request for each picture; picture `k` has the seed of `request` and `k` more.
    pub fn requests(&self, request: &GenerateRequest) -> Result<Vec<GenerateRequest>> {
        self.check()?;
        if request.prompt_2.is_some() {
            return Err(Error::Request {
                problem: "`prompt_2` is given, but the prompts are made of the keywords".to_owned(),
                hint: Some("leave it out: both text encoders read the same".to_owned()),
            });
        }
        let first = request.seed.unwrap_or_else(random_seed);
        let mut requests = Vec::new();
        for _ in 0..self.count {
            for keyword in 0..self.keywords.len() {
                for guidance_scale in &self.guidance_scales {
                    let picture = requests.len() as u64;
                    let seed = first.checked_add(picture).ok_or(Error::SeedOverflow {
                        seed: first,
                        count: self.pictures() as u32,
                    })?;
                    let alone = GenerateRequest {
                        prompt: self.prompt(keyword),
                        guidance_scale: Some(*guidance_scale),
                        seed: Some(seed),
                        count: None,
                        ..request.clone()
                    };
                    alone.check()?;
                    requests.push(alone);
                }
            }
        }
        Ok(requests)
    }

    /// All keywords, the one at `weighted` in brackets.
    fn prompt(&self, weighted: usize) -> String {
        let keywords = self.keywords.iter().enumerate().map(|(place, keyword)| {
            if place == weighted { format!("({keyword}){}", self.weight) } else { keyword.clone() }
        });
        keywords.collect::<Vec<_>>().join(", ")
    }

    fn pictures(&self) -> usize {
        let each = self.keywords.len().saturating_mul(self.guidance_scales.len());
        each.saturating_mul(self.count as usize)
    }

    fn check(&self) -> Result<()> {
        let refuse = |problem: String, hint: &str| {
            Err(Error::Request { problem, hint: Some(hint.to_owned()) })
        };
        let signs = ['+', '-'].iter().any(|sign| {
            !self.weight.is_empty() && self.weight.chars().all(|character| character == *sign)
        });
        let number =
            self.weight.parse().is_ok_and(|weight: f64| weight.is_finite() && weight > 0.0)
                && self.weight.starts_with(|first: char| first.is_ascii_digit());
        if !signs && !number {
            return refuse(
                format!("the weight is `{}`", self.weight),
                "give plus signs, such as `++++`, or a number, such as `1.4641`",
            );
        }
        if self.keywords.iter().any(|keyword| keyword.trim().is_empty()) {
            return refuse("a keyword is empty".to_owned(), "leave it out");
        }
        let pictures = self.pictures();
        if pictures == 0 || pictures > MAX_COUNT as usize {
            return refuse(
                format!("these are {pictures} pictures, expected 1 to {MAX_COUNT}"),
                "give keywords, guidance scales and a count",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_method_is_78_pictures_of_13_keywords() {
        let request = GenerateRequest { seed: Some(5), ..GenerateRequest::default() };
        let requests = WrongSet::default().requests(&request).unwrap();
        assert_eq!(requests.len(), 78);
        assert_eq!(
            requests[6].prompt,
            "low quality, (bad hands)++++, random text, error, missing or extra fingers, cropped, \
             jpeg artifacts, signature, watermark, blurry, ugly, duplicate, mutilated"
        );
        assert!(requests[77].prompt.ends_with(", duplicate, (mutilated)++++"));
        let scales: Vec<_> = requests[..6].iter().filter_map(|one| one.guidance_scale).collect();
        assert_eq!(scales, GUIDANCE_SCALES);
        assert_eq!((requests[0].seed, requests[77].seed), (Some(5), Some(82)));
        assert!(requests.iter().all(|one| one.negative_prompt.is_none() && one.wrong.is_none()));
    }

    #[test]
    fn more_of_each_begin_with_one_of_each() {
        let request = GenerateRequest { seed: Some(0), ..GenerateRequest::default() };
        let one = WrongSet::default().requests(&request).unwrap();
        let two = WrongSet { count: 2, ..WrongSet::default() }.requests(&request).unwrap();
        assert_eq!((one.len(), two.len()), (78, 156));
        assert_eq!(one, two[..78]);
        assert_eq!(one[3].prompt, two[81].prompt);
        assert_ne!(one[3].seed, two[81].seed);
    }

    #[test]
    fn a_set_without_pictures_or_with_an_odd_weight_is_refused() {
        let request = GenerateRequest::default();
        let set = WrongSet::default;
        for wrong in [
            WrongSet { keywords: vec![], ..set() },
            WrongSet { keywords: vec![" ".to_owned()], ..set() },
            WrongSet { guidance_scales: vec![], ..set() },
            WrongSet { guidance_scales: vec![f64::NAN], ..set() },
            WrongSet { count: 0, ..set() },
            WrongSet { count: u32::MAX, ..set() },
            WrongSet { weight: String::new(), ..set() },
            WrongSet { weight: "+-".to_owned(), ..set() },
            WrongSet { weight: "much".to_owned(), ..set() },
            WrongSet { weight: "inf".to_owned(), ..set() },
            WrongSet { weight: "0".to_owned(), ..set() },
        ] {
            assert!(wrong.requests(&request).is_err(), "{wrong:?}");
        }
        let number = WrongSet { weight: "1.5".to_owned(), ..set() };
        assert!(number.requests(&request).unwrap()[0].prompt.starts_with("(low quality)1.5, "));
        let last = GenerateRequest { seed: Some(u64::MAX), ..request };
        assert!(matches!(set().requests(&last), Err(Error::SeedOverflow { .. })));
    }
}
