//! What the files of a run do to one layer, file after file.
//!
//! Each file changes the weight that the ones before it left, as ComfyUI's list of patches does
//! (`comfy/lora.py`, `calculate_weight`). Plain differences add up in any order; DoRA looks at
//! the sum that it finds.
//!
//! DoRA, at the user's scale `s`: `W' = W + s · (m · (W + D) / ‖W + D‖ − W)`, lengths taken per
//! row where the file has one per output, else per column. At 1 that is what LyCORIS 4.1.3
//! (`functional/general.py`, `weight_decompose`) and PEFT 0.21.2 (`tuners/lora/dora.py`) compute;
//! the way there is ComfyUI's and A1111's (`network.py`), a straight line from the weight as it
//! is. PEFT scales `D` inside the fraction instead and so ends, at 0, at `m · W / ‖W‖`. (ComfyUI
//! divides rows by the length of `W` alone, which no trainer does.)
//!
//! Thin products stay thin: they cost little and keep every bit. A difference that is dense
//! (LoKr, a full difference, a LoHa of high rank) or has lengths per column takes the place of
//! the weight, in the weight's own dtype: over all of SDXL's UNet that is another 5.1 GB in f16,
//! and would be 10.3 GB in f32. ComfyUI and A1111 keep the sum in that dtype as well. DoRA with
//! lengths per row is a factor per output and its thin product, exact and without a copy.

use crate::files::FrozenWeight;
use crate::lora::change::Change;
use crate::lora::matrix::product;
use crate::lora::targets::Target;
use crate::lora::{Adapter, LoraLayer, LowRank};

/// What the files so far do to one layer: `gain ∘ dense + Σ low_rank`, where `dense` is the
/// layer's own weight unless it had to be replaced.
pub(super) struct Effect<'a> {
    target: &'a Target,
    dense: Option<Vec<f32>>,
    gain: Option<Vec<f32>>,
    low_rank: Vec<LowRank>,
    bias: Option<Vec<f32>>,
}

impl<'a> Effect<'a> {
    pub(super) fn new(target: &'a Target) -> Self {
        Self { target, dense: None, gain: None, low_rank: Vec::new(), bias: None }
    }

    /// One file's layer, whose shapes fit, at the user's scale, which is not 0.
    pub(super) fn add(&mut self, layer: &LoraLayer, scale: f64) {
        if let Some(difference) = &layer.bias {
            let own = self.target.bias.as_ref();
            let bias = self.bias.get_or_insert_with(|| match own {
                Some(bias) => bias.values_f32(),
                None => vec![0.0; difference.count()],
            });
            add_scaled(bias, &difference.values_f32(), scale as f32);
        }
        match &layer.magnitude {
            None => self.add_difference(&layer.change, scale),
            Some(lengths) if lengths.shape()[0] == self.target.weight.shape()[0] => {
                self.stretch_rows(&layer.change, &lengths.values_f32(), scale as f32);
            }
            Some(lengths) => {
                self.stretch_columns(&layer.change, &lengths.values_f32(), scale as f32);
            }
        }
    }

    /// All of it, for the layer to run with; `None` if nothing is changed.
    pub(super) fn finish(self) -> Option<Adapter> {
        let weight = &self.target.weight;
        let overlay = self.dense.map(|dense| {
            // A norm's few numbers cost nothing.
            if self.target.is_norm() {
                FrozenWeight::from_f32(&dense, weight.shape())
            } else {
                FrozenWeight::rounded(&dense, weight.dtype(), weight.shape())
            }
        });
        let vector = |values: Vec<f32>| FrozenWeight::from_f32(&values, &[values.len()]);
        let (gain, bias) = (self.gain.map(vector), self.bias.map(vector));
        let is_some = overlay.is_some() || gain.is_some() || bias.is_some();
        let adapter = Adapter { low_rank: self.low_rank, gain, overlay, bias };
        (is_some || !adapter.low_rank.is_empty()).then_some(adapter)
    }

    fn add_difference(&mut self, change: &Change, scale: f64) {
        if let Some((down, up)) = change.thin() {
            let scale = (scale * change.factor()) as f32;
            if scale != 0.0 {
                self.low_rank.push(self.fitted(&down, &up, scale));
            }
            return;
        }
        let delta = change.delta();
        if !delta.is_empty() {
            add_scaled(self.dense_mut(), &delta, scale as f32);
        }
    }

