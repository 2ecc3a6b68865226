//! The transformer inside a UNet block: self-attention, attention to the prompt, feed-forward.

use candle_core::Tensor;

use super::unit::Unit;
use super::{Prepared, Prompts};
use crate::error::Result;
use crate::files::WeightPath;
use crate::layers::{Linear, Norm, Run};
use crate::ops::{Activation, Mask};

/// diffusers `Transformer2DModel` normalises with this, whatever the config says.
const GROUP_NORM_EPS: f64 = 1e-6;
const LAYER_NORM_EPS: f64 = 1e-5;
/// The feed-forward layer widens by this much.
const FEED_FORWARD: usize = 4;

/// Sizes of a [`Transformer`].
#[derive(Clone, Copy)]
pub(crate) struct TransformerShape {
    pub(crate) channels: usize,
    pub(crate) depth: usize,
    pub(crate) heads: usize,
    pub(crate) groups: usize,
    /// Width of the prompt's features.
    pub(crate) context: usize,
    /// `proj_in` and `proj_out` are linear layers, not 1×1 convolutions.
    pub(crate) linear_projection: bool,
}

/// Normalised picture tokens through `depth` transformer blocks, on a skip connection.
pub(crate) struct Transformer {
    name: String,
    groups: usize,
    norm: Norm,
    proj_in: Linear,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl Transformer {
    pub(crate) fn load(weights: &WeightPath, shape: TransformerShape) -> Result<Self> {
        let c = shape.channels;
        // A 1×1 convolution in `[B, H, W, C]` is the same product with two more axes.
        let projection: &[usize] = if shape.linear_projection { &[c, c] } else { &[c, c, 1, 1] };
        let blocks = weights.path("transformer_blocks");
        Ok(Self {
            name: weights.name().to_owned(),
            groups: shape.groups,
            norm: Norm::load(&weights.path("norm"), c, GROUP_NORM_EPS)?,
            proj_in: Linear::load(&weights.path("proj_in"), projection)?,
            transformer_blocks: (0..shape.depth)
                .map(|i| TransformerBlock::load(&blocks.path(i), shape))
                .collect::<Result<_>>()?,
            proj_out: Linear::load(&weights.path("proj_out"), projection)?,
        })
    }

    pub(super) fn list<'a>(&'a self, units: &mut Vec<Unit<'a>>) {
        units.push(Unit::Enter(self));
        units.extend(self.transformer_blocks.iter().map(Unit::Block));
        units.push(Unit::Return(self));
    }

    /// The tokens `[B, H·W, C]` of `x`, `[B, H, W, C]`.
    pub(super) fn enter(&self, run: &Run<'_>, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let hidden = self.norm.group(run, x, self.groups)?;
        let tokens = run.reshape(&hidden, (batch, height * width, channels))?;
        self.proj_in.forward(&run.last(), &tokens)
    }

    /// The tokens `hidden` of `x`, added to it.
    pub(super) fn leave(&self, run: &Run<'_>, hidden: &Tensor, x: &Tensor) -> Result<Tensor> {
        let residual = run.reshape(x, hidden.shape())?;
        let output = self.proj_out.onto(&run.last(), hidden, &residual)?;
        let output = run.reshape(&output, x.shape())?;
        run.observe(&self.name, &output);
        Ok(output)
    }

    /// Keys and values of the prompt for every block, into `prepared`.
    pub(crate) fn prepare(
        &self,
        run: &Run<'_>,
        prompts: &Prompts,
        prepared: &mut Prepared,
    ) -> Result<()> {
        self.transformer_blocks
            .iter()
            .try_for_each(|block| block.attn2.prepare(run, prompts, prepared))
    }
}

/// Self-attention, attention to the prompt, feed-forward, each onto its input.
pub(super) struct TransformerBlock {
    name: String,
    norm1: Norm,
    attn1: Attention,
    norm2: Norm,
    attn2: Attention,
    norm3: Norm,
    feed_forward: FeedForward,
}

