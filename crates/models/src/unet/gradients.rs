//! The way back: gradients of everything that is trained.
//!
//! What the way back needs of a unit is kept from the way forward as far as memory goes; of the
//! rest only what went into the unit is (gradient checkpointing; Chen et al. 2016,
//! arXiv:1604.06174), and the unit is computed once more, before its gradients are taken. Kept or
//! computed again, the numbers are the same. The last product of a unit is not computed again: no
//! gradient reads it.

mod graph;
mod told;

use candle_core::{Tensor, TensorId};

pub use self::told::{Reading, Told};
use super::Unet;
use super::unit::{Context, Inputs, Kept, Unit};
use crate::error::Result;
use crate::layers::{Extent, Run, Training};
use crate::lora::{Gradients, Network, Trained};
use crate::ops::Ops;
use crate::ops::tape::{Flow, Pass, Tape};

/// How much of the activations is kept where nobody says otherwise, in bytes: most of what a step
/// of SDXL at 512² with one picture needs.
pub const KEPT_BYTES: usize = 1_500_000_000;

/// One pass through the network, and through text encoders that are trained with it, whose
/// gradients are wanted.
#[derive(Clone, Copy)]
pub struct TrainingPass<'a> {
    /// Which implementation of the operations.
    pub ops: Ops,
    /// What is trained.
    pub trained: &'a Trained,
    /// `[B, H/8, W/8, 4]`.
    pub latents: &'a Tensor,
    /// One per picture.
    pub timesteps: &'a [f32],
    /// About each picture, in words.
    pub told: Told<'a>,
    /// Sizes and crop of each picture, `[B, 6]`, in pixels.
    pub time_ids: &'a Tensor,
    /// Bytes of activations to keep, so that they need not be computed twice. Those of text
    /// encoders are always kept, and count. The reference operations keep none of the UNet's.
    pub keep: usize,
}

/// A unit of the forward pass that leads to something trained.
struct Record<'a> {
    unit: Unit<'a>,
    output: TensorId,
    way_back: WayBack,
}

enum WayBack {
    Kept(Pass),
    Again(Inputs),
}

impl Unet {
    /// Gradients of a loss for every matrix that is trained and that the answer depends on.
    ///
    /// `loss` is shown the prediction `[B, H/8, W/8, 4]` and returns the loss's gradient for it.
    pub fn gradients(
        &self,
        pass: &TrainingPass<'_>,
        loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Gradients> {
        // Where nothing is left out at random, the fused operations know the branch.
        let adapters = pass.trained.adapters()?;
        if pass.ops == Ops::Reference {
            return self.graph_gradients(pass, &adapters, loss);
        }

        let tape = Tape::default();
        let run = |network| {
            let training = Some(Training { trained: pass.trained, network, tape: Some(&tape) });
            Run { training, ..Run::new(pass.ops, adapters.of(network)) }
        };
        let head = self.head(pass, run)?;
        let mut first = tape.take();
        if first.bytes() > pass.keep {
            first.shed();
        }
        let (prepared, run) = (head.prepared(), run(Network::Unet));
        let context = head.context(&prepared);
        let budget = Budget { whole: pass.keep, used: first.bytes() };
        let (prediction, records) = self.record(&run, &tape, pass.latents, context, budget)?;
        let mut flow = Flow::default();
        flow.add(prediction.id(), loss(&prediction)?.flatten_all()?.to_vec1()?);
        drop(prediction);

        let again = Run { extent: Extent::Inner, ..run };
        for Record { unit, output, way_back } in records.into_iter().rev() {
            let pass = match way_back {
                WayBack::Kept(pass) => pass,
                WayBack::Again(inputs) => {
                    let same = unit.forward(&again, inputs, context)?;
                    if let Some(gradient) = flow.take(output) {
                        flow.add(same.id(), gradient);
                    }
                    tape.take()
                }
            };
            pass.backward(&mut flow)?;
        }
        first.backward(&mut flow)?;
        Ok(flow.found)
    }

    /// Runs forward, keeping what the way back needs.
    fn record<'a>(
        &'a self,
        run: &Run<'_>,
        tape: &Tape,
        latents: &Tensor,
        context: Context<'_>,
        mut budget: Budget,
    ) -> Result<(Tensor, Vec<Record<'a>>)> {
        let mut kept = Kept::default();
        let mut records = Vec::new();
        let mut hidden = latents.clone();
        for unit in self.units() {
            let inputs = kept.inputs(unit, hidden)?;
            let again = inputs.with(inputs.hidden.clone(), inputs.earlier.clone());
            hidden = unit.forward(run, inputs, context)?;
            let done = tape.take();
            if !done.is_empty() {
                let way_back = budget.keep(unit, done).map_or(WayBack::Again(again), WayBack::Kept);
                records.push(Record { unit, output: hidden.id(), way_back });
            }
        }
        Ok((hidden, records))
    }
}

/// How much may be kept, and is.
struct Budget {
    whole: usize,
    used: usize,
}

impl Budget {
    /// The pass through a unit, where it may be kept, all of it or what matters most.
    fn keep(&mut self, unit: Unit<'_>, mut pass: Pass) -> Option<Pass> {
        // A resnet's convolutions cost more than a block's products for each byte; the last of
        // them come when the blocks have taken their part.
        let whole = match unit {
            Unit::Block(_) => self.whole - self.whole / 8,
            _ => self.whole,
        };
        if self.used + pass.bytes() > whole {
            pass.shed();
        }
        self.used += pass.bytes();
        if self.used <= whole {
            return Some(pass);
        }
        self.used -= pass.bytes();
        None
    }
}

#[cfg(test)]
mod tests;
