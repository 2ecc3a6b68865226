//! What `generate`, `compare` and `eval` share: opening models, running requests, writing pictures.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow};
use unwrong::catalog::Catalog;
use unwrong::generate::Generation;
use unwrong::pipeline::{Options, Pipeline};
use unwrong::{GenerateRequest, picture};

use crate::args::{Device, ModelArgs, WritingArgs};
use crate::bars::{Bars, OnPicture, Total};
use crate::destination::Destination;
use crate::failure::wrong_request;
use crate::printer;
use crate::report::Report;

/// The name of the model inside the program.
pub(crate) const DEMO: &str = "demo";
/// Short enough to read out; the original notebook draws from 0 to this.
const LARGEST_RANDOM_SEED: u64 = 100_000_000;

/// Open models, and how pictures are written.
pub(crate) struct Session<'a> {
    pub(crate) pipeline: Pipeline,
    writing: &'a WritingArgs,
    load_seconds: f64,
}

impl<'a> Session<'a> {
    /// Opens what the request names and says what that is.
    pub(crate) fn open(
        request: &GenerateRequest,
        models: &ModelArgs,
        writing: &'a WritingArgs,
    ) -> Result<Self> {
        let started = Instant::now();
        let pipeline = open(request, models)?;
        let load_seconds = started.elapsed().as_secs_f64();
        introduce(&pipeline);
        Ok(Self { pipeline, writing, load_seconds })
    }

    /// Runs requests; `on_picture` gets every picture as soon as it exists.
    pub(crate) fn run<'b>(
        &self,
        requests: &[GenerateRequest],
        on_picture: &'b mut OnPicture<'b>,
    ) -> Result<Vec<Generation>> {
        let mut bars = Bars::new(on_picture);
        let result = self.pipeline.generate(requests, &mut bars);
        bars.explain(result)
    }

    /// Runs pictures of a series; what the first has said is not said again.
    pub(crate) fn run_some<'b>(
        &self,
        requests: &[GenerateRequest],
        places: Range<usize>,
        pictures: u32,
        on_picture: &'b mut OnPicture<'b>,
    ) -> Result<()> {
        let mut bars = Bars::new(on_picture).of_series(places.collect(), pictures as usize);
        let result = self.pipeline.generate(requests, &mut bars);
        bars.explain(result).map(drop)
    }

    /// Runs pictures of a series whose steps `total` counts.
    pub(crate) fn run_of_total<'b>(
        &self,
        requests: &[GenerateRequest],
        total: &Total,
        places: &[usize],
        on_picture: &'b mut OnPicture<'b>,
    ) -> Result<()> {
        let mut bars = Bars::new(on_picture).of_total(total, places.to_vec());
        let result = self.pipeline.generate(requests, &mut bars);
        bars.explain(result).map(drop)
    }

    /// Writes one picture under the next name; the one after where another run took that.
    pub(crate) fn write_into(
        &self,
        destination: &mut Destination,
        generation: &Generation,
    ) -> Result<()> {
        loop {
            let path = destination.name(generation.plan.seed);
            match self.write(&path, generation) {
                Err(error) if destination.is_folder() && is_taken(&error) => {}
                result => return result,
            }
        }
    }

    /// Writes one picture under its name and says its path.
    pub(crate) fn write(&self, path: &Path, generation: &Generation) -> Result<()> {
        let Generation { pixels, embedded, .. } = generation;
        let quality = self.writing.quality.unwrap_or_default();
        picture::write(path, pixels, embedded, quality, self.writing.force)?;
        if self.writing.json {
            let report = Report::new(path, generation, self.load_seconds);
            return printer::data(&serde_json::to_string(&report)?);
        }
        printer::data(&path.display().to_string())
    }
}

/// Says which models are open, and what is odd about them.
pub(crate) fn introduce(pipeline: &Pipeline) {
    printer::note(&match pipeline.refiner() {
        Some(refiner) => format!("model `{}`, refiner `{refiner}`", pipeline.model()),
        None => format!("model `{}`, no refiner", pipeline.model()),
    });
    for warning in pipeline.warnings() {
        printer::note(&format!("warning: {warning}"));
    }
}

/// Says what a picture took, and which of a series it is: its place counts from 0.
pub(crate) fn say_what_was_drawn((picture, pictures): (usize, usize), generation: &Generation) {
    let Generation { timings, plan, .. } = generation;
    let place =
        if pictures > 1 { format!("{} of {pictures}: ", picture + 1) } else { String::new() };
    let (steps, seconds) = (timings.steps.len(), seconds(generation));
    printer::note(&format!("{place}seed {}, {steps} steps, {seconds:.1} s", plan.seed));
}

/// What a picture took, opening the models and writing it left out.
pub(crate) fn seconds(generation: &Generation) -> f64 {
    let timings = &generation.timings;
    timings.encode + timings.steps.iter().sum::<f64>() + timings.decode
}

/// Starts the worker threads and opens the models that the request names.
pub(crate) fn open(request: &GenerateRequest, models: &ModelArgs) -> Result<Pipeline> {
    open_with(request, models.device, models.threads, models.memory)
}

/// As [`open`], where a command has options of its own.
pub(crate) fn open_with(
    request: &GenerateRequest,
    device: Device,
    threads: Option<usize>,
    memory: Option<u64>,
) -> Result<Pipeline> {
    request.check()?;
    use_threads(threads)?;
    let options = Options { memory, ..options(device)? };
    let catalog = Catalog::new().with_builtin(DEMO, unwrong_demo::FILES);
    Ok(Pipeline::open(request, &catalog, &options)?)
}

/// Whether a file of that name has appeared since it was chosen.
fn is_taken(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(unwrong::Error::FileExists { .. }))
}

/// Draws the seed where the user gave none, and says it before the work: so an interrupted
/// run can be repeated, too.
pub(crate) fn settle_seed(request: &mut GenerateRequest) -> Result<()> {
    if request.seed.is_none() {
        let random = getrandom::u64().map_err(|error| anyhow!("no random seed: {error}"))?;
        let seed = random % (LARGEST_RANDOM_SEED + 1);
        printer::note(&format!("seed {seed}, drawn at random"));
        request.seed = Some(seed);
    }
    Ok(())
}

/// More workers than this only wait for each other; tens of thousands stop the machine.
const MOST_THREADS: usize = 256;

/// Starts the worker threads: as many as asked for, by flag or by rayon's own variable.
fn use_threads(threads: Option<usize>) -> Result<()> {
    if let Some(threads) = threads
        && !(1..=MOST_THREADS).contains(&threads)
    {
        return Err(wrong_request(
            format!("`threads` is {threads}, expected 1 to {MOST_THREADS}"),
            "leave it out for all processors",
        ));
    }
    let variable = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok());
    // 0 lets rayon choose: one per processor.
    let threads = threads.or(variable).unwrap_or(0).min(MOST_THREADS);
    // Its source would say the same words again.
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|error| {
        anyhow!("cannot start the worker threads: {error}; fewer may do: `--threads 1`")
    })
}

fn options(device: Device) -> Result<Options> {
    let name = match device {
        Device::Cpu => return Ok(Options::default()),
        Device::Cuda => "cuda",
        Device::Metal => "metal",
    };
    Err(wrong_request(format!("this build has no `{name}` support"), "use `--device cpu`"))
}
