//! The layers that UNet, VAE and text encoders share, and how one run passes through them.
//!
//! A layer holds views of its frozen weights and its checkpoint name; what a LoRA does to it is
//! looked up by that name in the [`Run`], so a change of scale touches no network.

use candle_core::{D, Shape, Tensor};

use crate::error::{Error, Result};
use crate::files::{FrozenWeight, WeightPath};
use crate::lora::{LayerAdapters, Network, Trained};
use crate::ops::tape::Trains;
use crate::ops::{
    self, Activation, Affine, Convolution, DoubledHalf, GroupNorm, Image, Mask, Ops, Product, Tape,
    Window, graph,
};

/// Told every block's name and output; used by the parity tests.
pub type Observer<'a> = dyn Fn(&str, &Tensor) + 'a;

/// How much of a unit of a network is computed where gradients are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// What its backward reads: all but the numbers of its last product.
    Inner,
    /// The last product of such a unit: its place in the graph alone.
    Outline,
}

/// A pass whose gradients are wanted.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    /// What is trained.
    pub trained: &'a Trained,
    /// Whose layers the pass goes through.
    pub network: Network,
    /// Where the kernels record what they do; without it, candle's graph does.
    pub tape: Option<&'a Tape>,
}

impl<'a> Training<'a> {
    /// What is trained of a layer.
    fn trains<'l>(&self, name: &'l str) -> Option<Trains<'l>>
    where
        'a: 'l,
    {
        let network = self.network;
        Some(Trains { network, name, branch: self.trained.get(network, name)? })
    }
}

/// What one pass through a network carries beside its inputs.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// Which implementation of the operations.
    pub ops: Ops,
    /// What the LoRA files do to this network.
    pub adapters: &'a LayerAdapters,
    /// What is being trained: then every operation has a way back.
    pub training: Option<Training<'a>>,
    /// How much of a unit is computed.
    pub extent: Extent,
    /// Sees the output of every block.
    pub observer: Option<&'a Observer<'a>>,
}

impl<'a> Run<'a> {
    /// A run that nobody watches.
    #[must_use]
    pub fn new(ops: Ops, adapters: &'a LayerAdapters) -> Self {
        Self { ops, adapters, training: None, extent: Extent::Whole, observer: None }
    }

    /// The same run without what is not exact.
    pub(crate) fn exact(&self) -> Self {
        Self { ops: self.ops.exact(), ..*self }
    }

    /// The run for a unit's last product.
    pub(crate) fn last(&self) -> Self {
        match self.extent {
            Extent::Inner => Self { extent: Extent::Outline, ..*self },
            _ => *self,
        }
    }

    /// Shows a block's output to the observer, if there is one.
    pub(crate) fn observe(&self, name: &str, output: &Tensor) {
        if let Some(observer) = self.observer {
            observer(name, output);
        }
    }

    /// [`Run::observe`] for an image: the observer may keep what it is shown.
    pub(crate) fn observe_image(&self, name: &str, output: &Image) -> Result<()> {
        if let Some(observer) = self.observer {
            observer(name, &output.to_tensor()?);
        }
        Ok(())
    }

