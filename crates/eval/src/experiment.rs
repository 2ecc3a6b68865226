//! Prompts × seeds × variants: what is asked, all of it checked before any model is opened.

use std::ops::Range;

use serde_json::{Value, json};
use unwrong::compare::guidance_scale;
use unwrong::request::GenerateRequest;
use unwrong::{Error, Result};
use unwrong_models::files::ModelDefaults;

use crate::follow::Follow;
use crate::metrics::{self, FOLLOW, METRICS, Metric};
use crate::wrong_request;
use crate::{Seeds, Variant};

/// Most pictures of one experiment.
const MAX_PICTURES: u64 = 100_000;

/// What to draw and compare.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// What the pictures show.
    pub prompts: Vec<String>,
    /// The seeds of each prompt.
    pub seeds: Seeds,
    /// What each prompt and seed is drawn with.
    pub variants: Vec<Variant>,
    /// The variant that the others are compared with.
    pub baseline: usize,
    /// The metric that was named beforehand.
    pub primary: Option<&'static Metric>,
    /// What counts as one observation.
    pub unit: Unit,
    /// How the model is asked whether pictures follow their prompts, if it is.
    pub follow: Option<Follow>,
    /// What all pictures share: models, steps, size.
    pub shared: GenerateRequest,
}

/// What counts as one observation in the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unit {
    /// One prompt with one seed.
    #[default]
    Pair,
    /// One prompt: the mean of its seeds.
    Prompt,
}

impl Unit {
    /// One lower-case word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::Prompt => "prompt",
        }
    }
}

/// One picture of the experiment.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Which prompt.
    pub prompt: usize,
    /// Its seed.
    pub seed: u64,
    /// Which variant.
    pub variant: usize,
    /// What draws it.
    pub request: GenerateRequest,
}

impl Experiment {
    /// Checks everything that can be checked without a model.
    ///
    /// Without variants there are the five defaults; without a baseline it is the first variant.
    pub fn new(
        prompts: Vec<String>,
        seeds: Seeds,
        variants: Vec<Variant>,
        shared: GenerateRequest,
    ) -> Result<Self> {
        let variants = if variants.is_empty() { Variant::defaults() } else { variants };
        for (place, variant) in variants.iter().enumerate() {
            // Some systems take `A.png` and `a.png` for the same file.
            let same = |other: &&Variant| other.name.eq_ignore_ascii_case(&variant.name);
            if let Some(other) = variants[..place].iter().find(same) {
                return Err(wrong_request(
                    format!("two variants are named `{}` and `{}`", other.name, variant.name),
                    "give each a name of its own",
                ));
            }
        }
        if variants.len() < 2 {
            return Err(wrong_request(
                format!(
                    "`{}` is the only variant, and there is nothing to compare",
                    variants[0].name
                ),
                "give `--variant` twice, or not at all for the default ones",
            ));
        }
        let experiment = Self {
            prompts,
            seeds,
            variants,
            baseline: 0,
            primary: None,
            unit: Unit::default(),
            follow: None,
            shared,
        };
        experiment.check()?;
        Ok(experiment)
    }

    /// Compares with the variant of this name.
    pub fn with_baseline(self, name: &str) -> Result<Self> {
        match self.variants.iter().position(|variant| variant.name == name) {
            Some(baseline) => Ok(Self { baseline, ..self }),
            None => Err(wrong_request(
                format!("the baseline `{name}` is none of the variants"),
                format!("the variants: {}", names(self.variants.iter().map(|v| v.name.as_str()))),
            )),
        }
    }

    /// Names the metric that decides, before anything is drawn.
    pub fn with_primary(self, name: &str) -> Result<Self> {
        let measured = self.measured();
        if let Some(metric) = measured.iter().copied().find(|metric| metric.name == name) {
            return Ok(Self { primary: Some(metric), ..self });
        }
        if metrics::named(name).is_some() {
            return Err(wrong_request(
                format!("the primary metric `{name}` needs the model, which is not asked"),
                "say `--follow`, too",
            ));
        }
        Err(wrong_request(
            format!("the primary metric `{name}` is none that is tested"),
            format!("the metrics: {}", names(measured.iter().map(|metric| metric.name))),
        ))
    }

