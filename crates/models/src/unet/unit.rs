//! The network as a list: each unit makes the next hidden state from the one before it.
//!
//! Inference runs the list from first to last. Training runs it too, keeps what went into every
//! unit, and then computes the units once more, last to first, for their gradients; see
//! [`super::gradients`].

use candle_core::Tensor;

use super::Prepared;
use super::transformer::{Transformer, TransformerBlock};
use crate::error::{Error, Result};
use crate::layers::{Conv, Norm, Resnet, Run, Upsample};

/// A part of the network.
#[derive(Clone, Copy)]
pub(super) enum Unit<'a> {
    /// A convolution on its own.
    Conv { name: &'a str, conv: &'a Conv },
    /// A resnet; with `joined`, on the state and one that was kept on the way down.
    Resnet { resnet: &'a Resnet, joined: bool },
    /// Keeps the state for the way up.
    Keep,
    /// From pixels to the tokens of a transformer, which will return onto them.
    Enter(&'a Transformer),
    /// One block of a transformer.
    Block(&'a TransformerBlock),
    /// From tokens back, onto the pixels that were entered.
    Return(&'a Transformer),
    /// Twice the resolution, as far as the state that was kept there reaches.
    Up { name: &'a str, upsampler: &'a Upsample },
    /// The predicted noise.
    Out { norm: &'a Norm, groups: usize, conv: &'a Conv },
}

/// What every unit may look at.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// SiLU of the embedding of timestep and sizes, `[B, E]`.
    pub(super) embedding: &'a Tensor,
    /// Keys and values of the prompt.
    pub(super) prepared: &'a Prepared,
}

/// What goes into one unit.
pub(super) struct Inputs {
    /// The state before it.
    pub(super) hidden: Tensor,
    /// An earlier state that it joins or returns onto.
    pub(super) earlier: Option<Tensor>,
    /// Height and width that an upsampler must reach.
    size: Option<(usize, usize)>,
}

impl Inputs {
    /// The same for other states.
    pub(super) fn with(&self, hidden: Tensor, earlier: Option<Tensor>) -> Self {
        Self { hidden, earlier, size: self.size }
    }
}

/// Earlier states that are still needed.
#[derive(Default)]
pub(super) struct Kept {
    skips: Vec<Tensor>,
    /// What the transformer that runs will return onto.
    entered: Option<Tensor>,
}

impl Kept {
    /// What goes into `unit`; nothing where the unit only keeps its state.
    pub(super) fn inputs(&mut self, unit: Unit<'_>, hidden: Tensor) -> Result<Inputs> {
        let mut inputs = Inputs { hidden, earlier: None, size: None };
        match unit {
            Unit::Keep => self.skips.push(inputs.hidden.clone()),
            Unit::Enter(_) => self.entered = Some(inputs.hidden.clone()),
            Unit::Return(_) => inputs.earlier = self.entered.take(),
            Unit::Resnet { joined: true, .. } => {
                inputs.earlier = Some(self.skips.pop().ok_or(Error::SkipsExhausted)?);
            }
            Unit::Up { .. } => {
                let (_, h, w, _) = self.skips.last().ok_or(Error::SkipsExhausted)?.dims4()?;
                inputs.size = Some((h, w));
            }
            Unit::Conv { .. } | Unit::Resnet { .. } | Unit::Block(_) | Unit::Out { .. } => {}
        }
        Ok(inputs)
    }
}

impl Unit<'_> {
    /// The state after it. It takes the memory of the one before where nobody else has it.
    pub(super) fn forward(
        &self,
        run: &Run<'_>,
        inputs: Inputs,
        context: Context<'_>,
    ) -> Result<Tensor> {
        let Inputs { hidden, earlier, size } = inputs;
        match *self {
            Unit::Keep => Ok(hidden),
            Unit::Conv { name, conv } => {
                let output = conv.forward(&run.last(), &hidden)?;
                run.observe(name, &output);
                Ok(output)
            }
            Unit::Resnet { resnet, .. } => {
                let x = match earlier {
                    Some(skip) => {
                        let joined = run.joined([&hidden, &skip])?;
                        drop((hidden, skip)); // the resnet needs the memory
                        joined
                    }
                    None => hidden,
                };
                resnet.forward(run, x.into(), Some(context.embedding))?.into_tensor()
            }
            Unit::Enter(transformer) => transformer.enter(run, &hidden),
            Unit::Block(block) => block.forward(run, &hidden, context.prepared),
            Unit::Return(transformer) => {
                transformer.leave(run, &hidden, &earlier.ok_or(Error::SkipsExhausted)?)
            }
            Unit::Up { name, upsampler } => {
                let (height, width) = size.ok_or(Error::SkipsExhausted)?;
                let output = upsampler.forward_to(&run.last(), &hidden, height, width)?;
                run.observe(name, &output);
                Ok(output)
            }
            Unit::Out { norm, groups, conv } => {
                let norm = norm.group_silu(run, groups);
                let output =
                    conv.normed(&run.last(), &hidden.into(), norm, None, None)?.into_tensor()?;
                run.observe("conv_out", &output);
                Ok(output)
            }
        }
    }
}