    fn tape(&self) -> Option<&'a Tape> {
        self.training.and_then(|training| training.tape)
    }

    /// A convolution of the layer `name`.
    fn conv2d(
        &self,
        name: &str,
        x: &Image,
        conv: &Convolution<'_>,
        residual: Option<Image>,
    ) -> Result<Image> {
        let trains = self.training.and_then(|training| training.trains(name));
        match (self.tape(), trains) {
            (Some(tape), trains) => tape.conv2d(x, conv, trains, residual, self.extent),
            (None, Some(trains)) => graph::conv2d(x, conv, trains.branch, residual),
            (None, None) => ops::conv2d(self.ops, x, conv, residual),
        }
    }

    /// See [`ops::attention`].
    pub(crate) fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: usize,
        mask: Mask<'_>,
    ) -> Result<Tensor> {
        match (self.tape(), mask) {
            (Some(tape), Mask::None) => tape.attention([q, k, v], heads, false),
            (Some(tape), Mask::Causal) => tape.attention([q, k, v], heads, true),
            (Some(_), Mask::CausalKeys(_)) => Err(Error::NoBackward { op: "attention" }),
            (None, _) => ops::attention(self.ops, q, k, v, heads, mask),
        }
    }

    /// The same numbers in another shape.
    pub(crate) fn reshape(&self, x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
        match self.tape() {
            Some(tape) => tape.reshape(x, shape),
            None => Ok(x.reshape(shape.into())?),
        }
    }

    /// Both tensors side by side along the last axis.
    pub(crate) fn joined(&self, parts: [&Tensor; 2]) -> Result<Tensor> {
        match self.tape() {
            Some(tape) => tape.joined(parts),
            None => Ok(Tensor::cat(&parts, D::Minus1)?),
        }
    }

    /// The sum of two tensors of one shape.
    pub(crate) fn added(&self, parts: [&Tensor; 2]) -> Result<Tensor> {
        match self.tape() {
            Some(tape) => tape.added(parts),
            None => Ok((parts[0] + parts[1])?),
        }
    }

    /// `x · sigmoid(x)`.
    pub(crate) fn silu(&self, x: &Tensor) -> Result<Tensor> {
        match self.tape() {
            Some(tape) => tape.silu(x),
            None => ops::silu(x),
        }
    }

    /// One row of each picture's, `[B, D]` of `[B, T, D]`.
    pub(crate) fn picked(&self, x: &Tensor, rows: &[usize]) -> Result<Tensor> {
        match self.tape() {
            Some(tape) => tape.picked(x, rows),
            None => ops::picked(x, rows),
        }
    }

    fn product<'l>(&self, layer: &'l Linear) -> Product<'l>
    where
        'a: 'l,
    {
        let adapter = self.adapters.get(&layer.name);
        Product::adapted(&layer.weight, layer.bias.as_ref(), adapter)
    }
}

/// A linear layer or the weights of a convolution: `weight`, and `bias` where there is one.
pub(crate) struct Linear {
    name: String,
    weight: FrozenWeight,
    bias: Option<FrozenWeight>,
}

impl Linear {
    /// A layer with a bias; `shape` is `[out, in]` or `[out, in, k, k]`.
    pub(crate) fn load(weights: &WeightPath, shape: &[usize]) -> Result<Self> {
        let bias = Some(weights.get("bias", &shape[..1])?);
        Ok(Self { bias, ..Self::load_no_bias(weights, shape)? })
    }

    /// A layer without a bias.
    pub(crate) fn load_no_bias(weights: &WeightPath, shape: &[usize]) -> Result<Self> {
        Ok(Self {
            name: weights.name().to_owned(),
            weight: weights.get("weight", shape)?,
            bias: None,
        })
    }

    pub(crate) fn forward(&self, run: &Run<'_>, x: &Tensor) -> Result<Tensor> {
        self.fused(run, x, Activation::None, None)
    }

    pub(crate) fn activated(
        &self,
        run: &Run<'_>,
        x: &Tensor,
        activation: Activation,
    ) -> Result<Tensor> {
        self.fused(run, x, activation, None)
    }

    pub(crate) fn onto(&self, run: &Run<'_>, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.fused(run, x, Activation::None, Some(residual))
    }

    fn fused(
        &self,
        run: &Run<'_>,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let product = run.product(self);
        let Some(training) = run.training else {
            return ops::linear(run.ops, x, product, activation, residual);
        };
        let trains = training.trains(&self.name);
        if let Some(tape) = training.tape {
            return tape.linear(x, product, trains, activation, residual, run.extent);
        }
        graph::linear(x, product, trains.map(|trains| trains.branch), activation, residual)
    }
}

/// A convolution with a bias.
pub(crate) struct Conv {
    weights: Linear,
    window: Window,
}

impl Conv {
    /// Output as large as the input.
    pub(crate) fn load(
        weights: &WeightPath,
        inputs: usize,
        outputs: usize,
        kernel: usize,
    ) -> Result<Self> {
        Self::with_window(weights, inputs, outputs, Window::same(kernel))
    }

    pub(crate) fn with_window(
        weights: &WeightPath,
        inputs: usize,
        outputs: usize,
        window: Window,
    ) -> Result<Self> {
        let shape = [outputs, inputs, window.kernel, window.kernel];
        Ok(Self { weights: Linear::load(weights, &shape)?, window })
    }

