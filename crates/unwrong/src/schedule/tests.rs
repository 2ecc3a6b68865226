#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use proptest::prelude::*;

use super::*;

fn sdxl() -> SchedulerConfig {
    serde_json::from_str(
        r#"{"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "timestep_spacing": "leading", "steps_offset": 1}"#,
    )
    .unwrap()
}

#[test]
fn sdxl_in_fifty_steps_starts_at_981() {
    let schedule = Schedule::new(&sdxl(), 50).unwrap();
    assert_eq!(schedule.timesteps()[..3], [981.0, 961.0, 941.0]);
    assert_eq!(schedule.timesteps()[49..], [1.0]);
    assert_eq!(schedule.sigmas().len(), 51);
}

#[test]
fn forty_and_ten_of_fifty_at_the_usual_fraction() {
    let schedule = Schedule::new(&sdxl(), 50).unwrap();
    assert_eq!(schedule.high_noise(0.8).steps(), 40);
    assert_eq!(schedule.low_noise(0.8).steps(), 10);
}

#[test]
fn one_step_is_the_refiners() {
    let schedule = Schedule::new(&sdxl(), 1).unwrap();
    assert!(schedule.high_noise(0.8).is_empty());
    assert_eq!(schedule.low_noise(0.8).timesteps(), [1.0]);
}

#[test]
fn the_ends_of_the_fraction_leave_one_part_empty() {
    for steps in [1, 7, 1000] {
        let schedule = Schedule::new(&sdxl(), steps).unwrap();
        assert_eq!(schedule.high_noise(1.0), schedule);
        assert!(schedule.low_noise(1.0).is_empty());
        assert!(schedule.high_noise(0.0).is_empty());
        assert_eq!(schedule.low_noise(0.0), schedule);
    }
}

#[test]
fn the_first_latents_are_wider_with_leading_spacing() {
    let leading = Schedule::new(&sdxl(), 30).unwrap();
    let max = leading.sigmas()[0];
    assert!((leading.initial_scale() - max.hypot(1.0)).abs() < 1e-6);
    let trailing = SchedulerConfig { timestep_spacing: "trailing".into(), ..sdxl() };
    let trailing = Schedule::new(&trailing, 30).unwrap();
    assert_eq!(trailing.initial_scale().to_bits(), trailing.sigmas()[0].to_bits());
}

#[test]
fn options_that_are_not_computed_are_refused_by_name() {
    let cases = [
        ("use_karras_sigmas", SchedulerConfig { use_karras_sigmas: true, ..sdxl() }),
        ("use_exponential_sigmas", SchedulerConfig { use_exponential_sigmas: true, ..sdxl() }),
        ("use_beta_sigmas", SchedulerConfig { use_beta_sigmas: true, ..sdxl() }),
        ("rescale_betas_zero_snr", SchedulerConfig { rescale_betas_zero_snr: true, ..sdxl() }),
        ("trained_betas", SchedulerConfig { trained_betas: Some(vec![0.1]), ..sdxl() }),
        ("timestep_type", SchedulerConfig { timestep_type: "continuous".into(), ..sdxl() }),
        ("interpolation_type", SchedulerConfig { interpolation_type: "log".into(), ..sdxl() }),
        ("beta_schedule", SchedulerConfig { beta_schedule: "cosine".into(), ..sdxl() }),
        ("timestep_spacing", SchedulerConfig { timestep_spacing: "wide".into(), ..sdxl() }),
        ("final_sigmas_type", SchedulerConfig { final_sigmas_type: "one".into(), ..sdxl() }),
        ("num_train_timesteps", SchedulerConfig { num_train_timesteps: 0, ..sdxl() }),
        ("num_train_timesteps", SchedulerConfig { num_train_timesteps: usize::MAX, ..sdxl() }),
        ("beta_start", SchedulerConfig { beta_end: 1e9, ..sdxl() }),
    ];
    for (option, config) in cases {
        let error = Schedule::new(&config, 10).unwrap_err();
        assert!(error.to_string().contains(option), "{error}");
    }
}

#[test]
fn more_steps_than_the_model_was_trained_on_are_refused() {
    assert!(Schedule::new(&sdxl(), 1000).is_ok());
    assert!(Schedule::new(&sdxl(), 1001).unwrap_err().is_request_error());
    assert!(Schedule::new(&sdxl(), 0).is_err());
}

proptest! {
    #[test]
    fn sigmas_fall_strictly_and_end_in_zero(steps in 1usize..=500, spacing in 0usize..3) {
        let spacing = ["leading", "trailing", "linspace"][spacing];
        let config = SchedulerConfig { timestep_spacing: spacing.into(), ..sdxl() };
        let schedule = Schedule::new(&config, steps).unwrap();
        prop_assert!(schedule.sigmas().windows(2).all(|pair| pair[0] > pair[1]));
        prop_assert_eq!(schedule.sigmas().last(), Some(&0.0));
        prop_assert_eq!(schedule.steps(), steps);
    }

    #[test]
    fn split_then_joined_is_the_whole_schedule(steps in 1usize..=1000, fraction in 0.0f64..=1.0) {
        let whole = Schedule::new(&sdxl(), steps).unwrap();
        let (high, low) = (whole.high_noise(fraction), whole.low_noise(fraction));
        prop_assert_eq!([high.timesteps(), low.timesteps()].concat(), whole.timesteps());
        let (end, rest) = high.sigmas().split_last().unwrap();
        prop_assert_eq!(Some(end), low.sigmas().first(), "the refiner starts where the base stopped");
        prop_assert_eq!([rest, low.sigmas()].concat(), whole.sigmas());
    }
}
