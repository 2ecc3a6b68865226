//! Whether a picture shows what its prompt says, as the model that drew it sees it.
//!
//! A picture is shown to the model under its own prompt and under some of the experiment's other
//! prompts; see [`unwrong::captions`]. Losses are kept in `follow.jsonl`, so that a run that was
//! stopped, or another baseline, does not ask the model again.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use unwrong::captions::{Captions, Noising};
use unwrong::picture::Pixels;
use unwrong::request::GenerateRequest;
use unwrong::{Pipeline, Result};
use unwrong_models::SplitMix64;

use crate::experiment::Cell;
use crate::{Experiment, Folder, wrong_request};

/// The file of losses.
const FILE: &str = "follow.jsonl";
/// Most levels of noise.
const MOST_LEVELS: usize = 100;

/// How the model is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follow {
    captions: usize,
    levels: usize,
}

/// The model's losses of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Under its own prompt.
    pub own: f64,
    /// Under each of the others.
    pub others: Vec<f64>,
}

impl Fit {
    /// By how much the own prompt fits better than any other, in percent of its loss; negative
    /// where another fits better.
    #[must_use]
    pub fn margin(&self) -> f64 {
        let best = self.others.iter().copied().fold(f64::INFINITY, f64::min);
        if self.own > 0.0 && best.is_finite() { 100.0 * (best - self.own) / self.own } else { 0.0 }
    }
}

impl Follow {
    /// Prompts that a picture is shown under, its own among them.
    pub const CAPTIONS: usize = 8;
    /// Levels of noise.
    pub const LEVELS: usize = 4;

    /// Checks the numbers; fewer prompts than `captions` are taken all.
    pub fn new(captions: usize, levels: usize, prompts: usize) -> Result<Self> {
        if prompts < 2 {
            return Err(wrong_request(
                "there is one prompt, and no other to tell it from",
                "give more prompts, or leave `--follow` out",
            ));
        }
        if captions < 2 {
            return Err(wrong_request(
                format!("`--follow` is {captions}, expected 2 or more"),
                "a picture's own prompt counts, too: 2 shows one other",
            ));
        }
        if !(1..=MOST_LEVELS).contains(&levels) {
            return Err(wrong_request(
                format!("`--follow-levels` is {levels}, expected 1 to {MOST_LEVELS}"),
                "4 tell most prompts apart",
            ));
        }
        Ok(Self { captions: captions.min(prompts), levels })
    }

    /// How many prompts a picture is shown under.
    #[must_use]
    pub fn captions(&self) -> usize {
        self.captions
    }

    /// At how many levels of noise.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// Places of the prompts that pictures of `prompt` are shown under, its own first: the same
    /// for all variants and seeds.
    fn shown(&self, prompt: usize, prompts: usize) -> Vec<usize> {
        let mut others: Vec<usize> = (0..prompts).filter(|other| *other != prompt).collect();
        let mut numbers = SplitMix64::new(prompt as u64);
        let mut shown = vec![prompt];
        while shown.len() < self.captions {
            shown.push(others.swap_remove(numbers.below(others.len() as u64) as usize));
        }
        shown
    }
}

/// What all lines of the file share.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    version: u32,
    model: String,
    levels: usize,
}

/// One picture.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    picture: String,
    /// Tells its pixels from others.
    pixels: String,
    /// The prompts it was shown under, its own first.
    captions: Vec<String>,
    losses: Vec<f64>,
}

/// Asks the model about pictures, pair by pair.
pub(crate) struct Judge<'a> {
    pipeline: &'a Pipeline,
    experiment: &'a Experiment,
    folder: &'a Folder,
    follow: Follow,
    head: Head,
    /// By the name of the picture.
    known: BTreeMap<String, Line>,
    /// What the model has read for a prompt.
    read: Option<(usize, Captions)>,
    /// Whether the file lacks something that is known.
    changed: bool,
}

impl<'a> Judge<'a> {
    /// With what an earlier run found; none where the experiment does not ask.
    pub(crate) fn open(
        pipeline: &'a Pipeline,
        experiment: &'a Experiment,
        folder: &'a Folder,
        cells: &[Cell],
    ) -> Result<Option<Self>> {
        let Some(follow) = experiment.follow else { return Ok(None) };
        let head = Head { version: 1, model: pipeline.weights_identity()?, levels: follow.levels };
        let text = std::fs::read_to_string(folder.file(FILE)).unwrap_or_default();
        let names: HashSet<String> = cells.iter().map(|cell| experiment.picture(cell)).collect();
        let mut known = earlier(&text, &head).unwrap_or_default();
        known.retain(|name, _| names.contains(name));
        Ok(Some(Self {
            pipeline,
            experiment,
            folder,
            follow,
            head,
            known,
            read: None,
            changed: false,
        }))
    }