    pub(crate) fn forward(&self, run: &Run<'_>, x: &Tensor) -> Result<Tensor> {
        self.image(run, &x.into())?.into_tensor()
    }

    pub(crate) fn image(&self, run: &Run<'_>, x: &Image) -> Result<Image> {
        run.conv2d(&self.weights.name, x, &self.plain(run), None)
    }

    /// The convolution of `norm(x)`, plus `per_image` `[B, O]`, plus `residual`.
    pub(crate) fn normed(
        &self,
        run: &Run<'_>,
        x: &Image,
        norm: GroupNorm<'_>,
        per_image: Option<&Tensor>,
        residual: Option<Image>,
    ) -> Result<Image> {
        let conv = Convolution { norm: Some(norm), per_image, ..self.plain(run) };
        run.conv2d(&self.weights.name, x, &conv, residual)
    }

    fn plain<'l>(&'l self, run: &Run<'l>) -> Convolution<'l> {
        Convolution::plain(run.product(&self.weights), self.window)
    }
}

/// Nearest-neighbour doubling, then a 3×3 convolution.
pub(crate) struct Upsample {
    conv: Conv,
}

impl Upsample {
    pub(crate) fn load(weights: &WeightPath, channels: usize) -> Result<Self> {
        let window = Window { upsample: true, ..Window::same(3) };
        Ok(Self { conv: Conv::with_window(&weights.path("conv"), channels, channels, window)? })
    }

    pub(crate) fn forward(&self, run: &Run<'_>, x: &Tensor) -> Result<Tensor> {
        self.conv.forward(run, x)
    }

    pub(crate) fn image(&self, run: &Run<'_>, x: &Image) -> Result<Image> {
        self.conv.image(run, x)
    }

    /// Doubles to exactly `height` × `width`, which may be one less than twice the input: odd
    /// sizes lose a row or column on the way down and must meet their skip again.
    pub(crate) fn forward_to(
        &self,
        run: &Run<'_>,
        x: &Tensor,
        height: usize,
        width: usize,
    ) -> Result<Tensor> {
        let (_, h, w, _) = x.dims4()?;
        if (height, width) == (2 * h, 2 * w) {
            return self.forward(run, x);
        }
        let doubled = match run.tape() {
            Some(tape) => tape.doubled(x, height, width)?,
            None => ops::doubled(x, height, width)?,
        };
        let conv = Convolution::plain(run.product(&self.conv.weights), Window::same(3));
        run.conv2d(&self.conv.weights.name, &doubled.into(), &conv, None)?.into_tensor()
    }
}

/// Scale and shift of a normalisation.
pub(crate) struct Norm {
    name: String,
    weight: FrozenWeight,
    bias: FrozenWeight,
    eps: f64,
}

impl Norm {
    pub(crate) fn load(weights: &WeightPath, width: usize, eps: f64) -> Result<Self> {
        let name = weights.name().to_owned();
        let (weight, bias) = (weights.get("weight", &[width])?, weights.get("bias", &[width])?);
        Ok(Self { name, weight, bias, eps })
    }

    /// As the LoRA files of the run have it.
    fn affine<'l>(&'l self, run: &Run<'l>) -> Affine<'l> {
        let adapter = run.adapters.get(&self.name);
        let Product { weight, bias, .. } =
            Product::adapted(&self.weight, Some(&self.bias), adapter);
        Affine { weight, bias: bias.unwrap_or(&self.bias), eps: self.eps }
    }

    /// Over the last axis.
    pub(crate) fn layer(&self, run: &Run<'_>, x: &Tensor) -> Result<Tensor> {
        match run.tape() {
            Some(tape) => tape.layer_norm(x, self.affine(run)),
            None => ops::layer_norm(run.ops, x, self.affine(run)),
        }
    }

    /// Over groups of channels of `[B, H, W, C]`.
    pub(crate) fn group(&self, run: &Run<'_>, x: &Tensor, groups: usize) -> Result<Tensor> {
        let norm = GroupNorm { groups, affine: self.affine(run), silu: false };
        match run.tape() {
            Some(tape) => tape.group_norm(x, norm),
            None => ops::group_norm(run.ops, x, norm),
        }
    }

