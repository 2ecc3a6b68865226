//! The closest matrix of lower rank: singular values of products and of whole differences.
//!
//! In f64 and on one thread, whoever else works meanwhile: the same numbers for any number of
//! threads. A product of thin matrices is never formed: with `up = Q R` and `downᵀ = P S`, its
//! singular values are those of `R Sᵀ`, which has a row for each rank. Of a whole difference the
//! smaller of `AᵀA` and `AAᵀ` is taken apart: in f64 that finds the values to 1e-8 of the
//! greatest, closer than the f32 that the difference itself is in.

use faer::{Mat, MatRef, Side};

use crate::error::{Error, Result};

/// Rows that are widened to f64 at a time.
const BLOCK: usize = 512;
/// Below this part of the greatest, a singular value is rounding.
const NOISE: f64 = 1e-12;

/// Two matrices whose product is closest to a given one, and the given one's singular values.
#[derive(Debug, Clone)]
pub(super) struct Factors {
    /// All singular values, the greatest first: as many as the shorter side is long.
    pub(super) values: Vec<f64>,
    /// How many of them are kept.
    pub(super) rank: usize,
    /// `[rows, rank]`: left vectors times values.
    pub(super) up: Vec<f32>,
    /// `[rank, columns]`: right vectors.
    pub(super) down: Vec<f32>,
}

/// A matrix, row by row.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a [f32],
    pub(super) columns: usize,
}

impl Rows<'_> {
    fn count(self) -> usize {
        self.values.len().checked_div(self.columns).unwrap_or(0)
    }

    fn at(self, row: usize, column: usize) -> f64 {
        f64::from(self.values[row * self.columns + column])
    }
}

/// One term of a sum of products: `factor · up · down`.
#[derive(Clone)]
pub(super) struct Term {
    pub(super) factor: f64,
    /// `[rows, rank]`.
    pub(super) up: Vec<f32>,
    /// `[rank, columns]`.
    pub(super) down: Vec<f32>,
    pub(super) rank: usize,
}

/// Takes a sum of products apart; `keep` tells the rank from the singular values.
pub(super) fn of_product(terms: &[Term], keep: &dyn Fn(&[f64]) -> usize) -> Result<Factors> {
    let ranks: usize = terms.iter().map(|term| term.rank).sum();
    let side = |values: fn(&Term) -> &[f32]| {
        let first = terms.first().map_or(0, |term| values(term).len() / term.rank.max(1));
        Mat::<f64>::zeros(first, ranks)
    };
    let (mut up, mut down) = (side(|term| &term.up), side(|term| &term.down));
    let mut start = 0;
    for term in terms {
        let (ups, columns) = (Rows { values: &term.up, columns: term.rank }, down.nrows());
        let downs = Rows { values: &term.down, columns };
        for place in 0..term.rank {
            for row in 0..up.nrows() {
                up[(row, start + place)] = ups.at(row, place) * term.factor;
            }
            for column in 0..columns {
                down[(column, start + place)] = downs.at(place, column);
            }
        }
        start += term.rank;
    }
    let (left, right) = (up.qr(), down.qr());
    let core = left.thin_R() * right.thin_R().transpose();
    let svd = core.thin_svd().map_err(|_| failed())?;
    let found = (0..svd.S().dim()).map(|place| svd.S()[place].max(0.0));
    let shorter = up.nrows().min(down.nrows());
    let values: Vec<f64> = found.chain(std::iter::repeat(0.0)).take(shorter).collect();
    let rank = keep(&values).clamp(1, svd.S().dim().max(1));
    let u = left.compute_thin_Q() * svd.U().get(.., ..rank);
    let v = right.compute_thin_Q() * svd.V().get(.., ..rank);
    Ok(factors(values, u.as_ref(), v.as_ref()))
}

