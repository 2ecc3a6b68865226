//! Frozen weights as they lie in a file.

/// How a weight's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Dtype {
    /// Bytes of one number.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A row-major weight `[rows, cols]`: little-endian bytes at any address.
///
/// `rows` are outputs, `cols` inputs, as checkpoints store a linear layer. Kernels widen
/// and pack it block by block as they go; it is never copied whole.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// # Panics
    /// If `bytes` is not exactly `rows × cols` numbers long.
    #[must_use]
    pub fn new(dtype: Dtype, rows: usize, cols: usize, bytes: &'a [u8]) -> Self {
        let expected = rows.checked_mul(cols).and_then(|n| n.checked_mul(dtype.size()));
        assert_eq!(Some(bytes.len()), expected, "bytes of a {rows} × {cols} {dtype:?} matrix");
        Self { dtype, rows, cols, bytes }
    }

    /// A matrix in memory, such as an adapter's factor.
    ///
    /// # Panics
    /// If `values` is not exactly `rows × cols` long.
    #[must_use]
    pub fn from_f32(rows: usize, cols: usize, values: &'a [f32]) -> Self {
        Self::new(Dtype::F32, rows, cols, as_bytes(values))
    }

    /// Outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How the numbers are stored.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The number at `row`, `col`, widened.
    #[must_use]
    pub fn get(&self, row: usize, col: usize) -> f32 {
        assert!(col < self.cols, "column {col} of {}", self.cols);
        crate::pack::number(self.dtype, self.bytes, row * self.cols + col)
    }
}

#[cfg(target_endian = "big")]
compile_error!("weights are read as little-endian numbers; this target is big-endian");

/// The bytes of `values`.
pub(crate) fn as_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: f32 has no padding, u8 needs no alignment, the length is in bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
