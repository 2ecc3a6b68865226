//! What a file adds to a weight, in the form in which the file has it.
//!
//! | form | difference | from |
//! |---|---|---|
//! | low rank | `up · down`, with `mid` between them for a Tucker decomposition | Hu 2021, `LoCon` |
//! | LoHa | `(w1_a · w1_b) ∘ (w2_a · w2_b)`, element by element | Hyeon-Woo 2022 |
//! | LoKr | `w1 ⊗ w2`, each whole or a product | Yeh 2024 |
//! | full | the difference itself | LyCORIS `full`, `norm` |
//!
//! All but the last count `alpha / rank` times. LoKr's rank is that of its second factor if
//! that is a product, else of its first; where both are whole, alpha does not count. Formulas:
//! LyCORIS 4.1.3 `functional/{locon,loha,lokr}.py` and ComfyUI `comfy/weight_adapter`, which
//! agree (but that LyCORIS' `get_diff_weight` of LoHa and LoKr multiplies with the factor twice;
//! its training, ComfyUI and A1111 once, as here).

use crate::files::FrozenWeight;
use crate::lora::matrix::{product, through, transposed};

/// What a file adds to a weight.
#[derive(Debug, Clone)]
pub enum Change {
    /// Nothing: only the bias changes.
    Nothing,
    /// The product of two thin matrices.
    LowRank(Pair),
    /// Two products, multiplied element by element.
    LoHa {
        /// The first product.
        first: Factor,
        /// The second product, of the same shape.
        second: Factor,
        /// Numerator of the factor.
        alpha: f64,
    },
    /// The Kronecker product of two factors.
    LoKr {
        /// The coarse factor.
        first: Factor,
        /// What its every number is multiplied with.
        second: Factor,
        /// Numerator of the factor.
        alpha: f64,
    },
    /// The difference itself, in the shape of the weight.
    Full(FrozenWeight),
    /// The difference of a norm's scale.
    Norm(FrozenWeight),
}

/// Two thin matrices.
#[derive(Debug, Clone)]
pub struct Pair {
    /// `[rank, in]`, or `[rank, in, k, k]` where the layer is a convolution.
    pub down: FrozenWeight,
    /// `[out, rank]`, or `[out, rank, 1, 1]` where the layer is a convolution.
    pub up: FrozenWeight,
    /// `[rank, rank, k, k]` between a `down` and an `up` of 1×1.
    pub mid: Option<FrozenWeight>,
    /// Numerator of the factor; equal to the rank, it changes nothing.
    pub alpha: f64,
}

/// A matrix, all axes after the first taken as columns.
#[derive(Debug, Clone)]
pub enum Factor {
    /// As it is.
    Whole(FrozenWeight),
    /// `a · b` of `[out, rank]` and `[rank, in]`.
    Product {
        /// `[out, rank]`.
        a: FrozenWeight,
        /// `[rank, in]`.
        b: FrozenWeight,
    },
    /// `Σ kernel[i, j] · a[i, out] · b[j, in]`.
    Tucker {
        /// `[rank, rank, k, k]`.
        kernel: FrozenWeight,
        /// `[rank, out]`, the other way round than in a product.
        a: FrozenWeight,
        /// `[rank, in]`.
        b: FrozenWeight,
    },
}

impl Change {
    /// Its tensors, in the order in which files name them.
    #[must_use]
    pub fn tensors(&self) -> Vec<&FrozenWeight> {
        match self {
            Self::Nothing => Vec::new(),
            Self::LowRank(Pair { down, up, mid, .. }) => {
                [down, up].into_iter().chain(mid).collect()
            }
            Self::LoHa { first, second, .. } | Self::LoKr { first, second, .. } => {
                first.tensors().into_iter().chain(second.tensors()).collect()
            }
            Self::Full(weight) | Self::Norm(weight) => vec![weight],
        }
    }

    /// The same with every tensor replaced.
    pub(super) fn map<E>(
        &self,
        with: &mut impl FnMut(&FrozenWeight) -> Result<FrozenWeight, E>,
    ) -> Result<Self, E> {
        Ok(match self {
            Self::Nothing => Self::Nothing,
            Self::LowRank(Pair { down, up, mid, alpha }) => Self::LowRank(Pair {
                down: with(down)?,
                up: with(up)?,
                mid: mid.as_ref().map(&mut *with).transpose()?,
                alpha: *alpha,
            }),
            Self::LoHa { first, second, alpha } => {
                Self::LoHa { first: first.map(with)?, second: second.map(with)?, alpha: *alpha }
            }
            Self::LoKr { first, second, alpha } => {
                Self::LoKr { first: first.map(with)?, second: second.map(with)?, alpha: *alpha }
            }
            Self::Full(weight) => Self::Full(with(weight)?),
            Self::Norm(weight) => Self::Norm(with(weight)?),
        })
    }