    /// Counts these as observations.
    #[must_use]
    pub fn with_unit(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }

    /// Also asks the model whether pictures follow their prompts.
    #[must_use]
    pub fn with_follow(self, follow: Follow) -> Self {
        Self { follow: Some(follow), ..self }
    }

    fn check(&self) -> Result<()> {
        let pictures = (self.prompts.len() * self.variants.len()) as u64;
        let pictures = pictures.saturating_mul(self.seeds.count());
        if pictures > MAX_PICTURES {
            let counted = |count: u64, what: &str| match count {
                1 => format!("1 {what}"),
                count => format!("{count} {what}s"),
            };
            return Err(Error::Request {
                problem: format!(
                    "{}, {} and {} are {pictures} pictures, expected at most {MAX_PICTURES}",
                    counted(self.prompts.len() as u64, "prompt"),
                    counted(self.seeds.count(), "seed"),
                    counted(self.variants.len() as u64, "variant")
                ),
                hint: Some("ask for fewer seeds or prompts".to_owned()),
            });
        }
        let defaults = ModelDefaults::default();
        self.one_seed(&defaults).iter().try_for_each(|cell| cell.request.check())
    }

    /// Prompts and seeds: the pairs that the statistics count.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.prompts.len() * self.seeds.count() as usize
    }

    /// The metrics that are computed, in the order of a picture's numbers.
    fn measured(&self) -> Vec<&'static Metric> {
        METRICS.iter().chain(self.follow.iter().flat_map(|_| FOLLOW)).collect()
    }

    /// The metrics, the primary one first.
    #[must_use]
    pub fn metrics(&self) -> Vec<&'static Metric> {
        let is_primary = |metric: &Metric| self.primary.is_some_and(|p| p.name == metric.name);
        let (mut first, rest): (Vec<_>, Vec<_>) =
            self.measured().into_iter().partition(|metric| is_primary(metric));
        first.extend(rest);
        first
    }

    /// All pictures: prompt by prompt, seed by seed, variant by variant.
    #[must_use]
    pub fn cells(&self, defaults: &ModelDefaults) -> Vec<Cell> {
        self.cells_of(&self.seeds.range(), defaults)
    }

    /// The pictures of the first seed: all that differs but the noise.
    #[must_use]
    pub fn one_seed(&self, defaults: &ModelDefaults) -> Vec<Cell> {
        let first = self.seeds.range().start;
        self.cells_of(&(first..first + 1), defaults)
    }

    fn cells_of(&self, seeds: &Range<u64>, defaults: &ModelDefaults) -> Vec<Cell> {
        // The method is shown at its own weight of guidance, as `compare` shows it.
        let guidance_scale = Some(guidance_scale(&self.shared, defaults));
        let mut cells = Vec::new();
        for (prompt, text) in self.prompts.iter().enumerate() {
            for seed in seeds.clone() {
                let shared = GenerateRequest {
                    seed: Some(seed),
                    count: None,
                    guidance_scale,
                    ..self.shared.clone()
                };
                for (variant, column) in self.variants.iter().enumerate() {
                    let request = column.request(&shared, text, defaults);
                    cells.push(Cell { prompt, seed, variant, request });
                }
            }
        }
        cells
    }

    /// The name of a picture inside the folder.
    #[must_use]
    pub fn picture(&self, cell: &Cell) -> String {
        let variant = &self.variants[cell.variant].name;
        format!("pictures/{:03}-{}-{variant}.png", cell.prompt, cell.seed)
    }

    /// What tells this experiment from others: no path, no clock, and nothing that only the
    /// report depends on.
    pub(crate) fn manifest(&self) -> Value {
        let mut shared = self.shared.clone();
        for path in
            [&mut shared.model, &mut shared.refiner, &mut shared.vae, &mut shared.wrong_lora]
        {
            *path = path.as_deref().map(file_name);
        }
        for lora in &mut shared.loras {
            lora.path = file_name(&lora.path);
        }
        let mut shared = json!(shared);
        if let Some(fields) = shared.as_object_mut() {
            fields.remove("prompt");
        }
        json!({
            "version": 1,
            "prompts": self.prompts,
            "seeds": self.seeds.to_string(),
            "variants": self.variants,
            "shared": shared,
        })
    }
}