/// Takes a whole matrix apart; `keep` tells the rank from the singular values.
pub(super) fn of_whole(matrix: Rows<'_>, keep: &dyn Fn(&[f64]) -> usize) -> Result<Factors> {
    let (rows, columns) = (matrix.count(), matrix.columns);
    let tall = rows >= columns;
    let (long, short) = if tall { (rows, columns) } else { (columns, rows) };
    // The matrix, standing up: some of its rows.
    let block = |start: usize| {
        Mat::from_fn(BLOCK.min(long - start), short, |row, column| {
            if tall { matrix.at(start + row, column) } else { matrix.at(column, start + row) }
        })
    };
    let mut gram = Mat::<f64>::zeros(short, short);
    for start in (0..long).step_by(BLOCK) {
        let block = block(start);
        gram += block.transpose() * &block;
    }
    let eigen = gram.self_adjoint_eigen(Side::Lower).map_err(|_| failed())?;
    let values: Vec<f64> = (0..short).rev().map(|place| eigen.S()[place].max(0.0).sqrt()).collect();
    let rank = keep(&values).clamp(1, short.max(1));
    let near = Mat::from_fn(short, rank, |row, place| eigen.U()[(row, short - 1 - place)]);
    let mut far = Mat::<f64>::zeros(long, rank);
    for start in (0..long).step_by(BLOCK) {
        let product = block(start) * &near;
        for (row, place) in (0..product.nrows()).flat_map(|row| (0..rank).map(move |p| (row, p))) {
            far[(start + row, place)] = product[(row, place)] / nonzero(values[place], &values);
        }
    }
    let (u, v) = if tall { (&far, &near) } else { (&near, &far) };
    Ok(factors(values, u.as_ref(), v.as_ref()))
}

/// A value to divide by: what is rounding counts as endless, so its vector becomes zeros.
fn nonzero(value: f64, values: &[f64]) -> f64 {
    if value > values[0] * NOISE { value } else { f64::INFINITY }
}

/// `u · values` and `vᵀ`. A vector and its opposite are equally right: the one counts whose
/// greatest part is positive.
fn factors(values: Vec<f64>, u: MatRef<'_, f64>, v: MatRef<'_, f64>) -> Factors {
    let rank = u.ncols();
    let sign = |place: usize| {
        let parts = (0..u.nrows()).map(|row| u[(row, place)]);
        let greatest =
            parts.fold(0.0_f64, |most, part| if part.abs() > most.abs() { part } else { most });
        if greatest < 0.0 { -1.0 } else { 1.0 }
    };
    let signs: Vec<f64> = (0..rank).map(sign).collect();
    let mut up = Vec::with_capacity(u.nrows() * rank);
    for row in 0..u.nrows() {
        up.extend((0..rank).map(|place| (u[(row, place)] * values[place] * signs[place]) as f32));
    }
    let mut down = Vec::with_capacity(v.nrows() * rank);
    for (place, sign) in signs.iter().enumerate() {
        down.extend((0..v.nrows()).map(|row| (v[(row, place)] * sign) as f32));
    }
    Factors { values, rank, up, down }
}

impl Factors {
    /// Cuts off what few numbers stand out by, as kohya's scripts do with a quantile of 0.99: of
    /// all numbers of both matrices as they are, with linear interpolation as in
    /// `torch.quantile`.
    ///
    /// There the quantile depends a little on which of two opposite vectors was found; here both
    /// signs of every number are counted.
    pub(super) fn clamp(&mut self, quantile: f64) {
        let both = self.up.iter().chain(&self.down).flat_map(|value| [*value, -value]);
        let mut sorted: Vec<f32> = both.collect();
        sorted.sort_by(f32::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return };
        let place = quantile.clamp(0.0, 1.0) * last as f64;
        let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        let most = (below + (above - below) * place.fract() as f32).max(0.0);
        for value in self.up.iter_mut().chain(&mut self.down) {
            *value = value.clamp(-most, most);
        }
    }
}