    /// What its products are divided by; none where there is no product.
    #[must_use]
    pub fn rank(&self) -> Option<usize> {
        match self {
            Self::Nothing | Self::Full(_) | Self::Norm(_) => None,
            Self::LowRank(pair) => Some(pair.rank()),
            Self::LoHa { first, .. } => first.rank(),
            Self::LoKr { first, second, .. } => second.rank().or(first.rank()),
        }
    }

    /// Numerator of the factor, where there is one.
    #[must_use]
    pub fn alpha(&self) -> Option<f64> {
        match self {
            Self::Nothing | Self::Full(_) | Self::Norm(_) => None,
            Self::LowRank(Pair { alpha, .. })
            | Self::LoHa { alpha, .. }
            | Self::LoKr { alpha, .. } => Some(*alpha),
        }
    }

    /// What the difference is multiplied with: `alpha / rank`, or 1 where there is no rank.
    #[must_use]
    pub fn factor(&self) -> f64 {
        match (self.alpha(), self.rank()) {
            (Some(alpha), Some(rank)) => alpha / rank as f64,
            _ => 1.0,
        }
    }

    /// Whether alpha counts: not where no factor is a product.
    #[must_use]
    pub fn factor_counts(&self) -> bool {
        self.alpha().is_some() && self.rank().is_some()
    }

    /// The name of the form, and of the alphabet of its keys.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "bias",
            Self::LowRank(Pair { mid: None, .. }) => "LoRA",
            Self::LowRank(_) => "LoCon with a Tucker decomposition",
            Self::LoHa { .. } => "LoHa",
            Self::LoKr { .. } => "LoKr",
            Self::Full(_) => "full difference",
            Self::Norm(_) => "norm",
        }
    }

    /// Rows and columns of the difference, all axes after the first being columns.
    #[must_use]
    pub fn dims(&self) -> (usize, usize) {
        match self {
            Self::Nothing => (0, 0),
            Self::LowRank(pair) => pair.dims(),
            Self::LoHa { first, .. } => first.dims(),
            Self::LoKr { first, second, .. } => {
                let ((a, b), (c, d)) = (first.dims(), second.dims());
                (a * c, b * d)
            }
            Self::Full(weight) | Self::Norm(weight) => dims(weight),
        }
    }

    /// The sides of the kernel, where the tensors say them: `[k, k]`.
    #[must_use]
    pub fn kernel(&self) -> Option<&[usize]> {
        let sides = |weight: &'_ FrozenWeight| -> bool { weight.shape().len() == 4 };
        let told = match self {
            Self::Nothing | Self::Norm(_) => None,
            Self::LowRank(Pair { mid: Some(mid), .. }) => Some(mid),
            Self::LowRank(pair) => Some(&pair.down),
            Self::LoHa { first, .. } => first.kernel_holder(),
            Self::LoKr { second, .. } => second.kernel_holder(),
            Self::Full(weight) => Some(weight),
        };
        told.filter(|weight| sides(weight)).map(|weight| &weight.shape()[2..])
    }

    /// The whole difference row by row, alpha included.
    #[must_use]
    pub fn delta(&self) -> Vec<f32> {
        let mut delta = match self {
            Self::Nothing => Vec::new(),
            Self::LowRank(pair) => product(&pair.up.values_f32(), &pair.folded(), pair.rank()),
            Self::LoHa { first, second, .. } => {
                let mut delta = first.values();
                delta.iter_mut().zip(second.values()).for_each(|(one, other)| *one *= other);
                delta
            }
            Self::LoKr { first, second, .. } => kronecker(first, second),
            Self::Full(weight) | Self::Norm(weight) => weight.values_f32(),
        };
        let factor = self.factor() as f32;
        if factor.to_bits() != 1_f32.to_bits() {
            for value in &mut delta {
                *value *= factor;
            }
        }
        delta
    }

    /// The same as two thin matrices `[rank, in…]` and `[out, rank]` without the factor, where
    /// they cost at most an eighth of the layer's own product.
    pub(super) fn thin(&self) -> Option<(FrozenWeight, FrozenWeight)> {
        let (rows, columns) = self.dims();
        let is_thin = |rank: usize| rank * (rows + columns) <= rows * columns / 8;
        match self {
            Self::LowRank(pair) if pair.mid.is_none() => Some((pair.down.clone(), pair.up.clone())),
            Self::LowRank(pair) => {
                let shape = [pair.rank(), columns];
                Some((FrozenWeight::from_f32(&pair.folded(), &shape), pair.up.clone()))
            }
            Self::LoHa {
                first: Factor::Product { a: a1, b: b1 },
                second: Factor::Product { a: a2, b: b2 },
                ..
            } if is_thin(a1.shape()[1] * a2.shape()[1]) => Some(crossed([a1, b1], [a2, b2])),
            _ => None,
        }
    }
}

