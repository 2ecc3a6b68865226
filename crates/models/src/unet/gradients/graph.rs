//! The same on the reference operations, with candle's graph of one unit at a time.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Tensor, TensorId, Var};

use super::TrainingPass;
use crate::error::Result;
use crate::layers::{Run, Training};
use crate::lora::{BranchGradients, LayerAdapters, Trained};
use crate::unet::Unet;
use crate::unet::unit::{Context, Inputs, Kept, Unit};

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
        adapters: &LayerAdapters,
        context: Context<'_>,
        loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<BTreeMap<String, BranchGradients>> {
        let training = |trained| Some(Training { trained, tape: None });
        let none = LayerAdapters::default();
        let frozen = Run::new(pass.ops, &none);
        let run = if pass.trained.has_dropout() {
            Run { training: training(pass.trained), ..frozen }
        } else {
            Run::new(pass.ops, adapters)
        };
        let mut kept = Kept::default();
        let mut records = Vec::new();
        let mut hidden = pass.latents.clone();
        for unit in self.units() {
            let inputs = kept.inputs(unit, hidden)?;
            let again = inputs.with(inputs.hidden.clone(), inputs.earlier.clone());
            hidden = unit.forward(&run, inputs, context)?;
            if !matches!(unit, Unit::Keep) {
                records.push(Record { unit, inputs: again, output: hidden.id() });
            }
        }
        let mut gradients = HashMap::from([(hidden.id(), loss(&hidden)?)]);

        let tracked = pass.trained.tracked()?;
        let run = Run { training: training(&tracked), ..frozen };
        let mut found = BTreeMap::new();
        for record in records.into_iter().rev() {
            let Some(gradient) = gradients.remove(&record.output) else { continue };
            back(&run, record, gradient, context, &mut gradients, &mut found)?;
        }
        Ok(found)
    }
}

/// Computes a unit again and adds its gradients to those of its inputs and of its matrices.
fn back(
    run: &Run<'_>,
    record: Record<'_>,
    gradient: Tensor,
    context: Context<'_>,
    states: &mut HashMap<TensorId, Tensor>,
    found: &mut BTreeMap<String, BranchGradients>,
) -> Result<()> {
    let Record { unit, inputs, .. } = record;
    let variable = |tensor: &Tensor| -> Result<(TensorId, Tensor)> {
        Ok((tensor.id(), Var::from_tensor(tensor)?.into_inner()))
    };
    let hidden = variable(&inputs.hidden)?;
    let earlier = inputs.earlier.as_ref().map(variable).transpose()?;
    let again = inputs.with(hidden.1.clone(), earlier.as_ref().map(|(_, tensor)| tensor.clone()));
    drop(inputs);
    let output = unit.forward(run, again, context)?;
    let mut store = (output * gradient)?.sum_all()?.backward()?;

    for (id, tensor) in [Some(hidden), earlier].into_iter().flatten() {
        let Some(gradient) = store.remove(&tensor) else { continue };
        let sum = match states.remove(&id) {
            Some(other) => (other + gradient)?,
            None => gradient,
        };
        states.insert(id, sum);
    }
    let trained = run.training.map(|training| training.trained);
    for (name, branch) in trained.into_iter().flat_map(Trained::iter) {
        if let (Some(down), Some(up)) = (store.remove(&branch.down), store.remove(&branch.up)) {
            found.insert(name.to_owned(), BranchGradients { down, up });
        }
    }
    Ok(())
}
