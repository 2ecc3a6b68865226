//! A LoRA added into a weight.

use crate::lora::Adapter;

impl Adapter {
    /// What the layer's weight becomes: `weight + Σ scale · up · down`, row by row.
    ///
    /// `weight` is `[rows, …]`; everything is summed up in f32, in the order of the files.
    pub(super) fn fuse_into(&self, weight: &mut [f32], rows: usize) {
        if let Some(overlay) = &self.overlay {
            weight.copy_from_slice(&overlay.values_f32());
        }
        let width = weight.len().checked_div(rows).unwrap_or(0);
        if width == 0 {
            return;
        }
        for term in &self.low_rank {
            let (down, up) = (term.down.values_f32(), term.up.values_f32());
            let rank = term.down.shape().first().copied().unwrap_or(0).max(1);
            let mut sum = vec![0.0_f32; width];
            for (row, factors) in weight.chunks_exact_mut(width).zip(up.chunks_exact(rank)) {
                sum.fill(0.0);
                for (factor, direction) in factors.iter().zip(down.chunks_exact(width)) {
                    for (sum, value) in sum.iter_mut().zip(direction) {
                        *sum += factor * value;
                    }
                }
                for (weight, sum) in row.iter_mut().zip(&sum) {
                    *weight += term.scale * sum;
                }
            }
        }
        if let Some(gain) = &self.gain {
            for (row, gain) in weight.chunks_exact_mut(width).zip(gain.values_f32()) {
                for weight in row {
                    *weight *= gain;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::FrozenWeight;
    use crate::lora::LowRank;

    #[test]
    fn the_product_is_added_row_by_row() {
        let term = |scale| LowRank {
            down: FrozenWeight::from_f32(&[1.0, 2.0, 3.0, 0.0, -1.0, 1.0], &[2, 3]),
            up: FrozenWeight::from_f32(&[1.0, 0.0, 2.0, 1.0], &[2, 2]),
            scale,
        };
        let adapter = Adapter { low_rank: vec![term(1.0), term(-0.5)], ..Adapter::default() };
        let mut weight = vec![10.0, 10.0, 10.0, 0.0, 0.0, 0.0];
        adapter.fuse_into(&mut weight, 2);
        assert_eq!(weight, [10.5, 11.0, 11.5, 1.0, 1.5, 3.5]);
    }
}