impl TransformerBlock {
    fn load(weights: &WeightPath, shape: TransformerShape) -> Result<Self> {
        let TransformerShape { channels, heads, context, .. } = shape;
        let norm = |name: &str| Norm::load(&weights.path(name), channels, LAYER_NORM_EPS);
        Ok(Self {
            name: weights.name().to_owned(),
            norm1: norm("norm1")?,
            attn1: Attention::load(&weights.path("attn1"), channels, channels, heads)?,
            norm2: norm("norm2")?,
            attn2: Attention::load(&weights.path("attn2"), channels, context, heads)?,
            norm3: norm("norm3")?,
            feed_forward: FeedForward::load(&weights.path("ff").path("net"), channels)?,
        })
    }

    pub(super) fn forward(&self, run: &Run<'_>, x: &Tensor, prepared: &Prepared) -> Result<Tensor> {
        let normal = self.norm1.layer(run, x)?;
        let (key, value) = self.attn1.keys(run, &normal)?;
        let x = self.attn1.attend(run, &normal, &key, &value, x)?;

        let normal = self.norm2.layer(run, &x)?;
        let x = match &prepared.context {
            None => {
                let (key, value) = prepared.keys_of(&self.attn2.name)?;
                self.attn2.attend(run, &normal, key, value, &x)?
            }
            Some(context) => {
                let (key, value) = self.attn2.keys(run, context)?;
                self.attn2.attend(run, &normal, &key, &value, &x)?
            }
        };

        let normal = self.norm3.layer(run, &x)?;
        let output = self.feed_forward.onto(run, &normal, &x)?;
        run.observe(&self.name, &output);
        Ok(output)
    }
}

/// Queries from `width` features, keys and values from `context` features.
struct Attention {
    name: String,
    heads: usize,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
    fn load(weights: &WeightPath, width: usize, context: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            name: weights.name().to_owned(),
            heads,
            to_q: Linear::load_no_bias(&weights.path("to_q"), &[width, width])?,
            to_k: Linear::load_no_bias(&weights.path("to_k"), &[width, context])?,
            to_v: Linear::load_no_bias(&weights.path("to_v"), &[width, context])?,
            to_out: Linear::load(&weights.path("to_out").path(0), &[width, width])?,
        })
    }

    /// Keys and values of what is attended to.
    fn keys(&self, run: &Run<'_>, context: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((self.to_k.forward(run, context)?, self.to_v.forward(run, context)?))
    }

    fn prepare(&self, run: &Run<'_>, prompts: &Prompts, prepared: &mut Prepared) -> Result<()> {
        let (key, value) = self.keys(run, &prompts.embeds)?;
        let keys = (prompts.whole(key)?, prompts.whole(value)?);
        prepared.keys.insert(self.name.clone(), keys);
        Ok(())
    }

    /// `residual + to_out(attention(to_q(x), key, value))`, all `[B, T, C]`.
    fn attend(
        &self,
        run: &Run<'_>,
        x: &Tensor,
        key: &Tensor,
        value: &Tensor,
        residual: &Tensor,
    ) -> Result<Tensor> {
        let query = self.to_q.forward(run, x)?;
        let mixed = run.attention(&query, key, value, self.heads, Mask::None)?;
        self.to_out.onto(run, &mixed, residual)
    }
}

/// Widen, gate with GELU, narrow.
struct FeedForward {
    proj: Linear,
    output: Linear,
}

impl FeedForward {
    fn load(net: &WeightPath, width: usize) -> Result<Self> {
        let inner = FEED_FORWARD * width;
        Ok(Self {
            proj: Linear::load(&net.path(0).path("proj"), &[2 * inner, width])?,
            output: Linear::load(&net.path(2), &[width, inner])?,
        })
    }

    fn onto(&self, run: &Run<'_>, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let hidden = self.proj.activated(run, x, Activation::Geglu)?;
        self.output.onto(&run.last(), &hidden, residual)
    }
}
