//! A weight that stays where the file has it.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use half::{bf16, f16};

use crate::error::Result;
use crate::files::Bytes;

/// Number format of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl Dtype {
    /// Bytes per value.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name in safetensors files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    pub(super) fn from_safetensors(name: &str) -> Option<Self> {
        Some(match name {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::Bf16,
            _ => return None,
        })
    }
}

/// A weight that stays where the file has it: dtype, shape, and a view of the bytes.
///
/// Values are little-endian, row-major and possibly unaligned. Cloning shares the bytes.
#[derive(Clone)]
pub struct FrozenWeight {
    bytes: Bytes,
    range: Range<usize>,
    dtype: Dtype,
    shape: Arc<[usize]>,
}

impl FrozenWeight {
    /// The caller has checked that the range lies in the bytes and fits shape and dtype.
    pub(super) fn new(bytes: Bytes, range: Range<usize>, dtype: Dtype, shape: &[usize]) -> Self {
        debug_assert_eq!(range.len(), shape.iter().product::<usize>() * dtype.size());
        Self { bytes, range, dtype, shape: shape.into() }
    }

    /// A weight in memory.
    ///
    /// # Panics
    /// If the number of values is not the product of the shape.
    #[must_use]
    pub fn from_f32(values: &[f32], shape: &[usize]) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values do not fill {shape:?}");
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(Bytes::owned(bytes), 0..size_of_val(values), Dtype::F32, shape)
    }

    /// A weight in memory, every value rounded to the nearest of `dtype`.
    ///
    /// # Panics
    /// If the number of values is not the product of the shape.
    #[must_use]
    pub fn rounded(values: &[f32], dtype: Dtype, shape: &[usize]) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values do not fill {shape:?}");
        let mut bytes = Vec::with_capacity(values.len() * dtype.size());
        for value in values {
            match dtype {
                Dtype::F32 => bytes.extend_from_slice(&value.to_le_bytes()),
                Dtype::F16 => bytes.extend_from_slice(&f16::from_f32(*value).to_le_bytes()),
                Dtype::Bf16 => bytes.extend_from_slice(&bf16::from_f32(*value).to_le_bytes()),
            }
        }
        let range = 0..bytes.len();
        Self::new(Bytes::owned(bytes), range, dtype, shape)
    }

    /// Number format in the file.
    #[must_use]
    pub const fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Dimensions, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> usize {
        self.range.len() / self.dtype.size()
    }

    /// The values as the file has them: little-endian, row-major, possibly unaligned.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }

    /// All values, widened.
    #[must_use]
    pub fn values_f32(&self) -> Vec<f32> {
        let pair = |bytes: &[u8]| [bytes[0], bytes[1]];
        let bytes = self.bytes();
        match self.dtype {
            Dtype::F32 => {
                let (values, _) = bytes.as_chunks::<4>();
                values.iter().map(|value| f32::from_le_bytes(*value)).collect()
            }
            Dtype::F16 => bytes
                .chunks_exact(2)
                .map(|value| f16::from_le_bytes(pair(value)).to_f32())
                .collect(),
            Dtype::Bf16 => bytes
                .chunks_exact(2)
                .map(|value| bf16::from_le_bytes(pair(value)).to_f32())
                .collect(),
        }
    }

    /// The weight as an f32 tensor of its own.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.values_f32(), self.shape(), device)?)
    }

    /// Rows `rows` of the outermost dimension, still a view: the parts of a fused `in_proj`.
    ///
    /// # Panics
    /// If the weight has no such rows.
    #[must_use]
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let all = self.shape.first().copied().unwrap_or(0);
        assert!(rows.start <= rows.end && rows.end <= all, "rows {rows:?} of {:?}", self.shape);
        let row = self.range.len().checked_div(all).unwrap_or(0);
        let start = self.range.start + rows.start * row;
        let mut shape = self.shape.to_vec();
        shape[0] = rows.len();
        Self::new(self.bytes.clone(), start..start + rows.len() * row, self.dtype, &shape)
    }

    /// The same values under another shape: a 1×1 convolution as the matrix it is.
    ///
    /// # Panics
    /// If the shape holds another number of values.
    #[must_use]
    pub fn reshaped(&self, shape: &[usize]) -> Self {
        assert_eq!(self.count(), shape.iter().product::<usize>(), "{:?} as {shape:?}", self.shape);
        Self::new(self.bytes.clone(), self.range.clone(), self.dtype, shape)
    }

    /// A transposed copy of a matrix, in the same dtype.
    ///
    /// # Panics
    /// If the weight is no matrix.
    #[must_use]
    pub fn transposed(&self) -> Self {
        let &[rows, columns] = self.shape() else { panic!("{:?} is no matrix", self.shape) };
        let (size, bytes) = (self.dtype.size(), self.bytes());
        let mut copy = Vec::with_capacity(bytes.len());
        for column in 0..columns {
            for row in 0..rows {
                let start = (row * columns + column) * size;
                copy.extend_from_slice(&bytes[start..start + size]);
            }
        }
        let range = 0..copy.len();
        Self::new(Bytes::owned(copy), range, self.dtype, &[columns, rows])
    }
}

impl std::fmt::Debug for FrozenWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_fused_projection_are_views() {
        let fused = FrozenWeight::from_f32(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &[3, 2]);
        let key = fused.rows(1..2);
        assert_eq!(key.shape(), [1, 2]);
        assert_eq!(key.values_f32(), [2.0, 3.0]);
        assert_eq!(key.bytes().as_ptr(), fused.bytes()[8..].as_ptr());
    }

    #[test]
    fn transposing_swaps_rows_and_columns() {
        let weight = FrozenWeight::from_f32(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &[2, 3]);
        assert_eq!(weight.transposed().shape(), [3, 2]);
        assert_eq!(weight.transposed().values_f32(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(weight.transposed().transposed().bytes(), weight.bytes());
    }

    #[test]
    fn a_weight_without_values_is_harmless() -> Result<()> {
        let empty = FrozenWeight::from_f32(&[], &[0, 4]);
        assert!(empty.values_f32().is_empty());
        assert_eq!(empty.rows(0..0).shape(), [0, 4]);
        assert_eq!(empty.transposed().shape(), [4, 0]);
        assert_eq!(empty.to_tensor(&Device::Cpu)?.dims(), [0, 4]);
        Ok(())
    }

    #[test]
    fn halves_widen_exactly() {
        let bytes: Vec<u8> =
            [f16::from_f32(1.5), f16::MIN_POSITIVE_SUBNORMAL, f16::from_f32(-65504.0)]
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
        let weight = FrozenWeight::new(Bytes::owned(bytes), 0..6, Dtype::F16, &[3]);
        assert_eq!(weight.values_f32(), [1.5, 2_f32.powi(-24), -65504.0]);
        let bytes = bf16::from_f32(-3.0).to_le_bytes().to_vec();
        let weight = FrozenWeight::new(Bytes::owned(bytes), 0..2, Dtype::Bf16, &[1]);
        assert_eq!(weight.values_f32(), [-3.0]);
    }
}
