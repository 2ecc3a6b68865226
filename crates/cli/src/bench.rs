//! `unwrong bench`: what one part of the work costs, in this process and nothing else in it.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use unwrong::bench::{Case, Network};
use unwrong::progress::{Event, Phase};
use unwrong::request::Weights;
use unwrong::{Error, GenerateRequest, Pipeline};

use crate::args::{BenchArgs, Row};
use crate::failure::wrong_request;
use crate::memory::{self, AnonymousPeak};
use crate::{interrupt, printer, session};

/// A line of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    row: &'static str,
    model: String,
    /// Absent for the text encoders, which have none.
    size: Option<String>,
    batch: usize,
    /// Of the median run.
    seconds: f64,
    runs: Vec<f64>,
    peak_anonymous_bytes: Option<u64>,
    peak_resident_bytes: Option<u64>,
    threads: usize,
    level: &'static str,
}

/// Measures one row and prints it.
pub(crate) fn run(arguments: &BenchArgs) -> Result<()> {
    let started = Instant::now();
    let memory = AnonymousPeak::watch();
    let row = arguments.row;
    if row.network().is_none() && (arguments.runs > 1 || arguments.batch.is_some_and(|n| n > 1)) {
        return Err(wrong_request(
            format!("`{}` is timed from the start of the program, once", row.name()),
            "leave `--runs` and `--batch` out",
        ));
    }
    let request = arguments.request();
    check_options(row, &request)?;
    interrupt::end_at_once()?;
    let pipeline = session::open(&request, &arguments.models)?;
    let size = request.size.unwrap_or_else(|| pipeline.native_size());
    let batch = arguments.batch.map(usize::from);
    let batch = batch.or(row.network().map(Network::usual_batch)).unwrap_or(1);

    let runs = match row.network() {
        Some(network) => {
            let case = Case { size, batch, runs: arguments.runs.into() };
            pipeline.bench(network, &request, case)?
        }
        None => vec![since(started, row, &pipeline, &request)?],
    };
    let report = Report {
        row: row.name(),
        model: pipeline.model().to_owned(),
        size: (row != Row::TextEncoders).then(|| size.to_string()),
        batch,
        seconds: median(&runs),
        runs,
        peak_anonymous_bytes: memory.bytes(),
        peak_resident_bytes: memory::peak_bytes(),
        threads: rayon::current_num_threads(),
        level: pipeline.level(),
    };
    if arguments.json {
        return printer::data(&serde_json::to_string(&report)?);
    }
    printer::data(&report.sentence())
}

/// Refuses what the row would not look at.
fn check_options(row: Row, request: &GenerateRequest) -> Result<()> {
    let is_of_picture = matches!(row, Row::FirstStep | Row::Picture);
    let refuse = |what: &str| {
        let problem = format!("`{}` does not use {what}", row.name());
        Err(wrong_request(problem, "leave it out, or measure `unet`"))
    };
    let has_lora = !request.loras.is_empty() || request.wrong.is_some();
    if has_lora && row != Row::Unet && !is_of_picture {
        return refuse("LoRA files");
    }
    let is_unet = matches!(row, Row::Unet | Row::RefinerUnet);
    if request.weights == Some(Weights::Int8) && !is_unet && !is_of_picture {
        return refuse("`--weights int8`");
    }
    Ok(())
}

/// Seconds from `started` to the first call of the UNet, or to the finished pixels.
fn since(
    started: Instant,
    row: Row,
    pipeline: &Pipeline,
    request: &GenerateRequest,
) -> Result<f64> {
    let mut first_step = None;
    let mut watch = |event: Event<'_>| {
        if matches!(event, Event::Phase { phase: Phase::Base, .. }) {
            first_step = Some(started.elapsed());
            if row == Row::FirstStep {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    };
    let result = pipeline.generate(std::slice::from_ref(request), &mut watch);
    match (result, first_step) {
        (Err(Error::Cancelled), Some(first_step)) => Ok(first_step.as_secs_f64()),
        (Err(error), _) => Err(error.into()),
        (Ok(_), _) => Ok(started.elapsed().as_secs_f64()),
    }
}

impl Row {
    /// The network to run alone; the other rows are of a request.
    fn network(self) -> Option<Network> {
        Some(match self {
            Self::Unet => Network::Unet,
            Self::RefinerUnet => Network::RefinerUnet,
            Self::VaeDecode => Network::VaeDecode,
            Self::VaeEncode => Network::VaeEncode,
            Self::TextEncoders => Network::TextEncoders,
            Self::Training => Network::Training,
            Self::FirstStep | Self::Picture => return None,
        })
    }

    /// What is typed for it.
    fn name(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::RefinerUnet => "refiner-unet",
            Self::VaeDecode => "vae-decode",
            Self::VaeEncode => "vae-encode",
            Self::TextEncoders => "text-encoders",
            Self::Training => "training",
            Self::FirstStep => "first-step",
            Self::Picture => "picture",
        }
    }
}

impl Report {
    /// For people.
    fn sentence(&self) -> String {
        let size = self.size.as_ref().map(|size| format!(" {size}")).unwrap_or_default();
        let gigabytes = |bytes: Option<u64>| match bytes {
            Some(bytes) => format!("{:.2} GB", bytes as f64 / 1e9),
            None => "unknown".to_owned(),
        };
        format!(
            "{}{size}, batch {}: {:.3} s, peak anonymous {}, peak resident {}, {} threads, {}",
            self.row,
            self.batch,
            self.seconds,
            gigabytes(self.peak_anonymous_bytes),
            gigabytes(self.peak_resident_bytes),
            self.threads,
            self.level
        )
    }
}

/// The middle one; of an even number the lower of the two in the middle.
fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}
