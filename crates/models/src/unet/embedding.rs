//! Timesteps and sizes as vectors.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::files::WeightPath;
use crate::layers::{Linear, Run};
use crate::ops::Activation;

/// The longest wavelength of the sinusoids, over 2π.
const MAX_PERIOD: f32 = 10_000.0;

/// Cosines, then sines, of every value at `width / 2` frequencies: `[values.len(), width]`.
///
/// diffusers `get_timestep_embedding` with `flip_sin_to_cos` and no frequency shift, computed in
/// f32 as there.
pub(crate) fn sinusoid(values: &[f32], width: usize, device: &Device) -> Result<Tensor> {
    let half = width / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|i| (-MAX_PERIOD.ln() * i as f32 / half as f32).exp()).collect();
    let mut embedding = Vec::with_capacity(values.len() * width);
    for value in values {
        embedding.extend(frequencies.iter().map(|f| (value * f).cos()));
        embedding.extend(frequencies.iter().map(|f| (value * f).sin()));
    }
    Ok(Tensor::from_vec(embedding, (values.len(), 2 * half), device)?)
}

/// Two linear layers with SiLU between them.
pub(crate) struct Mlp {
    linear_1: Linear,
    linear_2: Linear,
}

impl Mlp {
    pub(crate) fn load(weights: &WeightPath, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load(&weights.path("linear_1"), &[outputs, inputs])?,
            linear_2: Linear::load(&weights.path("linear_2"), &[outputs, outputs])?,
        })
    }

    pub(crate) fn forward(&self, run: &Run<'_>, x: &Tensor) -> Result<Tensor> {
        let hidden = self.linear_1.activated(run, x, Activation::Silu)?;
        self.linear_2.forward(run, &hidden)
    }
}
