//! How the rate changes.

use serde::{Deserialize, Serialize};

/// How the rate changes over a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateSchedule {
    /// The same throughout.
    #[default]
    Constant,
    /// Half a cosine, to zero.
    Cosine,
    /// A straight line, to zero.
    Linear,
}

impl RateSchedule {
    /// As diffusers and kohya's scripts call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Cosine => "cosine",
            Self::Linear => "linear",
        }
    }

    /// The factor of the rate at `step` (from 0) of `steps`, of which the first `warmup` rise to
    /// it in a straight line; as diffusers' `get_scheduler`.
    #[must_use]
    pub fn factor(self, step: u64, steps: u64, warmup: u64) -> f64 {
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let rest = steps.saturating_sub(warmup).max(1);
        let done = (step - warmup) as f64 / rest as f64;
        match self {
            Self::Constant => 1.0,
            Self::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * done).cos())).max(0.0),
            Self::Linear => (1.0 - done).max(0.0),
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::*;

    #[test]
    fn a_rate_rises_then_falls_to_nothing() {
        let factors =
            |schedule: RateSchedule| [0, 1, 2, 6, 10].map(|step| schedule.factor(step, 10, 2));
        assert_eq!(factors(RateSchedule::Constant), [0.0, 0.5, 1.0, 1.0, 1.0]);
        assert_eq!(factors(RateSchedule::Linear), [0.0, 0.5, 1.0, 0.5, 0.0]);
        let cosine = factors(RateSchedule::Cosine);
        assert_eq!(cosine[..3], [0.0, 0.5, 1.0]);
        assert!((cosine[3] - 0.5).abs() < 1e-12 && cosine[4].abs() < 1e-12);
        // Without a warm-up the first step has the whole rate.
        assert_eq!(RateSchedule::Linear.factor(0, 4, 0), 1.0);
    }
}
