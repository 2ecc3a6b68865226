//! Training on the kernels: what a pass did, for its way back.
//!
//! The operations are the fused ones that draw pictures. Each leaves an entry on the tape that
//! holds what its gradient needs and nothing else; candle's graph would hold every tensor. Only
//! what leads to something trained is recorded: an output is *live* where an input of it is, or
//! where the layer itself is trained.

mod attention;
mod branch;
mod conv;
mod linear;
mod norm;
mod shape;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use candle_core::{Storage, Tensor, TensorId};

pub(crate) use self::branch::Trains;
use super::cpu::input;
use crate::error::Result;
use crate::lora::Gradients;

/// What the operations of a training pass are recorded on.
#[derive(Default)]
pub struct Tape(RefCell<Inner>);

#[derive(Default)]
struct Inner {
    live: HashSet<TensorId>,
    entries: Vec<Entry>,
}

/// An operation that was done.
struct Entry {
    output: TensorId,
    operation: Box<dyn Backward>,
}

/// The way back through one operation.
trait Backward {
    /// The tensors that it keeps in memory.
    fn held(&self) -> Vec<&Tensor>;

    /// Lets go of what it can compute again.
    fn shed(&mut self) {}

    /// Given `dy` for its output, adds the gradients for its inputs.
    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()>;
}

/// Some operations in the order in which they were done.
pub(crate) struct Pass(Vec<Entry>);

/// Gradients on their way back.
#[derive(Default)]
pub(crate) struct Flow {
    tensors: HashMap<TensorId, Vec<f32>>,
    /// Of the matrices that are trained.
    pub(crate) found: Gradients,
}

impl Tape {
    /// What was recorded since the last call.
    pub(crate) fn take(&self) -> Pass {
        Pass(std::mem::take(&mut self.0.borrow_mut().entries))
    }

    /// The tensor, if its gradient is wanted.
    fn live(&self, tensor: &Tensor) -> Option<TensorId> {
        Some(tensor.id()).filter(|id| self.0.borrow().live.contains(id))
    }

    fn record(&self, output: &Tensor, operation: impl Backward + 'static) {
        let mut inner = self.0.borrow_mut();
        inner.live.insert(output.id());
        inner.entries.push(Entry { output: output.id(), operation: Box::new(operation) });
    }
}

impl Pass {
    /// Nothing in it leads to what is trained.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of the tensors that it keeps in memory.
    pub(crate) fn bytes(&self) -> usize {
        let held = self.0.iter().flat_map(|entry| entry.operation.held());
        let held: HashMap<TensorId, usize> = held.map(|t| (t.id(), t.elem_count())).collect();
        4 * held.values().sum::<usize>()
    }

    /// Lets go of what the way back can compute again from the rest.
    pub(crate) fn shed(&mut self) {
        self.0.iter_mut().for_each(|entry| entry.operation.shed());
    }

    /// Goes back through all of it.
    pub(crate) fn backward(self, flow: &mut Flow) -> Result<()> {
        for Entry { output, operation } in self.0.into_iter().rev() {
            if let Some(dy) = flow.take(output) {
                operation.backward(dy, flow)?;
            }
        }
        Ok(())
    }
}

impl Flow {
    /// Adds `dx` to the gradient for a tensor.
    pub(crate) fn add(&mut self, tensor: TensorId, dx: Vec<f32>) {
        match self.tensors.entry(tensor) {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(dx);
            }
            std::collections::hash_map::Entry::Occupied(mut place) => {
                place.get_mut().iter_mut().zip(dx).for_each(|(sum, x)| *sum += x);
            }
        }
    }

    /// The gradient for a tensor: all that was added.
    pub(crate) fn take(&mut self, tensor: TensorId) -> Option<Vec<f32>> {
        self.tensors.remove(&tensor)
    }
}

/// Shows `body` the numbers of tensors of the CPU, in row-major order.
fn with_values<const N: usize, R>(
    tensors: [&Tensor; N],
    body: impl FnOnce([&[f32]; N]) -> R,
) -> Result<R> {
    let mut dense = Vec::with_capacity(N);
    for tensor in tensors {
        dense.push(tensor.contiguous()?);
    }
    let held: Vec<_> = dense.iter().map(Tensor::storage_and_layout).collect();
    let mut values = [&[][..]; N];
    for (values, (storage, layout)) in values.iter_mut().zip(&held) {
        let Storage::Cpu(storage) = &**storage else {
            let error = candle_core::Error::Msg("the kernels run on the CPU only".to_owned());
            return Err(error.into());
        };
        *values = input(storage, layout)?.values;
    }
    Ok(body(values))
}

fn four(dims: &[usize]) -> [usize; 4] {
    dims.try_into().expect("an image has four axes")
}
