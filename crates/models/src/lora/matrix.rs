//! Products of small matrices, for what files keep in factors.

use unwrong_kernels as kernels;

use crate::files::{Dtype, FrozenWeight};

/// `a · b` of `[rows, inner]` and `[inner, columns]`, row by row.
pub(super) fn product(a: &[f32], b: &[f32], inner: usize) -> Vec<f32> {
    if inner == 0 || a.is_empty() || b.is_empty() {
        return Vec::new();
    }
    let (rows, columns) = (a.len() / inner, b.len() / inner);
    let turned = transposed(b, columns);
    times(a, rows, &FrozenWeight::from_f32(&turned, &[columns, inner]))
}

/// `x · weightᵀ`, the product of a linear layer.
fn times(x: &[f32], rows: usize, weight: &FrozenWeight) -> Vec<f32> {
    let (outputs, inputs) = (weight.shape()[0], weight.shape()[1]);
    debug_assert_eq!(weight.dtype(), Dtype::F32);
    let matrix = kernels::Matrix::new(kernels::Dtype::F32, outputs, inputs, weight.bytes());
    kernels::linear(x, rows, matrix, &kernels::Epilogue::default())
}

/// Columns as rows.
pub(crate) fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    let mut turned = Vec::with_capacity(values.len());
    for column in 0..columns {
        turned.extend((0..rows).map(|row| values[row * columns + column]));
    }
    turned
}

/// `Σ_j kernel[i, j, …] · b[j, r]` as `[i, r, …]`: a kernel between channels on its inner side.
pub(super) fn through(kernel: &[f32], b: &[f32], [outer, inner, area]: [usize; 3]) -> Vec<f32> {
    let columns = b.len() / inner.max(1);
    let mut sums = vec![0.0; outer * columns * area];
    for i in 0..outer {
        let sums = &mut sums[i * columns * area..(i + 1) * columns * area];
        for j in 0..inner {
            let kernel = &kernel[(i * inner + j) * area..(i * inner + j + 1) * area];
            for (r, factor) in b[j * columns..(j + 1) * columns].iter().enumerate() {
                let sums = &mut sums[r * area..(r + 1) * area];
                sums.iter_mut().zip(kernel).for_each(|(sum, value)| *sum += factor * value);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_that_of_the_matrices() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, -1.0, 2.0, 1.0, 0.5]);
        assert_eq!(product(&a, &b, 2), [5.0, 2.0, 0.0, 11.0, 4.0, -1.0]);
        assert_eq!(transposed(&b, 3), [1.0, 2.0, 0.0, 1.0, -1.0, 0.5]);
    }

    #[test]
    fn a_kernel_of_one_number_is_a_matrix() {
        let (kernel, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, -1.0, 2.0, 1.0, 0.5]);
        assert_eq!(through(&kernel, &b, [2, 2, 1]), product(&kernel, &b, 2));
        // Two positions: the second has the first's kernel doubled.
        let wide = [1.0, 2.0, 2.0, 4.0, 3.0, 6.0, 4.0, 8.0];
        let found = through(&wide, &b, [2, 2, 2]);
        let single = product(&kernel, &b, 2);
        let expected: Vec<f32> = single.iter().flat_map(|value| [*value, 2.0 * value]).collect();
        assert_eq!(found, expected);
    }
}
