//! What moves numbers, and what needs no weight.

use candle_core::{D, Shape, Tensor, TensorId};
use unwrong_kernels as kernels;

use super::{Backward, Flow, Tape, four, with_values};
use crate::error::Result;

impl Tape {
    /// The same numbers in another shape.
    pub(crate) fn reshape(&self, x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
        let y = x.reshape(shape.into())?;
        if let Some(wanted) = self.live(x) {
            self.record(&y, Reshape(wanted));
        }
        Ok(y)
    }

    /// Both tensors side by side along the last axis.
    pub(crate) fn joined(&self, parts: [&Tensor; 2]) -> Result<Tensor> {
        let y = Tensor::cat(&parts, D::Minus1)?;
        let wanted = parts.map(|part| self.live(part));
        if wanted.iter().any(Option::is_some) {
            let widths = [parts[0].dim(D::Minus1)?, parts[1].dim(D::Minus1)?];
            self.record(&y, Joined { wanted, widths });
        }
        Ok(y)
    }

    /// The sum of two tensors of one shape.
    pub(crate) fn added(&self, parts: [&Tensor; 2]) -> Result<Tensor> {
        let y = (parts[0] + parts[1])?;
        let wanted = parts.map(|part| self.live(part));
        if wanted.iter().any(Option::is_some) {
            self.record(&y, Added(wanted));
        }
        Ok(y)
    }

    /// `x · sigmoid(x)`.
    pub(crate) fn silu(&self, x: &Tensor) -> Result<Tensor> {
        let y = super::super::silu(x)?;
        if let Some(wanted) = self.live(x) {
            self.record(&y, Silu { wanted, x: x.clone() });
        }
        Ok(y)
    }

    /// One row of each batch entry, `[B, D]` of `[B, T, D]`.
    pub(crate) fn picked(&self, x: &Tensor, rows: &[usize]) -> Result<Tensor> {
        let y = super::super::picked(x, rows)?;
        if let Some(wanted) = self.live(x) {
            self.record(&y, Picked { wanted, dims: x.dims3()?, rows: rows.to_vec() });
        }
        Ok(y)
    }

    /// Each pixel of `[B, H, W, C]` twice in both directions, up to `height` and `width`.
    pub(crate) fn doubled(&self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        let y = super::super::doubled(x, height, width)?;
        if let Some(wanted) = self.live(x) {
            self.record(&y, Doubled { wanted, dims: four(x.dims()), size: [height, width] });
        }
        Ok(y)
    }
}

struct Reshape(TensorId);

impl Backward for Reshape {
    fn held(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        flow.add(self.0, dy);
        Ok(())
    }
}

struct Joined {
    wanted: [Option<TensorId>; 2],
    widths: [usize; 2],
}

impl Backward for Joined {
    fn held(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        let [left, right] = self.widths;
        let rows = dy.len() / (left + right);
        for (wanted, columns) in self.wanted.into_iter().zip([0..left, left..left + right]) {
            let Some(wanted) = wanted else { continue };
            let mut part = Vec::with_capacity(rows * columns.len());
            for row in dy.chunks_exact(left + right) {
                part.extend_from_slice(&row[columns.clone()]);
            }
            flow.add(wanted, part);
        }
        Ok(())
    }
}

struct Added([Option<TensorId>; 2]);

impl Backward for Added {
    fn held(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        let [left, right] = self.0;
        if let Some(left) = left {
            flow.add(left, dy.clone());
        }
        if let Some(right) = right {
            flow.add(right, dy);
        }
        Ok(())
    }
}

struct Silu {
    wanted: TensorId,
    x: Tensor,
}

impl Backward for Silu {
    fn held(&self) -> Vec<&Tensor> {
        vec![&self.x]
    }

    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        let dx = with_values([&self.x], |[x]| {
            kernels::activate_backward(&dy, x, kernels::Activation::Silu)
        })?;
        flow.add(self.wanted, dx);
        Ok(())
    }
}

struct Picked {
    wanted: TensorId,
    dims: (usize, usize, usize),
    rows: Vec<usize>,
}

impl Backward for Picked {
    fn held(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        let (batch, tokens, width) = self.dims;
        let mut dx = vec![0.0; batch * tokens * width];
        for ((image, row), dy) in self.rows.iter().enumerate().zip(dy.chunks_exact(width)) {
            let start = (image * tokens + row) * width;
            dx[start..start + width].copy_from_slice(dy);
        }
        flow.add(self.wanted, dx);
        Ok(())
    }
}

struct Doubled {
    wanted: TensorId,
    /// Of the small image.
    dims: [usize; 4],
    /// Height and width of the large one.
    size: [usize; 2],
}

impl Backward for Doubled {
    fn held(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        let ([batch, h, w, channels], [height, width]) = (self.dims, self.size);
        let mut dx = vec![0.0; batch * h * w * channels];
        for (index, slope) in dy.chunks_exact(channels).enumerate() {
            let (image, y, x) = (index / (height * width), index / width % height, index % width);
            let place = ((image * h + y / 2) * w + x / 2) * channels;
            dx[place..place + channels].iter_mut().zip(slope).for_each(|(sum, x)| *sum += x);
        }
        flow.add(self.wanted, dx);
        Ok(())
    }
}
