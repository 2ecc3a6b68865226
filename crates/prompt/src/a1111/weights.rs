//! Weights of pieces of text that brackets multiply.

/// Multiplications that are done one by one; a prompt for people needs a few hundred.
const EXACT: usize = 1 << 22;

/// A weight for every piece, with "multiply all from here on" as the operation.
///
/// The factors of a piece are multiplied in the order in which the brackets close, so the last
/// digit is that of A1111. Where that would take too long, as for thousands of brackets inside
/// each other, the order changes, and with it digits that no model can see.
#[derive(Default)]
pub(super) struct Weights {
    first: Vec<f64>,
    /// Pieces from the first on, up to but without the second, and their factor.
    factors: Vec<(usize, usize, f64)>,
}

impl Weights {
    pub(super) fn push(&mut self, weight: f64) {
        self.first.push(weight);
    }

    /// Multiplies the weights of all pieces so far, from number `from` on.
    pub(super) fn multiply(&mut self, from: usize, factor: f64) {
        self.factors.push((from, self.first.len(), factor));
    }

    /// The weights.
    pub(super) fn finish(self) -> Vec<f64> {
        let Self { first: mut weights, factors } = self;
        let covered =
            factors.iter().fold(0, |sum: usize, &(start, end, _)| sum.saturating_add(end - start));
        if covered > EXACT {
            return in_halves(weights, &factors);
        }
        for (start, end, factor) in factors {
            for weight in &mut weights[start..end] {
                *weight = product(*weight, factor);
            }
        }
        weights
    }
}

/// Their product, where infinity times zero is zero.
fn product(weight: f64, factor: f64) -> f64 {
    let product = weight * factor;
    if product.is_nan() { 0.0 } else { product }
}

/// The same with a tree over the pieces, in time n log n.
///
/// Digits after the ninth are dropped: the order of the factors depends on the piece's place
/// in the tree, and equal weights have to stay equal.
fn in_halves(first: Vec<f64>, factors: &[(usize, usize, f64)]) -> Vec<f64> {
    let leaves = first.len();
    let mut tree = vec![1.0; leaves];
    tree.extend(first);
    for &(start, end, factor) in factors {
        let (mut start, mut end) = (start + leaves, end + leaves);
        while start < end {
            if start % 2 == 1 {
                tree[start] *= factor;
                start += 1;
            }
            if end % 2 == 1 {
                end -= 1;
                tree[end] *= factor;
            }
            start /= 2;
            end /= 2;
        }
    }
    for node in 2..2 * leaves {
        tree[node] = product(tree[node / 2], tree[node]);
    }
    tree[leaves..].iter().map(|&weight| (weight * 1e9).round() / 1e9).collect()
}

#[cfg(test)]
mod tests {
    use super::{Weights, in_halves};

    #[test]
    fn both_ways_give_the_same_weights() {
        let mut weights = Weights::default();
        for piece in 0..37 {
            weights.push(1.0);
            weights.multiply(piece * 7 % (piece + 1), [1.1, 0.9, 1.3][piece % 3]);
        }
        let other = in_halves(weights.first.clone(), &weights.factors);
        for (exact, other) in weights.finish().into_iter().zip(other) {
            assert!((exact - other).abs() < 1e-8, "{exact} is {other}");
        }
    }
}
