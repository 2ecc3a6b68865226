//! Sigmas, timesteps and the split equal diffusers', number by number.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![expect(clippy::print_stdout, reason = "the table of the largest differences")]

mod goldens;

use goldens::Goldens;
use serde_json::{Value, json};
use unwrong::schedule::Schedule;
use unwrong_models::files::SchedulerConfig;

/// The demo model's scheduler with some keys changed, as the goldens were made.
fn config(goldens: &Goldens, variant: &str) -> SchedulerConfig {
    let mut config: Value =
        serde_json::from_str(include_str!("../../demo/model/base/scheduler/scheduler_config.json"))
            .unwrap();
    for (key, value) in goldens.facts["variants"][variant]["changes"].as_object().unwrap() {
        config[key] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// Within two units in the last place: torch's square root is off by one for 190 of the 1000
/// training sigmas, and the rounding of the interpolation may add one.
fn assert_close(values: &[f32], expected: &[f32], name: &str) {
    assert_eq!(values.len(), expected.len(), "{name}");
    for (value, expected) in values.iter().zip(expected) {
        assert!(value.to_bits().abs_diff(expected.to_bits()) <= 2, "{name}: {value}, {expected}");
    }
}

#[test]
fn every_sigma_and_timestep_is_diffusers() {
    let goldens = Goldens::load("schedules");
    let (mut schedules, mut refused) = (0, vec![]);
    for (variant, facts) in goldens.facts["variants"].as_object().unwrap() {
        let config = config(&goldens, variant);
        let mut sigmas = goldens.values(&format!("{variant}.sigmas")).into_iter();
        let mut timesteps = goldens.values(&format!("{variant}.timesteps")).into_iter();
        let mut scales = goldens.values(&format!("{variant}.init_noise_sigma")).into_iter();
        for steps in facts["steps"].as_array().unwrap() {
            let steps = usize::try_from(steps.as_u64().unwrap()).unwrap();
            let schedule = match Schedule::new(&config, steps) {
                Ok(schedule) => schedule,
                Err(error) => {
                    assert!(error.to_string().contains("not supported"), "{variant}: {error}");
                    refused.push(variant.clone());
                    break;
                }
            };
            let name = format!("{variant}, {steps} steps");
            // diffusers makes a 62nd step here, by rounding, at timestep -1.
            let extra = usize::from(variant == "trailing" && steps == 61);
            let expected: Vec<f32> = timesteps.by_ref().take(steps + extra).collect();
            assert_eq!(schedule.timesteps(), &expected[..steps], "{name}");
            let expected: Vec<f32> = sigmas.by_ref().take(steps + 1 + extra).collect();
            assert_close(&schedule.sigmas()[..steps], &expected[..steps], &name);
            assert_close(&schedule.sigmas()[steps..], &expected[steps + extra..], &name);
            assert_close(&[schedule.initial_scale()], &[scales.next().unwrap()], &name);
            schedules += 1;
        }
    }
    assert!(schedules > 300, "only {schedules} goldens");
    refused.retain(|variant| variant != "karras");
    assert_eq!(refused, [""; 0], "refused without a reason");
    println!("schedules: {schedules} tables, timesteps equal, sigmas within 2 ulp");
}

#[test]
fn every_split_of_every_count_is_diffusers() {
    let goldens = Goldens::load("split");
    let config = config(&Goldens::load("schedules"), "leading");
    for facts in goldens.facts["fractions"].as_array().unwrap() {
        let fraction = facts["fraction"].as_f64().unwrap();
        if fraction <= 0.0 || fraction >= 1.0 {
            continue; // diffusers does not split there, but falls back to something else
        }
        let counts = facts["counts"].as_array().unwrap();
        assert_eq!(counts.len(), 100);
        for (steps, expected) in (1..).zip(counts) {
            let schedule = Schedule::new(&config, steps).unwrap();
            let found =
                [schedule.high_noise(fraction).steps(), schedule.low_noise(fraction).steps()];
            assert_eq!(json!(found), *expected, "{steps} steps at {fraction}");
        }
    }
}

#[test]
fn base_and_refiner_may_have_different_schedulers() {
    let goldens = Goldens::load("split");
    let schedules = Goldens::load("schedules");
    let pairs = goldens.facts["pairs"].as_array().unwrap();
    assert!(!pairs.is_empty());
    for pair in pairs {
        let steps = usize::try_from(pair["steps"].as_u64().unwrap()).unwrap();
        let schedule = |part: &str| {
            let variant = pair[part].as_str().unwrap();
            Schedule::new(&config(&schedules, variant), steps).unwrap()
        };
        let high = schedule("base").high_noise(0.8);
        let low = schedule("refiner").low_noise(0.8);
        let name = format!("{} in {steps} steps", pair["pair"]);
        assert_eq!(high.timesteps(), numbers(&pair["base_timesteps"]), "base of {name}");
        assert_eq!(low.timesteps(), numbers(&pair["refiner_timesteps"]), "refiner of {name}");
    }
}
