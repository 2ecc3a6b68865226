//! Convolutions with a norm folded in, frozen or with a trained branch beside them.

use candle_core::{DType, Tensor, TensorId};
use unwrong_kernels as kernels;

use super::super::cpu::{self, Norm, matrix};
use super::branch::{Kept, Thin, Trains};
use super::{Backward, Flow, Tape, four, with_values};
use crate::error::Result;
use crate::files::FrozenWeight;
use crate::layers::Extent;
use crate::ops::{Convolution, Image, Window};

impl Tape {
    /// A convolution, what its branch adds, and a residual.
    ///
    /// Without dropout the product's adapter is the branch.
    pub(crate) fn conv2d(
        &self,
        x: &Image,
        conv: &Convolution<'_>,
        trains: Option<Trains<'_>>,
        residual: Option<Image>,
        extent: Extent,
    ) -> Result<Image> {
        let x = x.to_tensor()?;
        let residual = residual.map(Image::into_tensor).transpose()?;
        let live = |x: Option<&Tensor>| x.and_then(|x| self.live(x));
        let wanted = [Some(&x), conv.per_image, residual.as_ref()].map(live);
        let is_live = wanted.iter().any(Option::is_some) || trains.is_some();
        let reads = trains.is_some() || wanted[0].is_some() && conv.norm.is_some();
        let operation = Conv {
            wanted,
            weight: conv.product.weight.clone(),
            window: conv.window,
            dims: four(x.dims()),
            norm: conv.norm.map(|norm| (Norm::of(norm), norm.silu)),
            input: reads.then(|| x.clone()),
            branch: trains.map(Kept::of),
        };
        let y = if extent == Extent::Outline {
            let dims = operation.layer(matrix(&operation.weight)).output_shape(operation.dims);
            Tensor::zeros(&dims[..], DType::F32, x.device())?
        } else {
            let y = cpu::conv2d(&(&x).into(), conv, residual.map(Image::from))?.into_tensor()?;
            operation.with_dropped(&x, y)?
        };
        if is_live {
            self.record(&y, operation);
        }
        Ok(y.into())
    }
}

struct Conv {
    /// Where gradients are wanted: input, what is added to each image, residual.
    wanted: [Option<TensorId>; 3],
    weight: FrozenWeight,
    window: Window,
    /// Of `x`.
    dims: [usize; 4],
    /// The norm, and whether SiLU follows it.
    norm: Option<(Norm, bool)>,
    /// What the norm or the branch reads.
    input: Option<Tensor>,
    branch: Option<Kept>,
}

impl Conv {
    fn layer<'a>(&self, weight: kernels::Matrix<'a>) -> kernels::Conv<'a> {
        let Window { kernel, stride, padding, upsample } = self.window;
        kernels::Conv { weight, kernel, stride, padding, upsample }
    }

    /// `x` as the filters see it.
    fn normal(&self, x: &[f32]) -> Vec<f32> {
        match &self.norm {
            Some((norm, silu)) => kernels::group_norm(x, self.dims, &norm.kernel(), *silu),
            None => x.to_vec(),
        }
    }

    /// `y` and what a branch with dropout adds to it.
    fn with_dropped(&self, x: &Tensor, y: Tensor) -> Result<Tensor> {
        let Some(branch) = self.branch.as_ref().filter(|branch| branch.has_dropout()) else {
            return Ok(y);
        };
        let values = with_values([x, &y], |[x, y]| {
            branch.with(|thin| {
                let seen = self.normal(x);
                let hidden = self.hidden(thin, &thin.dropped(&seen));
                thin.raised(&thin.scaled(hidden), y)
            })
        })??;
        Ok(Tensor::from_vec(values, y.shape(), y.device())?)
    }

    /// What `down` makes of what it sees, `[B, OH, OW, rank]`.
    fn hidden(&self, thin: &Thin<'_>, seen: &[f32]) -> Vec<f32> {
        let epilogue = kernels::ConvEpilogue::default();
        kernels::conv2d(seen, self.dims, &self.layer(thin.down), &epilogue).0
    }

    /// The gradients for the branch's matrices and for what it sees.
    fn branch_back(&self, thin: &Thin<'_>, x: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
        let normal = self.normal(x);
        let seen = thin.dropped(&normal);
        let hidden = thin.scaled(self.hidden(thin, &seen));
        let rows = hidden.len() / thin.up.cols();
        let d_hidden = thin.scaled(kernels::linear_backward(dy, rows, thin.up));
        let layer = self.layer(thin.down);
        let down = kernels::conv2d_filters_backward(&d_hidden, &seen, &layer, self.dims);
        let dx = thin.undropped(kernels::conv2d_backward(&d_hidden, &layer, self.dims));
        [down, thin.up_gradient(&hidden, dy), dx]
    }
}

impl Backward for Conv {
    fn held(&self) -> Vec<&Tensor> {
        self.input.iter().collect()
    }

    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        let mut of_branch = None;
        if let (Some(branch), Some(x)) = (&self.branch, &self.input) {
            let [down, up, dx] =
                with_values([x], |[x]| branch.with(|thin| self.branch_back(thin, x, &dy)))??;
            branch.found(down, up, flow)?;
            of_branch = Some(dx);
        }
        let [x, per_image, residual] = self.wanted;
        if let Some(per_image) = per_image {
            let each = dy.len() / self.dims[0];
            let sum = |dy: &[f32]| {
                let pixels = each / self.weight.shape()[0];
                kernels::outer_sum(&vec![1.0; pixels], dy, pixels)
            };
            flow.add(per_image, dy.chunks_exact(each).flat_map(sum).collect());
        }
        if let Some(wanted) = x {
            let layer = self.layer(matrix(&self.weight));
            let mut dx = kernels::conv2d_backward(&dy, &layer, self.dims);
            of_branch.into_iter().flatten().zip(&mut dx).for_each(|(more, dx)| *dx += more);
            if let (Some((norm, silu)), Some(x)) = (&self.norm, &self.input) {
                dx = with_values([x], |[x]| {
                    kernels::group_norm_backward(&dx, x, self.dims, &norm.kernel(), *silu)
                })?;
            }
            flow.add(wanted, dx);
        }
        if let Some(residual) = residual {
            flow.add(residual, dy);
        }
        Ok(())
    }
}
