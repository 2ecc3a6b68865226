//! The way back: gradients of everything that is trained.
//!
//! Only what goes into a unit is kept on the way forward (gradient checkpointing; Chen et al.
//! 2016, arXiv:1604.06174). On the way back each unit is computed once more, with its graph, and
//! its gradients are taken before the next one: the memory is that of the kept states and of one
//! unit. The last product of a unit is not computed again: no gradient reads its numbers.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Tensor, TensorId, Var};

use super::unit::{Context, Inputs, Kept, Unit};
use super::{Prepared, Unet};
use crate::error::Result;
use crate::layers::{Extent, Run};
use crate::lora::{BranchGradients, LayerAdapters, Trained};
use crate::ops::Ops;

/// A unit of the forward pass.
struct Record<'a> {
    unit: Unit<'a>,
    inputs: Inputs,
    output: TensorId,
}

impl Unet {
    /// Gradients of a loss for every matrix in `trained`, which are all of this network.
    ///
    /// `loss` is shown the prediction `[B, H/8, W/8, 4]` and returns the loss's gradient for it.
    /// `prepared` comes from [`Unet::prepare_training`].
    ///
    /// # Shapes
    /// - `latents`: `[B, H/8, W/8, 4]`; `timesteps`: one per picture
    pub fn gradients(
        &self,
        ops: Ops,
        trained: &Trained,
        latents: &Tensor,
        timesteps: &[f32],
        prepared: &Prepared,
        loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<BTreeMap<String, BranchGradients>> {
        let none = LayerAdapters::default();
        let frozen = Run::new(ops, &none);
        let embedding = self.embed(&frozen, timesteps, prepared)?;
        let context = Context { embedding: &embedding, prepared };

        // Where nothing is left out at random, the fused operations give the same numbers sooner.
        let adapters = if trained.has_dropout() { None } else { Some(trained.adapters()?) };
        let run = match &adapters {
            Some(adapters) => Run::new(ops, adapters),
            None => Run { trained: Some(trained), ..frozen },
        };
        let (prediction, mut records) = self.record(&run, latents, context)?;
        let mut gradients = HashMap::from([(prediction.id(), loss(&prediction)?)]);
        drop(prediction);

        let tracked = trained.tracked()?;
        let run = Run { trained: Some(&tracked), extent: Extent::Inner, ..frozen };
        let mut found = BTreeMap::new();
        // What comes before the first trained layer has nothing to learn.
        let first = records.iter().position(|record| record.unit.is_trained(trained));
        let first = first.unwrap_or(records.len());
        while records.len() > first {
            let Some(record) = records.pop() else { break };
            let Some(gradient) = gradients.remove(&record.output) else { continue };
            let wanted = records.len() > first;
            back(&run, record, gradient, context, wanted, &mut gradients, &mut found)?;
        }
        Ok(found)
    }

    /// Runs forward, keeping what goes into each unit.
    fn record<'a>(
        &'a self,
        run: &Run<'_>,
        latents: &Tensor,
        context: Context<'_>,
    ) -> Result<(Tensor, Vec<Record<'a>>)> {
        let mut kept = Kept::default();
        let mut records = Vec::new();
        let mut hidden = latents.clone();
        for unit in self.units() {
            let inputs = kept.inputs(unit, hidden)?;
            let again = inputs.with(inputs.hidden.clone(), inputs.earlier.clone());
            hidden = unit.forward(run, inputs, context)?;
            if !matches!(unit, Unit::Keep) {
                records.push(Record { unit, inputs: again, output: hidden.id() });
            }
        }
        Ok((hidden, records))
    }
}

/// Computes a unit again and adds its gradients to those of its inputs and of its matrices.
fn back(
    run: &Run<'_>,
    record: Record<'_>,
    gradient: Tensor,
    context: Context<'_>,
    inputs_wanted: bool,
    states: &mut HashMap<TensorId, Tensor>,
    found: &mut BTreeMap<String, BranchGradients>,
) -> Result<()> {
    let Record { unit, inputs, .. } = record;
    let variable = |tensor: &Tensor| -> Result<(TensorId, Tensor)> {
        let tracked =
            if inputs_wanted { Var::from_tensor(tensor)?.into_inner() } else { tensor.clone() };
        Ok((tensor.id(), tracked))
    };
    let hidden = variable(&inputs.hidden)?;
    let earlier = inputs.earlier.as_ref().map(variable).transpose()?;
    let again = inputs.with(hidden.1.clone(), earlier.as_ref().map(|(_, tensor)| tensor.clone()));
    drop(inputs);
    let output = unit.forward(run, again, context)?;
    let mut store = (output * gradient)?.sum_all()?.backward()?;

    if inputs_wanted {
        for (id, tensor) in [Some(hidden), earlier].into_iter().flatten() {
            let Some(gradient) = store.remove(&tensor) else { continue };
            let sum = match states.remove(&id) {
                Some(other) => (other + gradient)?,
                None => gradient,
            };
            states.insert(id, sum);
        }
    }
    for (name, branch) in run.trained.into_iter().flat_map(Trained::iter) {
        if let (Some(down), Some(up)) = (store.remove(&branch.down), store.remove(&branch.up)) {
            found.insert(name.to_owned(), BranchGradients { down, up });
        }
    }
    Ok(())
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
        ops: Ops,
        trained: &Trained,
        latents: &Tensor,
        prepared: &Prepared,
        slope: &Tensor,
    ) -> Result<BTreeMap<String, BranchGradients>> {
        let none = LayerAdapters::default();
        let embedding = unet.embed(&Run::new(ops, &none), &[300.0], prepared)?;
        let context = Context { embedding: &embedding, prepared };
        let tracked = trained.tracked()?;
        let run = Run { trained: Some(&tracked), ..Run::new(ops, &none) };
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
    fn checkpointed_and_plain_gradients_are_one() -> Result<()> {
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
            .filter(|(name, _)| name.contains(".attn") || name.contains(".ff."))
            .enumerate()
        {
            let branch = Branch {
                down: tensor(&[2, shape[1]], 0.1)?,
                up: tensor(&[shape[0], 2], 0.1)?,
                scale: 1.5,
                dropout: Some(Dropout { probability: 0.2, seed: number as u64 }),
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
        for ops in [Ops::Cpu, Ops::Reference] {
            let none = LayerAdapters::default();
            let run = Run::new(ops, &none);
            let prepared = unet.prepare_training(&run, &embeds, &pooled, &sizes)?;
            let found = unet
                .gradients(ops, &trained, &latents, &[300.0], &prepared, |_| Ok(slope.clone()))?;
            let expected = plain(&unet, ops, &trained, &latents, &prepared, &slope)?;
            assert_eq!(found.len(), trained.len());
            for (name, expected) in expected {
                for (found, expected) in
                    [(&found[&name].down, &expected.down), (&found[&name].up, &expected.up)]
                {
                    let length = |x: &Tensor| x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
                    let off = length(&(found - expected)?)? / length(expected)?;
                    assert!(off < 1e-5, "{name}, {ops:?}: {off}");
                }
            }
        }
        Ok(())
    }
}
