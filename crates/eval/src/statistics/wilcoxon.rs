//! Wilcoxon's signed-rank test, two-sided.

/// Most differences that are tested exactly; beyond it the normal approximation is good to
/// the third digit.
pub const MOST_EXACT: usize = 50;

/// How the probability was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// All ways to give signs to the ranks were counted, ties included.
    Exact,
    /// The normal distribution with the variance corrected for ties, without a correction
    /// for continuity.
    Normal,
    /// There was no difference to rank.
    NoDifference,
}

/// What the test found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wilcoxon {
    /// Sum of the ranks of positive differences.
    pub positive: f64,
    /// Probability of a sum at least as far out, if neither sign were likelier.
    pub p: f64,
    /// How it was found.
    pub method: Method,
    /// Differences that are not 0 and so were ranked.
    pub ranked: usize,
}

/// Tests whether differences lie on both sides of 0 alike; those that are 0 are left out.
///
/// Wilcoxon 1945, "Individual comparisons by ranking methods". `scipy.stats.wilcoxon` with
/// `zero_method="wilcox"`; where there are ties it counts all signs only when asked to permute.
#[must_use]
pub fn wilcoxon(differences: &[f64]) -> Wilcoxon {
    let mut ranked: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    ranked.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    if ranked.is_empty() {
        return Wilcoxon { positive: 0.0, p: 1.0, method: Method::NoDifference, ranked: 0 };
    }
    let ranks = doubled_ranks(&ranked);
    let positive: usize =
        ranked.iter().zip(&ranks).filter(|(d, _)| **d > 0.0).map(|(_, rank)| rank).sum();
    let (p, method) = if ranked.len() <= MOST_EXACT {
        (exact(&ranks, positive), Method::Exact)
    } else {
        (normal(&ranks, positive), Method::Normal)
    };
    Wilcoxon { positive: positive as f64 / 2.0, p, method, ranked: ranked.len() }
}

/// Twice the rank of each size, from 1; equal sizes share the mean of their ranks.
fn doubled_ranks(sorted: &[f64]) -> Vec<usize> {
    let mut ranks = Vec::with_capacity(sorted.len());
    for tied in sorted.chunk_by(|a, b| a.abs().total_cmp(&b.abs()).is_eq()) {
        let first = ranks.len() + 1;
        let last = ranks.len() + tied.len();
        ranks.extend(tied.iter().map(|_| first + last));
    }
    ranks
}

/// Counts the ways to give signs to the ranks by their sum. At most 2⁵⁰ of them: f64 is exact.
fn exact(ranks: &[usize], positive: usize) -> f64 {
    let most: usize = ranks.iter().sum();
    let mut ways = vec![0.0; most + 1];
    ways[0] = 1.0;
    let mut reached = 0;
    for rank in ranks {
        for sum in (0..=reached).rev() {
            ways[sum + rank] += ways[sum];
        }
        reached += rank;
    }
    let all: f64 = ways.iter().sum();
    let below: f64 = ways[..=positive].iter().sum();
    let above: f64 = ways[positive..].iter().sum();
    (2.0 * below.min(above) / all).min(1.0)
}

/// Mean and variance of the sum of ranks `r` are `Σ r / 2` and `Σ r² / 4`, ties or not.
fn normal(ranks: &[usize], positive: usize) -> f64 {
    let ranks = || ranks.iter().map(|doubled| *doubled as f64 / 2.0);
    let mean = ranks().sum::<f64>() / 2.0;
    let variance = ranks().map(|rank| rank * rank).sum::<f64>() / 4.0;
    let z = (positive as f64 / 2.0 - mean) / variance.sqrt();
    erfc(z.abs() / std::f64::consts::SQRT_2)
}

/// The complementary error function for `x ≥ 0`: the series of erf below 2, beyond it the
/// continued fraction (Abramowitz and Stegun 1964, 7.1.6 and 7.1.14).
fn erfc(x: f64) -> f64 {
    let bell = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - 2.0 * bell * sum;
    }
    let fraction = (1..=60).rev().fold(0.0, |rest, n| f64::from(n) / 2.0 / (x + rest));
    bell / (x + fraction)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "these values are exact")]

    use super::*;

    #[test]
    fn five_positive_differences_are_one_of_sixteen() {
        let found = wilcoxon(&[1.0, 2.0, 3.0, 0.0, 4.0, 5.0]);
        assert_eq!((found.positive, found.ranked, found.method), (15.0, 5, Method::Exact));
        assert_eq!(found.p, 2.0 / 32.0);
        assert_eq!(wilcoxon(&[-1.0, -2.0, -3.0, -4.0, -5.0]).p, found.p);
    }

    #[test]
    fn no_difference_is_no_evidence() {
        assert_eq!(wilcoxon(&[0.0; 9]).p, 1.0);
        assert_eq!(wilcoxon(&[]).method, Method::NoDifference);
    }

    #[test]
    fn equal_sizes_share_their_ranks() {
        assert_eq!(doubled_ranks(&[1.0, -1.0, 2.0, 3.0, 3.0, -3.0]), [3, 3, 6, 10, 10, 10]);
    }
}
