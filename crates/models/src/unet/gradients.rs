//! The way back: gradients of everything that is trained.
//!
//! What the way back needs of a unit is kept from the way forward as far as memory goes; of the
//! rest only what went into the unit is (gradient checkpointing; Chen et al. 2016,
//! arXiv:1604.06174), and the unit is computed once more, before its gradients are taken. Kept or
//! computed again, the numbers are the same. The last product of a unit is not computed again: no
//! gradient reads it.

mod graph;

use std::collections::BTreeMap;

use candle_core::{Tensor, TensorId};

use super::unit::{Context, Inputs, Kept, Unit};
use super::{Prepared, Unet};
use crate::error::Result;
use crate::layers::{Extent, Run, Training};
use crate::lora::{BranchGradients, LayerAdapters, Trained};
use crate::ops::Ops;
use crate::ops::tape::{Flow, Pass, Tape};

/// How much of the activations is kept where nobody says otherwise, in bytes: most of what a step
/// of SDXL at 512² with one picture needs.
pub const KEPT_BYTES: usize = 1_500_000_000;

/// One pass through the network whose gradients are wanted.
#[derive(Clone, Copy)]
pub struct TrainingPass<'a> {
    /// Which implementation of the operations.
    pub ops: Ops,
    /// What is trained: matrices of this network.
    pub trained: &'a Trained,
    /// `[B, H/8, W/8, 4]`.
    pub latents: &'a Tensor,
    /// One per picture.
    pub timesteps: &'a [f32],
    /// From [`Unet::prepare_training`].
    pub prepared: &'a Prepared,
    /// Bytes of activations to keep, so that they need not be computed twice. The reference
    /// operations keep none.
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
    /// Gradients of a loss for every matrix that is trained.
    ///
    /// `loss` is shown the prediction `[B, H/8, W/8, 4]` and returns the loss's gradient for it.
    pub fn gradients(
        &self,
        pass: &TrainingPass<'_>,
        loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<BTreeMap<String, BranchGradients>> {
        let none = LayerAdapters::default();
        let frozen = Run::new(pass.ops, &none);
        let embedding = self.embed(&frozen, pass.timesteps, pass.prepared)?;
        let context = Context { embedding: &embedding, prepared: pass.prepared };
        // Where nothing is left out at random, the fused operations know the branch.
        let adapters = pass.trained.adapters()?;
        if pass.ops == Ops::Reference {
            return self.graph_gradients(pass, &adapters, context, loss);
        }

        let tape = Tape::default();
        let training = Some(Training { trained: pass.trained, tape: Some(&tape) });
        let run = Run { training, ..Run::new(pass.ops, &adapters) };
        let (prediction, records) = self.record(&run, &tape, pass, context)?;
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
        Ok(flow.found)
    }

    /// Runs forward, keeping what the way back needs.
    fn record<'a>(
        &'a self,
        run: &Run<'_>,
        tape: &Tape,
        pass: &TrainingPass<'_>,
        context: Context<'_>,
    ) -> Result<(Tensor, Vec<Record<'a>>)> {
        let mut kept = Kept::default();
        let mut records = Vec::new();
        let mut budget = Budget { whole: pass.keep, used: 0 };
        let mut hidden = pass.latents.clone();
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
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::files::{Folder, ModelParts};
    use crate::lora::{Branch, Dropout};

    fn numbers(count: usize, scale: f32) -> Vec<f32> {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next() * scale).collect()
    }

    /// Gradients with the whole graph in memory, and no unit computed twice.
    fn plain(
        unet: &Unet,
        trained: &Trained,
        latents: &Tensor,
        prepared: &Prepared,
        slope: &Tensor,
    ) -> Result<BTreeMap<String, BranchGradients>> {
        let none = LayerAdapters::default();
        let embedding = unet.embed(&Run::new(Ops::Reference, &none), &[300.0], prepared)?;
        let context = Context { embedding: &embedding, prepared };
        let tracked = trained.tracked()?;
        let training = Some(Training { trained: &tracked, tape: None });
        let run = Run { training, ..Run::new(Ops::Reference, &none) };
        let mut kept = Kept::default();
        let mut hidden = latents.clone();
        for unit in unet.units() {
            let inputs = kept.inputs(unit, hidden)?;
            hidden = unit.forward(&run, inputs, context)?;
        }
        let mut store = (hidden * slope)?.sum_all()?.backward()?;
        let gradients = tracked.iter().map(|(name, branch)| {
            let mut take = |of: &Tensor| store.remove(of).expect("every matrix has a gradient");
            let (down, up) = (take(&branch.down), take(&branch.up));
            (name.to_owned(), BranchGradients { down, up })
        });
        Ok(gradients.collect())
    }

    #[test]
    fn checkpointed_kept_and_plain_gradients_are_one() -> Result<()> {
        all_ways_agree(None)?;
        all_ways_agree(Some(0.2))
    }

    /// With `dropout` of every other layer.
    fn all_ways_agree(dropout: Option<f32>) -> Result<()> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/model/base");
        let parts = ModelParts::open_folder(&Folder::disk(folder))?;
        let unet = Unet::load(&parts.unet.0, &parts.unet.1)?;
        let tensor = |shape: &[usize], scale: f32| {
            let values = numbers(shape.iter().product(), scale);
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        let mut trained = Trained::default();
        for (number, (name, shape)) in crate::lora::Targets::of(&parts)
            .iter(crate::lora::Network::Unet)
            .filter(|(name, _)| !name.contains("time_emb") && !name.contains("add_emb"))
            .enumerate()
        {
            let mut down = shape.to_vec();
            down[0] = 2;
            let mut up = vec![1; shape.len()];
            up[..2].copy_from_slice(&[shape[0], 2]);
            let branch = Branch {
                down: tensor(&down, 0.1)?,
                up: tensor(&up, 0.1)?,
                scale: 1.5,
                dropout: dropout
                    .filter(|_| number % 2 == 0)
                    .map(|probability| Dropout { probability, seed: number as u64 }),
            };
            trained.insert(name, branch);
        }
        // An odd height: the way up meets a size that is not the double.
        let latents = tensor(&[1, 10, 8, 4], 1.0)?;
        let config = unet.config();
        let embeds = tensor(&[1, 77, config.cross_attention_dim], 1.0)?;
        let sizes = tensor(&[1, 6], 100.0)?;
        let width =
            config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim;
        let pooled = tensor(&[1, width], 1.0)?;
        let slope = tensor(&[1, 10, 8, 4], 1.0)?;
        let none = LayerAdapters::default();
        let run = Run::new(Ops::Reference, &none);
        let prepared = unet.prepare_training(&run, &embeds, &pooled, &sizes)?;
        let expected = plain(&unet, &trained, &latents, &prepared, &slope)?;
        let gradients = |ops, keep| {
            let (latents, prepared, timesteps) = (&latents, &prepared, &[300.0][..]);
            let pass = TrainingPass { ops, trained: &trained, latents, timesteps, prepared, keep };
            unet.gradients(&pass, |_| Ok(slope.clone()))
        };
        for (ops, most) in [(Ops::Reference, 1e-5), (Ops::Cpu, 5e-5)] {
            let found = gradients(ops, 0)?;
            assert_eq!(found.len(), trained.len());
            for (name, expected) in &expected {
                for (found, expected) in
                    [(&found[name].down, &expected.down), (&found[name].up, &expected.up)]
                {
                    let length = |x: &Tensor| x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
                    let off = length(&(found - expected)?)? / length(expected)?;
                    assert!(off < most, "{name}, {ops:?}: {off}");
                }
            }
        }

        // A budget of nothing, of half of it, of all: the same bits.
        let bits = |keep| -> Result<Vec<u32>> {
            let mut bits = Vec::new();
            for BranchGradients { down, up } in gradients(Ops::Cpu, keep)?.values() {
                for tensor in [down, up] {
                    bits.extend(
                        tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits),
                    );
                }
            }
            Ok(bits)
        };
        let none = bits(0)?;
        assert!(bits(600_000)? == none && bits(usize::MAX / 2)? == none);
        Ok(())
    }
}
