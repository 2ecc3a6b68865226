//! A picture as bytes, `[H, W, 3]`.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// Red, green and blue of every pixel, row by row from the top.
#[derive(Clone, PartialEq, Eq)]
pub struct Pixels {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Pixels {
    /// Takes `width · height · 3` bytes; another number of them is an error.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self> {
        let expected = u64::from(width) * u64::from(height) * 3;
        if width == 0 || height == 0 || rgb.len() as u64 != expected {
            return Err(Error::Encode {
                format: "pixels",
                problem: format!("{} bytes for {width}x{height}, expected {expected}", rgb.len()),
            });
        }
        Ok(Self { width, height, rgb })
    }

    /// Takes what a VAE decodes, `[1, H, W, 3]` in [-1, 1], and rounds as diffusers does: half
    /// to even, after clamping.
    pub fn from_tensor(decoded: &Tensor) -> Result<Self> {
        let (batch, height, width, channels) = decoded.dims4()?;
        if batch != 1 || channels != 3 {
            return Err(Error::Encode {
                format: "pixels",
                problem: format!("a tensor of shape {:?}, expected [1, H, W, 3]", decoded.dims()),
            });
        }
        let values: Vec<f32> = decoded.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let rgb = values.into_iter().map(to_byte).collect();
        Self::new(width as u32, height as u32, rgb)
    }

    /// Pixels from left to right.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Pixels from top to bottom.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The bytes, `[H, W, 3]`.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Two pictures of one height as one, without a gap.
    pub fn beside(left: &Self, right: &Self) -> Result<Self> {
        Self::row(&[left, right])
    }

    /// Pictures of one height from left to right, without gaps.
    pub fn row(pictures: &[&Self]) -> Result<Self> {
        let Some(first) = pictures.first() else {
            return Err(Error::Encode { format: "a row", problem: "no pictures".to_owned() });
        };
        if let Some(other) = pictures.iter().find(|other| other.height != first.height) {
            return Err(Error::Encode {
                format: "a row",
                problem: format!("heights {} and {}", first.height, other.height),
            });
        }
        let width = pictures.iter().map(|picture| u64::from(picture.width)).sum::<u64>();
        let width = u32::try_from(width).map_err(|_| Error::Encode {
            format: "a row",
            problem: format!("{width} pixels wide"),
        })?;
        let mut rows: Vec<_> =
            pictures.iter().map(|p| p.rgb.chunks_exact(p.width as usize * 3)).collect();
        let mut rgb = Vec::with_capacity(pictures.iter().map(|picture| picture.rgb.len()).sum());
        for _ in 0..first.height {
            for row in rows.iter_mut().filter_map(Iterator::next) {
                rgb.extend_from_slice(row);
            }
        }
        Self::new(width, first.height, rgb)
    }
}

/// The bytes of a picture help nobody in a debug print.
impl std::fmt::Debug for Pixels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pixels")
            .field("width", &self.width)
            .field("height", &self.height)
            .finish_non_exhaustive()
    }
}

/// `VaeImageProcessor.postprocess` of diffusers 0.42.1, in f32 throughout.
fn to_byte(value: f32) -> u8 {
    ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use candle_core::Device;

    use super::*;

    #[test]
    fn values_round_half_to_even_and_clamp() {
        // 0 is the one value that lies exactly between two bytes, 127 and 128.
        let values = [-7.0f32, -1.0, -0.999, -0.5, 0.0, 0.5, 0.999, 1.0, 7.0];
        let tensor = Tensor::new(&values, &Device::Cpu).unwrap().reshape((1, 1, 3, 3)).unwrap();
        let pixels = Pixels::from_tensor(&tensor).unwrap();
        assert_eq!(pixels.rgb(), [0, 0, 0, 64, 128, 191, 255, 255, 255]);
        assert_eq!((pixels.width(), pixels.height()), (3, 1));
    }

    #[test]
    fn a_pair_has_each_row_of_both() {
        let left = Pixels::new(1, 2, vec![1, 1, 1, 2, 2, 2]).unwrap();
        let right = Pixels::new(2, 2, vec![3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6]).unwrap();
        let pair = Pixels::beside(&left, &right).unwrap();
        assert_eq!((pair.width(), pair.height()), (3, 2));
        assert_eq!(pair.rgb(), [1, 1, 1, 3, 3, 3, 4, 4, 4, 2, 2, 2, 5, 5, 5, 6, 6, 6]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Pixels::new(2, 2, vec![0; 11]).is_err());
        assert!(Pixels::new(0, 0, vec![]).is_err());
        let (low, high) =
            (Pixels::new(1, 1, vec![0; 3]).unwrap(), Pixels::new(1, 2, vec![0; 6]).unwrap());
        assert!(Pixels::beside(&low, &high).is_err());
        assert!(Pixels::row(&[]).is_err());
        let gray = Tensor::zeros((1, 2, 2, 1), DType::F32, &Device::Cpu).unwrap();
        assert!(Pixels::from_tensor(&gray).is_err());
    }
}
