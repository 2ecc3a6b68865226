//! Convolutions with a norm folded in.

use candle_core::{DType, Tensor, TensorId};
use unwrong_kernels as kernels;

use super::super::cpu::{self, Norm, matrix};
use super::{Backward, Flow, Tape, four, with_values};
use crate::error::{Error, Result};
use crate::files::FrozenWeight;
use crate::layers::Extent;
use crate::ops::{Convolution, Image, Window};

impl Tape {
    /// A convolution, plus a residual.
    pub(crate) fn conv2d(
        &self,
        x: &Image,
        conv: &Convolution<'_>,
        residual: Option<Image>,
        extent: Extent,
    ) -> Result<Image> {
        let x = x.to_tensor()?;
        let residual = residual.map(Image::into_tensor).transpose()?;
        if conv.per_image.is_some_and(|shift| self.live(shift).is_some()) {
            return Err(Error::NoBackward { op: "conv2d" });
        }
        let (wanted, onto) = (self.live(&x), residual.as_ref().and_then(|x| self.live(x)));
        let operation = Conv {
            x: wanted,
            residual: onto,
            weight: conv.product.weight.clone(),
            window: conv.window,
            dims: four(x.dims()),
            norm: conv.norm.map(|norm| (Norm::of(norm), norm.silu, x.clone())),
        };
        let y = if extent == Extent::Outline {
            let dims = operation.layer(matrix(&operation.weight)).output_shape(operation.dims);
            Tensor::zeros(&dims[..], DType::F32, x.device())?
        } else {
            cpu::conv2d(&x.into(), conv, residual.map(Image::from))?.into_tensor()?
        };
        if wanted.is_some() || onto.is_some() {
            self.record(&y, operation);
        }
        Ok(y.into())
    }
}

struct Conv {
    /// Where gradients are wanted.
    x: Option<TensorId>,
    residual: Option<TensorId>,
    weight: FrozenWeight,
    window: Window,
    /// Of `x`.
    dims: [usize; 4],
    /// The norm, whether SiLU follows it, and what it reads.
    norm: Option<(Norm, bool, Tensor)>,
}

impl Conv {
    fn layer<'a>(&self, weight: kernels::Matrix<'a>) -> kernels::Conv<'a> {
        let Window { kernel, stride, padding, upsample } = self.window;
        kernels::Conv { weight, kernel, stride, padding, upsample }
    }
}

impl Backward for Conv {
    fn held(&self) -> Vec<&Tensor> {
        self.norm.iter().map(|(_, _, x)| x).collect()
    }

    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        if let Some(wanted) = self.x {
            let layer = self.layer(matrix(&self.weight));
            let mut dx = kernels::conv2d_backward(&dy, &layer, self.dims);
            if let Some((norm, silu, x)) = &self.norm {
                dx = with_values([x], |[x]| {
                    kernels::group_norm_backward(&dx, x, self.dims, &norm.kernel(), *silu)
                })?;
            }
            flow.add(wanted, dx);
        }
        if let Some(residual) = self.residual {
            flow.add(residual, dy);
        }
        Ok(())
    }
}
