//! Pictures drawn while a training goes on: the same prompts and seeds, ever later matrices.
//!
//! Nothing of the training depends on them: a picture's noise has a generator of its own.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use unwrong::generate::Generation;
use unwrong::picture::{EmbeddedRequest, Format, Quality, encode, read_metadata, write_atomically};
use unwrong::progress::{Event, Silent};
use unwrong::request::LoraRequest;
use unwrong::{GenerateRequest, Pipeline};

use crate::error::{Error, Result};

/// What is drawn, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleOptions {
    /// A picture of each, every time.
    pub prompts: Vec<String>,
    /// What none of them should show.
    pub negative_prompt: Option<String>,
    /// Steps of the training from one time to the next; 0: only before the first and after the
    /// last.
    pub every: u64,
    /// Denoising steps; absent: what the model recommends.
    pub steps: Option<u32>,
    /// Of the first prompt; each has one above the last.
    pub seed: u64,
}

impl SampleOptions {
    /// Refuses what no model can draw.
    pub fn check(&self) -> Result<()> {
        match self.steps.filter(|steps| !(1..=1000).contains(steps)) {
            Some(steps) => Err(Error::OutOfRange {
                field: "sample_steps",
                value: steps.to_string(),
                expected: "1 to 1000".to_owned(),
            }),
            None => Ok(()),
        }
    }
}

/// Pictures of a training, in a folder of their own.
#[derive(Debug, Clone)]
pub struct Samples {
    folder: PathBuf,
    /// What the LoRA is called in the pictures.
    name: String,
    options: SampleOptions,
    requests: Vec<GenerateRequest>,
}

impl Samples {
    /// Refuses prompts that cannot be drawn; reads no weight.
    pub fn new(
        pipeline: &Pipeline,
        folder: &Path,
        name: &str,
        options: SampleOptions,
    ) -> Result<Self> {
        options.check()?;
        let request = |(prompt, place): (&String, u64)| GenerateRequest {
            negative_prompt: options.negative_prompt.clone(),
            seed: Some(options.seed.wrapping_add(place)),
            steps: options.steps,
            ..GenerateRequest::new(prompt)
        };
        let requests: Vec<_> = options.prompts.iter().zip(0..).map(request).collect();
        pipeline.check(&requests, &mut Silent)?;
        Ok(Self { folder: folder.to_owned(), name: name.to_owned(), options, requests })
    }

    /// What is drawn, and how often.
    #[must_use]
    pub fn options(&self) -> &SampleOptions {
        &self.options
    }

    /// Whether pictures are drawn after this step, of a training of `steps`.
    #[must_use]
    pub fn are_due(&self, step: u64, steps: u64) -> bool {
        let every = self.options.every;
        step == 0 || step == steps || every > 0 && step.is_multiple_of(every)
    }

    /// The file of a step and of a prompt, counted from 0.
    #[must_use]
    pub fn path(&self, step: u64, prompt: usize) -> PathBuf {
        self.folder.join(format!("{step:08}-{prompt}.png"))
    }

    /// Draws what there is no file of yet, with the LoRA that `write_lora` writes; `watch` is
    /// told of every picture, and of the way to it.
    pub(crate) fn draw(
        &self,
        pipeline: &Pipeline,
        step: u64,
        write_lora: impl FnOnce(&Path) -> Result<()>,
        watch: &mut dyn FnMut(Happening<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let expected = pipeline.embedded(&self.requests)?;
        let mut missing = Vec::new();
        for (place, expected) in expected.iter().enumerate() {
            let path = self.path(step, place);
            if is_sample(&path, expected) {
                let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
                let size = expected.request.size.map_or([0, 0], |size| [size.width, size.height]);
                let picture = Picture { place, size, bytes: &bytes, is_new: false };
                if watch(Happening::Picture(picture))?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            } else {
                missing.push(place);
            }
        }
        if missing.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let lora = self.folder.join(format!("{}-{step:08}.safetensors", self.name));
        write_lora(&lora)?;
        let drawn = self.draw_with(pipeline, step, &missing, &lora, watch);
        // It stands in the next checkpoint, too. Where a system keeps open files, it stays.
        fs::remove_file(&lora).ok();
        drawn
    }

    fn draw_with(
        &self,
        pipeline: &Pipeline,
        step: u64,
        missing: &[usize],
        lora: &Path,
        watch: &mut dyn FnMut(Happening<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let lora = LoraRequest::new(lora.display().to_string(), 1.0);
        let request = |place: &usize| GenerateRequest {
            loras: vec![lora.clone()],
            ..self.requests[*place].clone()
        };
        let requests: Vec<_> = missing.iter().map(request).collect();
        let mut failure = None;
        let result = pipeline.generate(&requests, &mut |event: Event<'_>| {
            let answer = match event {
                Event::Picture { index, generation, .. } => {
                    self.keep(step, missing[index], generation, watch)
                }
                event => watch(Happening::Drawing(event)),
            };
            answer.unwrap_or_else(|error| {
                failure = Some(error);
                ControlFlow::Break(())
            })
        });
        match (result, failure) {
            (_, Some(failure)) => Err(failure),
            (Ok(_), None) => Ok(ControlFlow::Continue(())),
            (Err(unwrong::Error::Cancelled), None) => Ok(ControlFlow::Break(())),
            (Err(error), None) => Err(error.into()),
        }
    }

    fn keep(
        &self,
        step: u64,
        place: usize,
        generation: &Generation,
        watch: &mut dyn FnMut(Happening<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let Generation { pixels, embedded, .. } = generation;
        let bytes = encode(pixels, embedded, Format::Png, Quality::default())?;
        write_atomically(&self.path(step, place), &bytes, true)?;
        let size = [pixels.width(), pixels.height()];
        watch(Happening::Picture(Picture { place, size, bytes: &bytes, is_new: true }))
    }
}

/// What happens while pictures are drawn.
pub(crate) enum Happening<'a> {
    Drawing(Event<'a>),
    Picture(Picture<'a>),
}

/// A picture that is there.
pub(crate) struct Picture<'a> {
    /// Of its prompt, from 0.
    pub(crate) place: usize,
    /// Width and height.
    pub(crate) size: [u32; 2],
    /// The file.
    pub(crate) bytes: &'a [u8],
    /// Whether it was not there before.
    pub(crate) is_new: bool,
}

/// Whether a file is a picture of this request, whatever LoRA it was drawn with.
fn is_sample(path: &Path, expected: &EmbeddedRequest) -> bool {
    let Ok(found) = read_metadata(path).and_then(|metadata| metadata.into_request(path)) else {
        return false;
    };
    let request = GenerateRequest { loras: Vec::new(), ..found.request };
    found.models == expected.models && request == expected.request
}
