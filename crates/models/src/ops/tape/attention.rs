//! Attention.

use candle_core::{Tensor, TensorId};
use unwrong_kernels as kernels;

use super::super::cpu;
use super::{Backward, Flow, Tape, with_values};
use crate::error::Result;

impl Tape {
    /// `softmax(q · kᵀ / sqrt(D)) · v` for every head.
    pub(crate) fn attention(
        &self,
        inputs @ [q, k, v]: [&Tensor; 3],
        heads: usize,
        causal: bool,
    ) -> Result<Tensor> {
        let wanted = inputs.map(|input| self.live(input));
        if wanted.iter().all(Option::is_none) {
            return cpu::attention(q, k, v, heads, causal);
        }
        let head_dim = q.dim(2)? / heads;
        let shape = kernels::AttentionShape {
            batch: q.dim(0)?,
            query_tokens: q.dim(1)?,
            key_tokens: k.dim(1)?,
            heads,
            head_dim,
        };
        let scale = 1.0 / (head_dim as f32).sqrt();
        let (y, log_sums) = with_values(inputs, |[q, k, v]| {
            kernels::attention_with_log_sum(q, k, v, shape, scale, causal)
        })?;
        let y = Tensor::from_vec(y, q.shape(), q.device())?;
        let tensors = [q, k, v, &y].map(Tensor::clone);
        self.record(&y, Attention { wanted, shape, scale, causal, tensors, log_sums });
        Ok(y)
    }
}

struct Attention {
    /// Where gradients are wanted: queries, keys, values.
    wanted: [Option<TensorId>; 3],
    shape: kernels::AttentionShape,
    scale: f32,
    causal: bool,
    /// Queries, keys, values, result.
    tensors: [Tensor; 4],
    /// Of every query.
    log_sums: Vec<f32>,
}

impl Backward for Attention {
    fn held(&self) -> Vec<&Tensor> {
        self.tensors.iter().collect()
    }

    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        let Self { wanted, shape, scale, causal, tensors, log_sums } = *self;
        let gradients = with_values(tensors.each_ref(), |[q, k, v, out]| {
            let log_sums = &log_sums;
            let pass = kernels::AttentionPass { q, k, v, out, log_sums, shape, scale, causal };
            kernels::attention_backward(&pass, &dy)
        })?;
        for (wanted, gradient) in wanted.into_iter().zip(gradients) {
            if let Some(wanted) = wanted {
                flow.add(wanted, gradient);
            }
        }
        Ok(())
    }
}