fn failed() -> Error {
    Error::Request {
        problem: "the singular values of a layer could not be found".to_owned(),
        hint: Some("a number in one of the files may be broken".to_owned()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Numbers between −1 and 1 that look random.
    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 33) as f64 / f64::from(1_u32 << 30) - 1.0) as f32
        };
        (0..count).map(|_| next()).collect()
    }

    fn product(up: &[f32], down: &[f32], rank: usize) -> Vec<f32> {
        let columns = down.len() / rank;
        let rows = up.chunks_exact(rank);
        let cell = |row: &[f32], column: usize| -> f64 {
            let parts = row.iter().enumerate();
            parts.map(|(i, part)| f64::from(*part) * f64::from(down[i * columns + column])).sum()
        };
        rows.flat_map(|row| (0..columns).map(move |column| cell(row, column) as f32)).collect()
    }

    fn distance(one: &[f32], other: &[f32]) -> f64 {
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
        let apart = square(&mut one.iter().zip(other).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        (apart / square(&mut other.iter().map(|value| f64::from(*value)))).sqrt()
    }

    #[test]
    fn a_product_and_the_matrix_that_it_makes_have_the_same_values() {
        for (rows, columns, ranks) in
            [(17, 9, [3, 2]), (6, 40, [4, 4]), (5, 4, [4, 3]), (1, 7, [1, 1])]
        {
            let terms: Vec<Term> = ranks
                .iter()
                .zip([0.5, -2.0])
                .map(|(rank, factor)| {
                    let up = numbers(rows * rank, 3 + *rank as u64);
                    let down = numbers(rank * columns, 11);
                    Term { factor, up, down, rank: *rank }
                })
                .collect();
            let mut whole = vec![0.0; rows * columns];
            for term in &terms {
                for (sum, part) in whole.iter_mut().zip(product(&term.up, &term.down, term.rank)) {
                    *sum += term.factor as f32 * part;
                }
            }
            let thin = of_product(&terms, &|values| values.len()).unwrap();
            let dense = of_whole(Rows { values: &whole, columns }, &|values| values.len()).unwrap();
            assert_eq!(thin.values.len(), rows.min(columns));
            for (one, other) in thin.values.iter().zip(&dense.values) {
                assert!((one - other).abs() < 1e-6 * dense.values[0], "{one} {other}");
            }
            for factors in [&thin, &dense] {
                let made = product(&factors.up, &factors.down, factors.rank);
                assert!(distance(&made, &whole) < 1e-6, "{rows}x{columns}");
            }
        }
    }

    #[test]
    fn what_is_cut_off_is_the_rest_of_the_values() {
        let whole = numbers(30 * 12, 5);
        let all = of_whole(Rows { values: &whole, columns: 12 }, &|_| 12).unwrap();
        let some = of_whole(Rows { values: &whole, columns: 12 }, &|_| 4).unwrap();
        let square = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        let expected = (square(&all.values[4..]) / square(&all.values)).sqrt();
        let apart = distance(&product(&some.up, &some.down, 4), &whole);
        assert!((apart - expected).abs() < 1e-6, "{apart} {expected}");
    }

    #[test]
    fn a_matrix_of_zeros_has_values_of_zero() {
        let factors = of_whole(Rows { values: &[0.0; 12], columns: 3 }, &|_| 2).unwrap();
        assert_eq!((factors.values, factors.rank), (vec![0.0; 3], 2));
        assert!(factors.up.iter().all(|value| *value == 0.0));
        assert!(factors.down.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn clamping_cuts_both_signs_alike() {
        let mut factors =
            Factors { values: vec![], rank: 1, up: vec![1.0, 2.0, 3.0], down: vec![-4.0, 5.0] };
        // Both signs, sorted: −5 … −1, 1 … 5; three quarters of the way lie at 6.75: 2.75.
        factors.clamp(0.75);
        assert_eq!((factors.up, factors.down), (vec![1.0, 2.0, 2.75], vec![-2.75, 2.75]));
    }
}