    /// Losses of one picture.
    pub(crate) fn fit(&mut self, cell: &Cell, pixels: &Pixels) -> Result<Fit> {
        let prompts = &self.experiment.prompts;
        let shown = self.follow.shown(cell.prompt, prompts.len());
        let captions: Vec<String> = shown.iter().map(|place| prompts[*place].clone()).collect();
        let (name, print) = (self.experiment.picture(cell), fingerprint(pixels));
        let known = self.known.get(&name);
        if let Some(line) = known.filter(|line| line.pixels == print && line.captions == captions) {
            return Ok(fit(&line.losses));
        }
        let losses = self.losses(cell, pixels, &captions)?;
        let fit = fit(&losses);
        self.known.insert(name.clone(), Line { picture: name, pixels: print, captions, losses });
        self.changed = true;
        Ok(fit)
    }

    fn losses(&mut self, cell: &Cell, pixels: &Pixels, captions: &[String]) -> Result<Vec<f64>> {
        if self.read.as_ref().is_none_or(|(prompt, _)| *prompt != cell.prompt) {
            let request = |caption: &String| GenerateRequest {
                prompt: caption.clone(),
                ..self.experiment.shared.clone()
            };
            let requests: Vec<_> = captions.iter().map(request).collect();
            self.read = Some((cell.prompt, self.pipeline.captions(&requests)?));
            self.save()?;
        }
        let (_, read) = self.read.as_ref().expect("it was just read");
        // Not the numbers that the picture began as.
        let seed = SplitMix64::at(cell.seed ^ SplitMix64::at(cell.prompt as u64, 0), 0);
        let timesteps = self.pipeline.noise_levels().num_train_timesteps;
        let noising = Noising::even(self.follow.levels, timesteps, seed);
        self.pipeline.caption_losses(read, pixels, &noising)
    }

    /// Writes what is known.
    pub(crate) fn save(&mut self) -> Result<()> {
        if std::mem::take(&mut self.changed) {
            let json = "strings and numbers always make JSON";
            let mut text = serde_json::to_string(&self.head).expect(json) + "\n";
            for line in self.known.values() {
                text += &(serde_json::to_string(line).expect(json) + "\n");
            }
            self.folder.write(FILE, text.as_bytes())?;
        }
        Ok(())
    }
}

/// What an earlier run wrote, if it asked the same model in the same way.
fn earlier(text: &str, head: &Head) -> Option<BTreeMap<String, Line>> {
    let mut lines = text.lines();
    let theirs: Head = serde_json::from_str(lines.next()?).ok()?;
    let lines = lines.filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let sound = |line: &Line| line.losses.len() == line.captions.len() && !line.losses.is_empty();
    (theirs == *head)
        .then(|| lines.filter(sound).map(|line| (line.picture.clone(), line)).collect())
}

fn fit(losses: &[f64]) -> Fit {
    Fit { own: losses[0], others: losses[1..].to_vec() }
}

/// Tells pixels apart: FNV-1a of 64 bits.
fn fingerprint(pixels: &Pixels) -> String {
    let start = 0xcbf2_9ce4_8422_2325u64;
    let hash = pixels
        .rgb()
        .iter()
        .fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mut text = String::new();
    write!(text, "{hash:016x}").expect("a String takes every write");
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn a_picture_is_shown_under_its_own_prompt_and_others_each_once() {
        let follow = Follow::new(5, 4, 9).unwrap();
        for prompt in 0..9 {
            let shown = follow.shown(prompt, 9);
            assert_eq!((shown.len(), shown[0]), (5, prompt));
            assert_eq!(shown.iter().collect::<HashSet<_>>().len(), 5, "{shown:?}");
            assert_eq!(shown, follow.shown(prompt, 9));
        }
        assert_eq!(Follow::new(8, 4, 3).unwrap().shown(1, 3).len(), 3);
    }

    #[test]
    fn the_margin_is_to_the_nearest_other() {
        let fit = |own, others: &[f64]| Fit { own, others: others.to_vec() }.margin();
        assert!((fit(0.5, &[0.9, 0.6]) - 20.0).abs() < 1e-9);
        assert!(fit(0.5, &[0.9, 0.4]) < 0.0);
        assert!(fit(0.0, &[0.0]).abs() < 1e-9);
    }

    #[test]
    fn what_asks_nothing_is_refused() {
        let problem =
            |captions, levels, prompts| Follow::new(captions, levels, prompts).unwrap_err();
        assert!(problem(8, 8, 1).to_string().contains("one prompt"));
        assert!(problem(1, 8, 5).to_string().contains("2 or more"));
        assert!(problem(8, 0, 5).to_string().contains("1 to 100"));
    }

    #[test]
    fn losses_of_another_model_are_not_taken_over() {
        let head = |model: &str| Head { version: 1, model: model.to_owned(), levels: 2 };
        let line = r#"{"picture":"a.png","pixels":"0","captions":["a","b"],"losses":[0.1,0.2]}"#;
        let text = format!("{}\n{line}\nhalf a li", serde_json::to_string(&head("m")).unwrap());
        assert_eq!(earlier(&text, &head("m")).unwrap().len(), 1);
        assert!(earlier(&text, &head("n")).is_none());
        assert!(earlier("", &head("m")).is_none());
    }
}