impl Pair {
    /// Rows of `down`.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.down.shape().first().copied().unwrap_or(0)
    }

    /// Rows and columns of the product.
    fn dims(&self) -> (usize, usize) {
        let area = self.mid.as_ref().map_or(1, area);
        let rank = self.rank().max(1);
        (self.up.shape()[0], self.down.count() / rank * area)
    }

    /// Multiplies `mid` into `down`, which gets its kernel.
    pub(super) fn fold(&mut self) {
        let Some(mid) = &self.mid else { return };
        let inputs = self.down.shape()[1];
        let shape = [&[self.rank(), inputs], &mid.shape()[2..]].concat();
        self.down = FrozenWeight::from_f32(&self.folded(), &shape);
        self.mid = None;
    }

    /// `down` with `mid` multiplied in, `[rank, in…]`.
    fn folded(&self) -> Vec<f32> {
        let down = self.down.values_f32();
        match &self.mid {
            None => down,
            Some(mid) => through(&mid.values_f32(), &down, sizes(mid)),
        }
    }
}

impl Factor {
    fn tensors(&self) -> Vec<&FrozenWeight> {
        match self {
            Self::Whole(weight) => vec![weight],
            Self::Product { a, b } => vec![a, b],
            Self::Tucker { kernel, a, b } => vec![a, b, kernel],
        }
    }

    fn map<E>(
        &self,
        with: &mut impl FnMut(&FrozenWeight) -> Result<FrozenWeight, E>,
    ) -> Result<Self, E> {
        Ok(match self {
            Self::Whole(weight) => Self::Whole(with(weight)?),
            Self::Product { a, b } => Self::Product { a: with(a)?, b: with(b)? },
            Self::Tucker { kernel, a, b } => {
                Self::Tucker { kernel: with(kernel)?, a: with(a)?, b: with(b)? }
            }
        })
    }

    /// Rows of the inner matrix, where it is a product.
    #[must_use]
    pub fn rank(&self) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::Product { b, .. } | Self::Tucker { b, .. } => Some(b.shape()[0]),
        }
    }

    /// Rows and columns.
    #[must_use]
    pub fn dims(&self) -> (usize, usize) {
        match self {
            Self::Whole(weight) => dims(weight),
            Self::Product { a, b } => (a.shape()[0], dims(b).1),
            Self::Tucker { kernel, a, b } => (a.shape()[1], b.shape()[1] * area(kernel)),
        }
    }

    fn kernel_holder(&self) -> Option<&FrozenWeight> {
        match self {
            Self::Whole(weight) => Some(weight),
            Self::Product { .. } => None,
            Self::Tucker { kernel, .. } => Some(kernel),
        }
    }

    /// Its numbers, row by row.
    fn values(&self) -> Vec<f32> {
        match self {
            Self::Whole(weight) => weight.values_f32(),
            Self::Product { a, b } => product(&a.values_f32(), &b.values_f32(), a.shape()[1]),
            Self::Tucker { kernel, a, b } => {
                let inner = through(&kernel.values_f32(), &b.values_f32(), sizes(kernel));
                let turned = transposed(&a.values_f32(), a.shape()[1]);
                product(&turned, &inner, a.shape()[0])
            }
        }
    }
}

/// `first ⊗ second`. A kernel behind the second's columns stays behind them.
fn kronecker(first: &Factor, second: &Factor) -> Vec<f32> {
    let ((rows, columns), (inner_rows, inner_columns)) = (first.dims(), second.dims());
    let (first, second) = (first.values(), second.values());
    let mut values = Vec::with_capacity(first.len() * second.len());
    for row in 0..rows {
        for inner in 0..inner_rows {
            let block = &second[inner * inner_columns..(inner + 1) * inner_columns];
            for factor in &first[row * columns..(row + 1) * columns] {
                values.extend(block.iter().map(|value| factor * value));
            }
        }
    }
    values
}

/// `(a1 b1) ∘ (a2 b2)` as one product: its columns are those of `a1` times those of `a2`.
fn crossed(first: [&FrozenWeight; 2], second: [&FrozenWeight; 2]) -> (FrozenWeight, FrozenWeight) {
    let [a1, b1] = first.map(FrozenWeight::values_f32);
    let [a2, b2] = second.map(FrozenWeight::values_f32);
    let (r1, r2) = (first[0].shape()[1], second[0].shape()[1]);
    let mut up = Vec::with_capacity(a1.len() * r2);
    for (one, other) in a1.chunks_exact(r1).zip(a2.chunks_exact(r2)) {
        up.extend(one.iter().flat_map(|x| other.iter().map(move |y| x * y)));
    }
    let columns = b1.len() / r1;
    let mut down = Vec::with_capacity(b1.len() * r2);
    for one in b1.chunks_exact(columns) {
        for other in b2.chunks_exact(columns) {
            down.extend(one.iter().zip(other).map(|(x, y)| x * y));
        }
    }
    let (rank, rows) = (r1 * r2, first[0].shape()[0]);
    (FrozenWeight::from_f32(&down, &[rank, columns]), FrozenWeight::from_f32(&up, &[rows, rank]))
}

