//! An image between operations, and whether its memory may be taken.

use candle_core::{Device, Storage, Tensor};

use crate::error::{Error, Result};

/// `[B, H, W, C]`: a tensor that others may hold too, or numbers that nobody else has.
///
/// The kernels return the second kind, and a residual of that kind becomes the sum, in place.
/// Rust's ownership is the proof that nobody reads the old numbers: a tensor is never written.
pub struct Image(Memory);

enum Memory {
    Shared(Tensor),
    Owned { values: Vec<f32>, dims: [usize; 4] },
}

impl Image {
    /// Fresh numbers, row by row.
    pub(super) fn owned(values: Vec<f32>, dims: [usize; 4]) -> Self {
        Self(Memory::Owned { values, dims })
    }

    /// The numbers, where nobody else has them; else the image back.
    pub(super) fn into_owned(self) -> Result<(Vec<f32>, [usize; 4]), Self> {
        match self.0 {
            Memory::Owned { values, dims } => Ok((values, dims)),
            shared @ Memory::Shared(_) => Err(Self(shared)),
        }
    }

    /// `[B, H, W, C]`.
    pub fn dims(&self) -> Result<[usize; 4]> {
        match &self.0 {
            Memory::Owned { dims, .. } => Ok(*dims),
            Memory::Shared(tensor) => {
                let (batch, height, width, channels) = tensor.dims4()?;
                Ok([batch, height, width, channels])
            }
        }
    }

    /// The image as a tensor, without a copy.
    pub fn into_tensor(self) -> Result<Tensor> {
        match self.0 {
            Memory::Shared(tensor) => Ok(tensor),
            Memory::Owned { values, dims } => {
                Ok(Tensor::from_vec(values, &dims[..], &Device::Cpu)?)
            }
        }
    }

    /// A tensor that stays as it is whatever becomes of the image: a copy of owned numbers.
    pub fn to_tensor(&self) -> Result<Tensor> {
        match &self.0 {
            Memory::Shared(tensor) => Ok(tensor.clone()),
            Memory::Owned { values, dims } => {
                Ok(Tensor::from_slice(values, &dims[..], &Device::Cpu)?)
            }
        }
    }

    /// Shows the numbers to the kernel `op`, which has no backward.
    pub(super) fn read<R>(
        &self,
        op: &'static str,
        kernel: impl FnOnce(&[f32], [usize; 4]) -> R,
    ) -> Result<R> {
        let tensor = match &self.0 {
            Memory::Owned { values, dims } => return Ok(kernel(values, *dims)),
            Memory::Shared(tensor) => tensor,
        };
        if tensor.track_op() {
            return Err(Error::NoBackward { op });
        }
        let tensor = tensor.contiguous()?;
        let dims = self.dims()?;
        let (storage, layout) = tensor.storage_and_layout();
        let (start, end) = layout.contiguous_offsets().expect("it was made contiguous above");
        match &*storage {
            Storage::Cpu(storage) => Ok(kernel(&storage.as_slice::<f32>()?[start..end], dims)),
            _ => Err(candle_core::Error::Msg(format!("`{op}` runs on the CPU only")).into()),
        }
    }
}

impl From<Tensor> for Image {
    fn from(tensor: Tensor) -> Self {
        Self(Memory::Shared(tensor))
    }
}

impl From<&Tensor> for Image {
    fn from(tensor: &Tensor) -> Self {
        Self(Memory::Shared(tensor.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;

    #[test]
    fn only_owned_numbers_can_be_taken() -> Result<()> {
        let tensor = Tensor::zeros((1, 2, 3, 4), candle_core::DType::F32, &Device::Cpu)?;
        let shared = Image::from(&tensor);
        assert_eq!(shared.dims()?, [1, 2, 3, 4]);
        assert!(shared.into_owned().is_err());

        let image = Image::owned(vec![1.0; 24], [1, 2, 3, 4]);
        let copy = image.to_tensor()?;
        let Ok((mut values, _)) = image.into_owned() else { panic!("the numbers are owned") };
        values.fill(2.0);
        assert_eq!(copy.flatten_all()?.to_vec1::<f32>()?, [1.0; 24]);
        Ok(())
    }

    #[test]
    fn a_part_of_a_tensor_is_read_where_it_lies() -> Result<()> {
        let values: Vec<f32> = (0..24_u8).map(f32::from).collect();
        let tensor = Tensor::from_vec(values, (2, 1, 3, 4), &Device::Cpu)?;
        let second = Image::from(tensor.narrow(0, 1, 1)?);
        second.read("test", |values, dims| {
            assert_eq!((values[0], values.len(), dims), (12.0, 12, [1, 1, 3, 4]));
        })
    }
}