/// The last part of a path: which file it is, wherever it lies.
fn file_name(path: &str) -> String {
    let name = std::path::Path::new(path).file_name();
    name.map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn experiment(variants: &[&str]) -> Result<Experiment> {
        let variants = variants.iter().map(|text| text.parse()).collect::<Result<_>>()?;
        let prompts = vec!["a cat".to_owned(), "a dog".to_owned()];
        Experiment::new(prompts, "3..5".parse()?, variants, GenerateRequest::default())
    }

    #[test]
    fn cells_go_prompt_by_prompt_seed_by_seed_variant_by_variant() {
        let experiment = experiment(&["none", "both"]).unwrap();
        let cells = experiment.cells(&ModelDefaults::default());
        let names: Vec<String> = cells.iter().map(|cell| experiment.picture(cell)).collect();
        assert_eq!(cells.len(), 8);
        assert_eq!(
            [&names[0], &names[1], &names[2], &names[4]],
            [
                "pictures/000-3-none.png",
                "pictures/000-3-both.png",
                "pictures/000-4-none.png",
                "pictures/001-3-none.png"
            ]
        );
        let requests: Vec<_> = cells.iter().map(|cell| &cell.request).collect();
        assert_eq!((requests[1].wrong, requests[1].seed), (Some(1.0), Some(3)));
        assert!(requests.iter().all(|request| request.guidance_scale == Some(13.0)));
    }

    #[test]
    fn without_variants_there_are_five() {
        let experiment = experiment(&[]).unwrap();
        assert_eq!((experiment.variants.len(), experiment.baseline), (5, 0));
        assert_eq!(experiment.clone().with_baseline("keywords").unwrap().baseline, 4);
        let error = experiment.with_baseline("naught").unwrap_err();
        assert!(error.hint().unwrap().ends_with("none, word, lora, both, keywords"));
    }

    #[test]
    fn the_primary_metric_stands_first() {
        let experiment = experiment(&[]).unwrap();
        assert_eq!(experiment.metrics().len(), METRICS.len());
        let primary = experiment.clone().with_primary("colourfulness").unwrap();
        assert_eq!(primary.metrics()[0].name, "colourfulness");
        assert_eq!(primary.metrics().len(), METRICS.len());
        let error = experiment.with_primary("beauty").unwrap_err();
        assert!(error.hint().unwrap().contains("sharpness"));
    }

    #[test]
    fn what_compares_nothing_is_refused() {
        let problem = |variants: &[&str]| experiment(variants).unwrap_err().to_string();
        assert!(problem(&["both"]).contains("nothing to compare"));
        assert!(problem(&["both", "Both:wrong=2"]).contains("named `both` and `Both`"));
        assert!(problem(&["none", "x:wrong=1000"]).contains("`wrong` is 1000"));
        let seeds = "0..1000000000".parse().unwrap();
        let many = Experiment::new(vec!["a".into()], seeds, vec![], GenerateRequest::default());
        let expected = "1 prompt, 1000000000 seeds and 5 variants are 5000000000 pictures";
        assert!(many.unwrap_err().to_string().starts_with(expected));
    }

    #[test]
    fn the_manifest_holds_names_and_no_paths() {
        let shared = GenerateRequest {
            model: Some("/home/me/sdxl".to_owned()),
            wrong_lora: Some("loras/mine.safetensors".to_owned()),
            ..GenerateRequest::default()
        };
        let experiment = Experiment { shared, ..experiment(&[]).unwrap() };
        let text = experiment.manifest().to_string();
        assert!(text.contains(r#""sdxl""#) && text.contains(r#""mine.safetensors""#), "{text}");
        assert!(!text.contains('/'), "{text}");
        assert_eq!(experiment.with_primary("noise").unwrap().manifest().to_string(), text);
    }
}