fn dims(weight: &FrozenWeight) -> (usize, usize) {
    let rows = weight.shape().first().copied().unwrap_or(0);
    (rows, weight.count() / rows.max(1))
}

/// Positions of a kernel.
fn area(kernel: &FrozenWeight) -> usize {
    kernel.shape()[2..].iter().product()
}

fn sizes(kernel: &FrozenWeight) -> [usize; 3] {
    [kernel.shape()[0], kernel.shape()[1], area(kernel)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(shape: &[usize], step: f32) -> FrozenWeight {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|i| (i as f32 * step).sin()).collect();
        FrozenWeight::from_f32(&values, shape)
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (one, other) in found.iter().zip(expected) {
            assert!((one - other).abs() < 1e-5, "{one} {other}");
        }
    }

    #[test]
    fn a_loha_is_the_same_as_one_thin_product() {
        let factor =
            |a: f32, b: f32| Factor::Product { a: weight(&[64, 2], a), b: weight(&[2, 64], b) };
        let loha = Change::LoHa { first: factor(0.3, 0.7), second: factor(1.1, 1.3), alpha: 1.0 };
        let (down, up) = loha.thin().expect("rank 4 is thin for 64 by 64");
        let pair = Change::LowRank(Pair { down, up, mid: None, alpha: 2.0 });
        assert_eq!((loha.factor(), pair.factor()), (0.5, 0.5));
        assert_close(&pair.delta(), &loha.delta());
        // As the sums say it.
        let [a1, b1, a2, b2]: [Vec<f32>; 4] =
            [(64, 2, 0.3), (2, 64, 0.7), (64, 2, 1.1), (2, 64, 1.3)]
                .map(|(rows, columns, step)| weight(&[rows, columns], step).values_f32());
        let at = |a: &[f32], b: &[f32]| a[6] * b[5] + a[7] * b[64 + 5];
        assert_close(&loha.delta()[3 * 64 + 5..][..1], &[0.5 * at(&a1, &b1) * at(&a2, &b2)]);
    }

    #[test]
    fn a_kronecker_product_repeats_its_second_factor() {
        let second = weight(&[2, 3], 0.9);
        let first = Factor::Whole(FrozenWeight::from_f32(&[1.0, 2.0, 3.0, -4.0], &[2, 2]));
        let lokr = Change::LoKr { first, second: Factor::Whole(second.clone()), alpha: 16.0 };
        assert_eq!((lokr.dims(), lokr.factor()), ((4, 6), 1.0));
        let delta = lokr.delta();
        let second = second.values_f32();
        for (row, column, factor) in [(0, 0, 1.0), (0, 3, 2.0), (2, 0, 3.0), (2, 3, -4.0)] {
            for (i, value) in second.iter().enumerate() {
                let place = (row + i / 3) * 6 + column + i % 3;
                assert_close(&delta[place..=place], &[factor * value]);
            }
        }
    }

    #[test]
    fn a_tucker_kernel_lies_between_the_matrices() {
        let (down, up) = (weight(&[2, 3, 1, 1], 0.4), weight(&[4, 2, 1, 1], 0.8));
        let mid = weight(&[2, 2, 3, 3], 0.3);
        let pair = Pair { down: down.clone(), up: up.clone(), mid: Some(mid.clone()), alpha: 2.0 };
        let change = Change::LowRank(pair);
        assert_eq!((change.dims(), change.kernel()), ((4, 27), Some(&[3, 3][..])));
        let (down, up, mid) = (down.values_f32(), up.values_f32(), mid.values_f32());
        let mut expected = Vec::new();
        for out in 0..4 {
            for input in 0..3 {
                for place in 0..9 {
                    let terms = (0..2).flat_map(|m| (0..2).map(move |n| (m, n)));
                    let term = |(m, n): (usize, usize)| {
                        up[out * 2 + m] * mid[(m * 2 + n) * 9 + place] * down[n * 3 + input]
                    };
                    expected.push(terms.map(term).sum::<f32>());
                }
            }
        }
        assert_close(&change.delta(), &expected);
        let (down, up) = change.thin().expect("two matrices always");
        let folded = Change::LowRank(Pair { down, up, mid: None, alpha: 2.0 });
        assert_close(&folded.delta(), &expected);
    }
}