    /// Over groups of channels, then `SiLU`: for a convolution to read through.
    pub(crate) fn group_silu<'l>(&'l self, run: &Run<'l>, groups: usize) -> GroupNorm<'l> {
        GroupNorm { groups, affine: self.affine(run), silu: true }
    }
}

/// Sizes of a [`Resnet`].
#[derive(Clone, Copy)]
pub(crate) struct ResnetShape {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    /// Width of the time embedding; the VAE has none.
    pub(crate) embedding: Option<usize>,
}

/// Two normalised convolutions around the time embedding, on a skip connection.
///
/// diffusers `ResnetBlock2D` with `time_scale_shift = "default"`.
pub(crate) struct Resnet {
    name: String,
    groups: usize,
    norm1: Norm,
    conv1: Conv,
    time_emb_proj: Option<Linear>,
    norm2: Norm,
    conv2: Conv,
    conv_shortcut: Option<Conv>,
}

impl Resnet {
    pub(crate) fn load(weights: &WeightPath, shape: ResnetShape) -> Result<Self> {
        let ResnetShape { inputs, outputs, groups, eps, embedding } = shape;
        let time_emb_proj = match embedding {
            Some(width) => Some(Linear::load(&weights.path("time_emb_proj"), &[outputs, width])?),
            None => None,
        };
        let conv_shortcut = if inputs == outputs {
            None
        } else {
            Some(Conv::load(&weights.path("conv_shortcut"), inputs, outputs, 1)?)
        };
        Ok(Self {
            name: weights.name().to_owned(),
            groups,
            norm1: Norm::load(&weights.path("norm1"), inputs, eps)?,
            conv1: Conv::load(&weights.path("conv1"), inputs, outputs, 3)?,
            time_emb_proj,
            norm2: Norm::load(&weights.path("norm2"), outputs, eps)?,
            conv2: Conv::load(&weights.path("conv2"), outputs, outputs, 3)?,
            conv_shortcut,
        })
    }

    /// `x`: `[B, H, W, inputs]`; `embedding`: SiLU of the time embedding, `[B, E]`.
    ///
    /// The result takes the memory of `x` where it can.
    pub(crate) fn forward(
        &self,
        run: &Run<'_>,
        x: Image,
        embedding: Option<&Tensor>,
    ) -> Result<Image> {
        let shift = match (&self.time_emb_proj, embedding) {
            (Some(projection), Some(embedding)) => Some(projection.forward(run, embedding)?),
            _ => None,
        };
        let norm1 = self.norm1.group_silu(run, self.groups);
        let hidden = self.conv1.normed(run, &x, norm1, shift.as_ref(), None)?;
        let skip = match &self.conv_shortcut {
            Some(shortcut) => {
                let skip = shortcut.image(run, &x)?;
                drop(x);
                skip
            }
            None => x,
        };
        self.finish(run, &hidden, skip)
    }

    /// [`Resnet::forward`] of the upsampled `x`, which is computed twice and stored only in
    /// bands of `rows` rows.
    ///
    /// Needs a shortcut and no time embedding: where there is no shortcut, the image itself is
    /// the skip connection and must be whole.
    pub(crate) fn forward_upsampled(
        &self,
        run: &Run<'_>,
        x: Image,
        upsampler: &Upsample,
        rows: usize,
    ) -> Result<Image> {
        let (Some(shortcut), None) = (&self.conv_shortcut, &self.time_emb_proj) else {
            let image = upsampler.image(run, &x)?;
            drop(x);
            return self.forward(run, image, None);
        };
        let half = DoubledHalf {
            upsampler: run.product(&upsampler.conv.weights),
            norm: self.norm1.group_silu(run, self.groups),
            conv: run.product(&self.conv1.weights),
            shortcut: run.product(&shortcut.weights),
        };
        let (hidden, skip) = ops::doubled_half(run.ops, &x, &half, rows)?;
        drop(x);
        self.finish(run, &hidden, skip)
    }

    fn finish(&self, run: &Run<'_>, hidden: &Image, skip: Image) -> Result<Image> {
        let norm2 = self.norm2.group_silu(run, self.groups);
        let output = self.conv2.normed(&run.last(), hidden, norm2, None, Some(skip))?;
        run.observe_image(&self.name, &output)?;
        Ok(output)
    }
}
