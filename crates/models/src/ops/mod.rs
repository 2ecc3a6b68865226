//! The seam: every hot operation, with two implementations behind it.
//!
//! `reference` is plain differentiable candle operations: it runs on every device and is the
//! oracle of the other. `cpu` is our kernels, as candle custom operations without a backward.
//! In training the reference operations have candle's graph, the kernels a [`Tape`] of their own.
//! Networks call the functions here and never ask which one runs.
//!
//! Activations are f32 and `[B, H, W, C]` or `[B, T, D]`, so a convolution's output is the
//! transformer's token list.

mod branch;
mod cpu;
pub(crate) mod graph;
mod image;
mod reference;
pub(crate) mod tape;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::files::FrozenWeight;
use crate::lora::Adapter;

pub use self::image::Image;
pub use self::tape::Tape;

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

/// A frozen product with what a LoRA adds to it: `gain ∘ (W · x) + Σ low rank + bias`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// `[out, in]`, or `[out, in, k, k]` of a convolution; a LoRA's in place of the layer's own.
    pub weight: &'a FrozenWeight,
    /// `[out]`; a LoRA's in place of the layer's own.
    pub bias: Option<&'a FrozenWeight>,
    /// What else the LoRA files of this run do to the layer: low-rank terms and a gain.
    pub adapter: Option<&'a Adapter>,
}

impl<'a> Product<'a> {
    /// A layer's product as the LoRA files of a run have it.
    pub(crate) fn adapted(
        weight: &'a FrozenWeight,
        bias: Option<&'a FrozenWeight>,
        adapter: Option<&'a Adapter>,
    ) -> Self {
        let Some(changed) = adapter else { return Self { weight, bias, adapter } };
        let weight = changed.overlay.as_ref().unwrap_or(weight);
        Self { weight, bias: changed.bias.as_ref().or(bias), adapter }
    }

    /// Factor per output of the frozen product.
    fn gain(&self) -> Option<&'a FrozenWeight> {
        self.adapter.and_then(|adapter| adapter.gain.as_ref())
    }
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
    if ops == Ops::Reference {
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

/// A convolution and what is fused into it.
#[derive(Clone, Copy)]
pub struct Convolution<'a> {
    /// Weight `[O, C, k, k]` and bias.
    pub product: Product<'a>,
    /// Its geometry.
    pub window: Window,
    /// Normalises what is read; the padding stays zero.
    pub norm: Option<GroupNorm<'a>>,
    /// `[B, O]`, added to every pixel.
    pub per_image: Option<&'a Tensor>,
}

impl<'a> Convolution<'a> {
    /// Nothing fused but the bias.
    #[must_use]
    pub fn plain(product: Product<'a>, window: Window) -> Self {
        Self { product, window, norm: None, per_image: None }
    }
}

/// A convolution, plus a residual, whose memory the result takes where nobody else holds it.
///
/// # Shapes
/// - `x`: `[B, H, W, C]`; `residual` and the result: `[B, H', W', O]`
pub fn conv2d(
    ops: Ops,
    x: &Image,
    conv: &Convolution<'_>,
    residual: Option<Image>,
) -> Result<Image> {
    match ops {
        Ops::Cpu | Ops::Quantized => cpu::conv2d(x, conv, residual),
        Ops::Reference => reference::conv2d(x, conv, residual),
    }
}

/// The first half of a resnet whose input is a doubled and convolved image.
#[derive(Clone, Copy)]
pub struct DoubledHalf<'a> {
    /// 3×3, on the doubled image.
    pub upsampler: Product<'a>,
    /// Of the upsampler's output.
    pub norm: GroupNorm<'a>,
    /// 3×3, after the norm.
    pub conv: Product<'a>,
    /// 1×1, on the upsampler's output.
    pub shortcut: Product<'a>,
}

impl<'a> DoubledHalf<'a> {
    fn upsampled(&self) -> Convolution<'a> {
        Convolution::plain(self.upsampler, Window { upsample: true, ..Window::same(3) })
    }
}

/// Both outputs of a [`DoubledHalf`], convolution and shortcut, without the image between.
///
/// Bands of `rows` rows (a multiple of 4) of that image are computed twice, once for the norm's
/// statistics; the results have the bits of [`conv2d`] after [`conv2d`].
///
/// # Shapes
/// - `x`: `[B, H, W, C]`; results: `[B, 2H, 2W, O]`
pub fn doubled_half(
    ops: Ops,
    x: &Image,
    half: &DoubledHalf<'_>,
    rows: usize,
) -> Result<(Image, Image)> {
    let products = [half.upsampler, half.conv, half.shortcut];
    if ops == Ops::Cpu && products.iter().all(|product| product.adapter.is_none()) {
        return cpu::doubled_half(x, half, rows);
    }
    let image = conv2d(ops, x, &half.upsampled(), None)?;
    let conv = Convolution::plain(half.conv, Window::same(3));
    let hidden = conv2d(ops, &image, &Convolution { norm: Some(half.norm), ..conv }, None)?;
    let shortcut = Convolution::plain(half.shortcut, Window::same(1));
    Ok((hidden, conv2d(ops, &image, &shortcut, None)?))
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

/// A group normalisation.
#[derive(Clone, Copy)]
pub struct GroupNorm<'a> {
    /// Groups of neighbouring channels that share mean and variance.
    pub groups: usize,
    /// After it.
    pub affine: Affine<'a>,
    /// `SiLU` at the end.
    pub silu: bool,
}

/// Group normalisation of `[B, H, W, C]`.
pub fn group_norm(ops: Ops, x: &Tensor, norm: GroupNorm<'_>) -> Result<Tensor> {
    match ops {
        Ops::Cpu | Ops::Quantized => cpu::group_norm(x, norm),
        Ops::Reference => reference::group_norm(x, norm),
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

/// One row of each batch entry, `[B, D]` of `[B, T, D]`.
pub(crate) fn picked(x: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let row = |(index, row): (usize, &usize)| x.narrow(0, index, 1)?.narrow(1, *row, 1)?.squeeze(1);
    let picked = rows.iter().enumerate().map(row).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::cat(&picked, 0)?.contiguous()?)
}

/// `[B, H, W, C]` → `[B, 2H, 2W, C]`, nearest neighbour.
pub fn upsample_2x(x: &Tensor) -> Result<Tensor> {
    reference::upsample_2x(x)
}

/// [`upsample_2x`] up to `height` and `width`, which may be one less than twice the size.
///
/// `floor(i · h / (2h − 1)) = floor(i / 2)` for every row, so PyTorch's nearest interpolation to
/// an odd size is the doubled image without its last row.
pub(crate) fn doubled(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    Ok(upsample_2x(x)?.narrow(1, 0, height)?.narrow(2, 0, width)?.contiguous()?)
}
