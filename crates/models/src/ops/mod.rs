//! The seam: every hot operation, with two implementations behind it.
//!
//! `reference` is plain differentiable candle operations: it runs on every device and is the
//! oracle of the other. `cpu` is our kernels, as candle custom operations without a backward.
//! Networks call the functions here and never ask which one runs.
//!
//! Activations are f32 and `[B, H, W, C]` or `[B, T, D]`, so a convolution's output is the
//! transformer's token list.

mod cpu;
mod reference;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::files::FrozenWeight;
use crate::lora::Adapter;

/// Which implementation of the operations runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ops {
    /// Plain candle operations, on any device.
    Reference,
    /// Our kernels, on the CPU.
    Cpu,
    /// Our kernels with a picture's linear layers in integers: faster, not exact.
    Quantized,
}

impl Ops {
    /// The best implementation for a device; `UNWRONG_OPS=reference` forces the plain one.
    ///
    /// Says so where `UNWRONG_ISA` asks the kernels for instructions this machine lacks.
    pub fn for_device(device: &Device) -> Result<Self> {
        unwrong_kernels::Isa::from_environment().map_err(|reason| Error::UnknownIsa { reason })?;
        let best = if device.is_cpu() { Self::Cpu } else { Self::Reference };
        match std::env::var("UNWRONG_OPS").as_deref() {
            Err(_) | Ok("" | "cpu") => Ok(best),
            Ok("reference") => Ok(Self::Reference),
            Ok(other) => Err(Error::UnknownOps { value: other.to_owned() }),
        }
    }

    /// What computes: the kernels' instruction level, or `reference`.
    #[must_use]
    pub fn level(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Cpu | Self::Quantized => unwrong_kernels::Isa::current().name(),
        }
    }

    /// The same device without what is not exact.
    #[must_use]
    pub fn exact(self) -> Self {
        match self {
            Self::Quantized => Self::Cpu,
            other => other,
        }
    }
}

/// What is applied to a product before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · Φ(x)`, with the error function.
    Gelu,
    /// `x · sigmoid(1.702 x)`, as OpenAI's CLIP has it.
    QuickGelu,
    /// First half times GELU of the second half of the features.
    Geglu,
}

/// A frozen product with what a LoRA adds to it.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// `[out, in]`, or `[out, in, k, k]` of a convolution.
    pub weight: &'a FrozenWeight,
    /// `[out]`.
    pub bias: Option<&'a FrozenWeight>,
    /// What the LoRA files of this run do to the layer.
    pub adapter: Option<&'a Adapter>,
}

/// `activation(x · Wᵀ + b) + residual`.
///
/// # Shapes
/// - `x`: `[…, in]`, `residual`: `[…, out]` (half of it with [`Activation::Geglu`])
pub fn linear(
    ops: Ops,
    x: &Tensor,
    product: Product<'_>,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    if ops == Ops::Reference || !plain(product) {
        return reference::linear(x, product, activation, residual);
    }
    let arithmetic = match ops {
        Ops::Quantized if are_picture_tokens(x) => cpu::Arithmetic::Integers,
        _ => cpu::Arithmetic::Floats,
    };
    cpu::linear(x, product, arithmetic, activation, residual)
}

/// Fewer tokens than this in a picture are not worth rounding the weight for.
const MIN_TOKENS: usize = 64;

/// Whether `x` is `[B, T, D]` with many tokens. The batch does not count: a picture's result
/// must not depend on it.
fn are_picture_tokens(x: &Tensor) -> bool {
    matches!(x.dims(), [_, tokens, _] if *tokens >= MIN_TOKENS)
}

/// Where a convolution looks and where it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Side of the square kernel.
    pub kernel: usize,
    /// Distance of two outputs, in inputs.
    pub stride: usize,
    /// Zeros around the input: top, bottom, left, right.
    pub padding: [usize; 4],
    /// Reads every input pixel twice in both directions (nearest neighbour), before padding.
    pub upsample: bool,
}

impl Window {
    /// Output as large as the input.
    #[must_use]
    pub fn same(kernel: usize) -> Self {
        let pad = kernel / 2;
        Self { kernel, stride: 1, padding: [pad; 4], upsample: false }
    }
}

/// A convolution, plus a vector per image, plus a residual.
///
/// # Shapes
/// - `x`: `[B, H, W, C]`, `per_image`: `[B, O]`, `residual` and the result: `[B, H', W', O]`
pub fn conv2d(
    ops: Ops,
    x: &Tensor,
    product: Product<'_>,
    window: Window,
    per_image: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    match ops {
        Ops::Cpu | Ops::Quantized if plain(product) => {
            cpu::conv2d(x, product, window, per_image, residual)
        }
        _ => reference::conv2d(x, product, window, per_image, residual),
    }
}

/// Which keys a query may look at.
#[derive(Clone, Copy)]
pub enum Mask<'a> {
    /// All of them.
    None,
    /// Those up to its own position.
    Causal,
    /// Those up to its own position, less the ones that are `false` in `[B, S]`, row by row.
    CausalKeys(&'a [&'a [bool]]),
}

/// `softmax(q · kᵀ / sqrt(D)) · v` for every head.
///
/// # Shapes
/// - `q`, and the result: `[B, T, h·D]`; `k`, `v`: `[B, S, h·D]`
pub fn attention(
    ops: Ops,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Mask<'_>,
) -> Result<Tensor> {
    match (ops, mask) {
        (Ops::Cpu | Ops::Quantized, Mask::None) => cpu::attention(q, k, v, heads, false),
        (Ops::Cpu | Ops::Quantized, Mask::Causal) => cpu::attention(q, k, v, heads, true),
        // Only prompts with weights below 1 mask keys: 77 tokens, a few times per prompt.
        _ => reference::attention(q, k, v, heads, mask),
    }
}

/// Scale and shift after a normalisation.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    /// `[C]`.
    pub weight: &'a FrozenWeight,
    /// `[C]`.
    pub bias: &'a FrozenWeight,
    /// Added to the variance.
    pub eps: f64,
}

/// Group normalisation of `[B, H, W, C]`, with SiLU after it when `silu`.
pub fn group_norm(
    ops: Ops,
    x: &Tensor,
    groups: usize,
    affine: Affine<'_>,
    silu: bool,
) -> Result<Tensor> {
    match ops {
        Ops::Cpu | Ops::Quantized => cpu::group_norm(x, groups, affine, silu),
        Ops::Reference => reference::group_norm(x, groups, affine, silu),
    }
}

/// Layer normalisation over the last axis.
pub fn layer_norm(ops: Ops, x: &Tensor, affine: Affine<'_>) -> Result<Tensor> {
    match ops {
        Ops::Cpu | Ops::Quantized => cpu::layer_norm(x, affine),
        Ops::Reference => reference::layer_norm(x, affine),
    }
}

/// `x · sigmoid(x)`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    Ok(x.silu()?)
}

/// `[B, H, W, C]` → `[B, 2H, 2W, C]`, nearest neighbour.
pub fn upsample_2x(x: &Tensor) -> Result<Tensor> {
    reference::upsample_2x(x)
}

/// Whether the fused kernels know this product: a frozen weight and low-rank terms.
/// A gain per channel or an overlay goes the reference way.
fn plain(product: Product<'_>) -> bool {
    product.adapter.is_none_or(|adapter| adapter.gain.is_none() && adapter.overlay.is_none())
}
