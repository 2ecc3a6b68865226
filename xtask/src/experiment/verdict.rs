//! What the numbers say of each claim, by rules that were fixed before them.

use super::data::{Run, Test};

/// The rules, as the page gives them.
pub(super) const RULES: &str = "\
- **improved**: the whole 95 % interval of the mean difference lies on the claimed side of 0, and
  p after Holm's correction is below 0.05;
- **harmed**: the same on the other side;
- **no effect shown**: anything else. That is not a proof that there is none.
- Where a metric of sharpness improved and the estimated noise rose by the same rule, the verdict
  says so, because noise is sharp, too.
";

/// Chance that is taken for none.
const LEVEL: f64 = 0.05;
/// What noise adds to as well.
const SHARP: [&str; 3] = ["sharpness", "tenengrad", "high_frequency"];

/// What a test says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Improved,
    ImprovedWithNoise,
    NoEffectShown,
    Harmed,
}

impl Verdict {
    pub(super) fn of(test: &Test) -> Self {
        let (low, high) = (test.sign * test.low, test.sign * test.high);
        if test.p_holm >= LEVEL || test.p_holm.is_nan() {
            Self::NoEffectShown
        } else if low.min(high) > 0.0 {
            Self::Improved
        } else if low.max(high) < 0.0 {
            Self::Harmed
        } else {
            Self::NoEffectShown
        }
    }

    /// Of one metric of one comparison, with an eye on noise.
    pub(super) fn of_claim(run: &Run, claim: &Claim, metric: &str) -> Option<(Test, Self)> {
        let test = run.test(claim.variant, claim.baseline, metric)?;
        let noise = run.test(claim.variant, claim.baseline, "noise");
        let noisy = noise.is_some_and(|noise| Self::of(&noise) == Self::Harmed);
        let verdict = match Self::of(&test) {
            Self::Improved if noisy && SHARP.contains(&metric) => Self::ImprovedWithNoise,
            verdict => verdict,
        };
        Some((test, verdict))
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Improved => "improved",
            Self::ImprovedWithNoise => "improved, but the noise rose, too",
            Self::NoEffectShown => "no effect shown",
            Self::Harmed => "harmed",
        }
    }
}

/// Something that is said of the method, and the comparison that tests it.
pub(super) struct Claim {
    pub(super) text: &'static str,
    pub(super) variant: &'static str,
    pub(super) baseline: &'static str,
    /// The primary metric where there is none.
    pub(super) metric: Option<&'static str>,
}

const fn claim(
    text: &'static str,
    variant: &'static str,
    baseline: &'static str,
    metric: Option<&'static str>,
) -> Claim {
    Claim { text, variant, baseline, metric }
}

/// In the order of the page: the first one is the hypothesis.
pub(super) const CLAIMS: [Claim; 10] = [
    claim("the method, against no negative prompt", "both", "none", None),
    claim("the LoRA's own part, against the word alone", "both", "word", None),
    claim("the word alone, against no negative prompt", "word", "none", None),
    claim("the method, against the 13 keywords", "both", "keywords", None),
    claim(
        "more vivid: the method, against no negative prompt",
        "both",
        "none",
        Some("colourfulness"),
    ),
    claim("more vivid: the LoRA's own part", "both", "word", Some("colourfulness")),
    claim("`not wrong` in the prompt, added to the method", "not-wrong", "both", None),
    claim("another weighted negative word, added to the method", "others", "both", None),
    claim(
        "the object still there: the method, against no negative prompt",
        "both",
        "none",
        Some("follows"),
    ),
    claim("the object still there: the LoRA's own part", "both", "word", Some("follows")),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn test(sign: f64, low: f64, high: f64, p_holm: f64) -> Test {
        Test {
            metric: "tenengrad".to_owned(),
            sign,
            count: 40,
            mean: f64::midpoint(low, high),
            low,
            high,
            improved: 0.5,
            p_holm,
        }
    }

    #[test]
    fn a_verdict_needs_interval_and_probability() {
        assert_eq!(Verdict::of(&test(1.0, 0.1, 0.3, 0.01)), Verdict::Improved);
        assert_eq!(Verdict::of(&test(1.0, 0.1, 0.3, 0.05)), Verdict::NoEffectShown);
        assert_eq!(Verdict::of(&test(1.0, -0.1, 0.3, 0.01)), Verdict::NoEffectShown);
        assert_eq!(Verdict::of(&test(1.0, -0.3, -0.1, 0.01)), Verdict::Harmed);
        assert_eq!(Verdict::of(&test(1.0, 0.1, 0.3, f64::NAN)), Verdict::NoEffectShown);
    }

    #[test]
    fn less_noise_is_better() {
        assert_eq!(Verdict::of(&test(-1.0, -0.3, -0.1, 0.01)), Verdict::Improved);
        assert_eq!(Verdict::of(&test(-1.0, 0.1, 0.3, 0.01)), Verdict::Harmed);
    }
}
