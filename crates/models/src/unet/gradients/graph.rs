//! The same on the reference operations, with candle's graph of one unit at a time.
//!
//! Text encoders and embeddings, which every unit looks at, stay in one graph of their own.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId, Var};

use super::TrainingPass;
use super::told::Head;
use crate::error::Result;
use crate::layers::{Run, Training};
use crate::lora::{Adapters, BranchGradients, Gradients, LayerAdapters, Network, Trained};
use crate::unet::Unet;
use crate::unet::unit::{Inputs, Kept, Unit};

/// A unit of the forward pass.
struct Record<'a> {
    unit: Unit<'a>,
    inputs: Inputs,
    output: TensorId,
}

impl Unet {
    pub(super) fn graph_gradients(
        &self,
        pass: &TrainingPass<'_>,
        adapters: &Adapters,
        loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Gradients> {
        let none = LayerAdapters::default();
        let with = |trained, network| {
            let training = Some(Training { trained, network, tape: None });
            Run { training, ..Run::new(pass.ops, &none) }
        };
        let tracked = pass.trained.tracked()?;
        let head = self.head(pass, |network| with(&tracked, network))?;
        let seen = head.detached();
        let prepared = seen.prepared();
        let run = if pass.trained.has_dropout() {
            with(pass.trained, Network::Unet)
        } else {
            Run::new(pass.ops, &adapters.unet)
        };
        let mut kept = Kept::default();
        let mut records = Vec::new();
        let mut hidden = pass.latents.clone();
        for unit in self.units() {
            let inputs = kept.inputs(unit, hidden)?;
            let again = inputs.with(inputs.hidden.clone(), inputs.earlier.clone());
            hidden = unit.forward(&run, inputs, seen.context(&prepared))?;
            if !matches!(unit, Unit::Keep) {
                records.push(Record { unit, inputs: again, output: hidden.id() });
            }
        }

        let gradients = HashMap::from([(hidden.id(), loss(&hidden)?)]);
        let mut way = Way {
            run: with(&tracked, Network::Unet),
            head: &head,
            seen: &seen,
            trained: &tracked,
            gradients,
            found: Gradients::default(),
        };
        records.into_iter().rev().try_for_each(|record| way.through(record))?;
        way.through_head()
    }
}

impl Head {
    /// The same numbers without the graph that they came from.
    fn detached(&self) -> Self {
        let Self { embedding, prompt_embeds } = self;
        Self { embedding: embedding.detach(), prompt_embeds: prompt_embeds.detach() }
    }
}

/// The way back.
struct Way<'a> {
    run: Run<'a>,
    /// With its graph, which leads to what is trained of it.
    head: &'a Head,
    /// The same without, as the units saw it.
    seen: &'a Head,
    trained: &'a Trained,
    /// For states, and for what is seen.
    gradients: HashMap<TensorId, Tensor>,
    found: Gradients,
}

impl Way<'_> {
    /// Computes a unit again and adds its gradients to those of its inputs and of its matrices.
    fn through(&mut self, Record { unit, inputs, output }: Record<'_>) -> Result<()> {
        let Some(gradient) = self.gradients.remove(&output) else { return Ok(()) };
        let mut variables = Vec::new();
        let mut variable = |tensor: &Tensor| -> Result<Tensor> {
            let variable = Var::from_tensor(tensor)?.into_inner();
            variables.push((tensor.id(), variable.clone()));
            Ok(variable)
        };
        let hidden = variable(&inputs.hidden)?;
        let earlier = inputs.earlier.as_ref().map(&mut variable).transpose()?;
        let again = inputs.with(hidden, earlier);
        drop(inputs);
        // Only where something is trained behind it, for it costs.
        let mut wanted = |seen: &Tensor, whole: &Tensor| {
            if whole.track_op() { variable(seen) } else { Ok(seen.clone()) }
        };
        let head = Head {
            embedding: wanted(&self.seen.embedding, &self.head.embedding)?,
            prompt_embeds: wanted(&self.seen.prompt_embeds, &self.head.prompt_embeds)?,
        };
        let output = unit.forward(&self.run, again, head.context(&head.prepared()))?;
        let mut store = (output * gradient)?.sum_all()?.backward()?;

        for (id, tensor) in variables {
            let Some(gradient) = store.remove(&tensor) else { continue };
            let sum = match self.gradients.remove(&id) {
                Some(other) => (other + gradient)?,
                None => gradient,
            };
            self.gradients.insert(id, sum);
        }
        self.collect(&mut store);
        Ok(())
    }

    /// The last of the way: what every unit looked at.
    fn through_head(mut self) -> Result<Gradients> {
        let ends = [
            (&self.head.embedding, &self.seen.embedding),
            (&self.head.prompt_embeds, &self.seen.prompt_embeds),
        ];
        let mut sum: Option<Tensor> = None;
        for (whole, seen) in ends.into_iter().filter(|(whole, _)| whole.track_op()) {
            let Some(gradient) = self.gradients.remove(&seen.id()) else { continue };
            let term = (whole * gradient)?.sum_all()?;
            sum = Some(match sum {
                Some(sum) => (sum + term)?,
                None => term,
            });
        }
        if let Some(sum) = sum {
            self.collect(&mut sum.backward()?);
        }
        Ok(self.found)
    }

    /// Takes the gradients of matrices.
    fn collect(&mut self, store: &mut GradStore) {
        for (network, name, branch) in self.trained.iter() {
            if let (Some(down), Some(up)) = (store.remove(&branch.down), store.remove(&branch.up)) {
                self.found.insert(network, name, BranchGradients { down, up });
            }
        }
    }
}