    /// DoRA with a length per row.
    fn stretch_rows(&mut self, change: &Change, lengths: &[f32], scale: f32) {
        let delta = change.delta();
        let mut sum = self.current();
        add_scaled(&mut sum, &delta, 1.0);
        let columns = sum.len() / lengths.len().max(1);
        let stretch: Vec<f32> = sum
            .chunks_exact(columns.max(1))
            .zip(lengths)
            .map(|(row, length)| length / norm(row.iter().copied()))
            .collect();
        // (1 − s) · W + s · m / ‖W + D‖ · (W + D)
        let kept: Vec<f32> = stretch.iter().map(|factor| 1.0 + scale * (factor - 1.0)).collect();
        for term in &mut self.low_rank {
            term.up = stretched(&term.up, &kept, 1.0);
        }
        let added: Vec<f32> = stretch.iter().map(|factor| scale * factor).collect();
        if let Some((down, up)) = change.thin() {
            match &mut self.gain {
                None => self.gain = Some(kept),
                Some(gain) => gain.iter_mut().zip(kept).for_each(|(gain, kept)| *gain *= kept),
            }
            let up = stretched(&up, &added, change.factor() as f32);
            self.low_rank.push(self.fitted(&down, &up, 1.0));
            return;
        }
        let dense = self.dense_mut();
        for (row, (values, delta)) in
            dense.chunks_exact_mut(columns).zip(delta.chunks_exact(columns)).enumerate()
        {
            multiply(values, kept[row]);
            add_scaled(values, delta, added[row]);
        }
    }

    /// DoRA with a length per column (of a convolution: per input channel).
    fn stretch_columns(&mut self, change: &Change, lengths: &[f32], scale: f32) {
        let current = self.current();
        let mut sum = current.clone();
        add_scaled(&mut sum, &change.delta(), 1.0);
        let columns = sum.len() / self.target.weight.shape()[0].max(1);
        let area = columns / lengths.len().max(1);
        let stretch = lengths.iter().enumerate().map(|(input, length)| {
            let column = |row: &'_ [f32]| row[input * area..(input + 1) * area].to_vec();
            length / norm(sum.chunks_exact(columns).flat_map(column))
        });
        let stretch: Vec<f32> = stretch.collect();
        let values = current.iter().zip(&sum).enumerate().map(|(place, (value, sum))| {
            value + scale * (sum * stretch[place % columns / area] - value)
        });
        self.dense = Some(values.collect());
        (self.gain, self.low_rank) = (None, Vec::new());
    }

    /// The weight as the files so far have made it.
    fn current(&self) -> Vec<f32> {
        let mut values = self.gained();
        for LowRank { down, up, scale } in &self.low_rank {
            let rank = down.shape()[0];
            add_scaled(&mut values, &product(&up.values_f32(), &down.values_f32(), rank), *scale);
        }
        values
    }

    fn gained(&self) -> Vec<f32> {
        let mut values = self.dense.clone().unwrap_or_else(|| self.target.weight.values_f32());
        if let Some(gain) = &self.gain {
            let columns = values.len() / gain.len().max(1);
            for (row, gain) in values.chunks_exact_mut(columns.max(1)).zip(gain) {
                multiply(row, *gain);
            }
        }
        values
    }

    /// The weight without its thin products, to be changed.
    fn dense_mut(&mut self) -> &mut Vec<f32> {
        if self.dense.is_none() || self.gain.is_some() {
            self.dense = Some(self.gained());
            self.gain = None;
        }
        self.dense.get_or_insert_default()
    }

    /// Two thin matrices in the shapes of the layer.
    fn fitted(&self, down: &FrozenWeight, up: &FrozenWeight, scale: f32) -> LowRank {
        let shape = self.target.weight.shape();
        let rank = down.shape()[0];
        let ones = vec![1; shape.len().saturating_sub(2)];
        LowRank {
            down: reshaped(down, &[&[rank], &shape[1..]].concat()),
            up: reshaped(up, &[&[shape[0], rank], &*ones].concat()),
            scale,
        }
    }
}

/// `up` with every row multiplied by its factor and by `common`.
fn stretched(up: &FrozenWeight, factors: &[f32], common: f32) -> FrozenWeight {
    let mut values = up.values_f32();
    let rank = values.len() / factors.len().max(1);
    for (row, factor) in values.chunks_exact_mut(rank.max(1)).zip(factors) {
        multiply(row, factor * common);
    }
    FrozenWeight::from_f32(&values, up.shape())
}

/// Length of a vector, no less than what LyCORIS and ComfyUI keep from dividing by zero with.
fn norm(values: impl Iterator<Item = f32>) -> f32 {
    values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt() as f32 + f32::EPSILON
}

fn add_scaled(sum: &mut [f32], values: &[f32], scale: f32) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += scale * value);
}

fn multiply(values: &mut [f32], factor: f32) {
    for value in values {
        *value *= factor;
    }
}

fn reshaped(weight: &FrozenWeight, shape: &[usize]) -> FrozenWeight {
    if weight.shape() == shape { weight.clone() } else { weight.reshaped(shape) }
}
