//! The order of steps, the split, and stopping: with a denoiser that has no weights.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::cell::RefCell;
use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use unwrong::progress::{Event, Part, Progress, announce};
use unwrong::sampler::{Denoiser, Watch, euler};
use unwrong::schedule::{Level, Schedule};
use unwrong::{Error, Result};
use unwrong_models::files::SchedulerConfig;

/// Knows the clean latents, and remembers when it was asked.
struct FakeDenoiser {
    clean: Tensor,
    asked: RefCell<Vec<Level>>,
}

impl FakeDenoiser {
    fn new(clean: &[f32]) -> Self {
        Self { clean: latents(clean), asked: RefCell::default() }
    }
}

impl Denoiser for FakeDenoiser {
    fn denoise(&self, _: &Tensor, level: &Level) -> Result<Tensor> {
        self.asked.borrow_mut().push(*level);
        Ok(self.clean.clone())
    }
}

fn latents(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
}

fn schedule(steps: usize) -> Schedule {
    let config: SchedulerConfig =
        serde_json::from_str(include_str!("../../demo/model/base/scheduler/scheduler_config.json"))
            .unwrap();
    Schedule::new(&config, steps).unwrap()
}

struct Nobody;

impl Watch for Nobody {
    fn step_done(&mut self, _: usize, _: usize, _: f32, _: &Tensor) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_denoiser_that_knows_the_answer_gets_there() {
    let denoiser = FakeDenoiser::new(&[0.5, -0.25, 0.0]);
    let noisy = latents(&[9.0, -3.0, 14.0]);
    let end = euler(&denoiser, noisy, &schedule(10), &mut Nobody).unwrap();
    for (value, clean) in end.to_vec1::<f32>().unwrap().iter().zip([0.5, -0.25, 0.0]) {
        assert!((value - clean).abs() < 1e-5, "{value} is not {clean}");
    }
}

#[test]
fn a_step_is_the_line_from_here_to_the_denoised() {
    // By hand: x + (x − denoised)/σ · (σ' − σ).
    let schedule = schedule(50).high_noise(0.02);
    let (sigma, next) = (schedule.sigmas()[0], schedule.sigmas()[1]);
    assert_eq!(schedule.steps(), 1);
    let end = euler(&FakeDenoiser::new(&[1.0]), latents(&[10.0]), &schedule, &mut Nobody).unwrap();
    let expected = 10.0 + (10.0 - 1.0) / sigma * (next - sigma);
    assert_eq!(end.to_vec1::<f32>().unwrap(), [expected]);
}

#[test]
fn base_and_refiner_are_asked_in_order_and_once_per_step() {
    let whole = schedule(10);
    let (base, refiner) = (FakeDenoiser::new(&[0.0]), FakeDenoiser::new(&[0.0]));
    let handoff = euler(&base, latents(&[1.0]), &whole.high_noise(0.8), &mut Nobody).unwrap();
    euler(&refiner, handoff, &whole.low_noise(0.8), &mut Nobody).unwrap();

    let asked = [base.asked.into_inner(), refiner.asked.into_inner()];
    assert_eq!(asked.each_ref().map(Vec::len), [8, 2]);
    let levels: Vec<_> = whole.levels().collect();
    assert_eq!(asked.concat(), levels);
    assert!(levels.iter().map(|level| level.step).eq(1..=10), "counted over both");
}

#[test]
fn a_schedule_without_steps_changes_nothing() {
    let denoiser = FakeDenoiser::new(&[0.0]);
    let end = euler(&denoiser, latents(&[3.0]), &Schedule::empty(), &mut Nobody).unwrap();
    assert_eq!(end.to_vec1::<f32>().unwrap(), [3.0]);
    assert!(denoiser.asked.into_inner().is_empty());
}

#[test]
fn every_step_is_told_with_its_number_and_noise_level() {
    let schedule = schedule(3);
    let mut told = vec![];
    let mut watch = |step, steps, sigma, latents: &Tensor| {
        let _: &Tensor = latents;
        told.push((step, steps, sigma));
        Ok(())
    };
    euler(&FakeDenoiser::new(&[0.0]), latents(&[1.0]), &schedule, &mut watch).unwrap();
    let sigmas = schedule.sigmas();
    assert_eq!(told, [(1, 3, sigmas[0]), (2, 3, sigmas[1]), (3, 3, sigmas[2])]);
}

#[test]
fn whoever_watches_can_stop_the_run() {
    let mut progress = |event: Event<'_>| match event {
        Event::Step { step: 4, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let progress: &mut dyn Progress = &mut progress;
    let mut watch = |step, steps, sigma, latents: &Tensor| {
        let (picture, pictures) = (0, 1);
        announce(
            progress,
            Event::Step { part: Part::Base, picture, pictures, step, steps, sigma, latents },
        )
    };
    let denoiser = FakeDenoiser::new(&[0.0]);
    let error = euler(&denoiser, latents(&[1.0]), &schedule(10), &mut watch).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!(denoiser.asked.into_inner().len(), 4, "nothing runs after the word");
}
