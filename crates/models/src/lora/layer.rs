//! One layer of a LoRA, free of any dialect: what training makes and what a file says.

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::files::{Dtype, FrozenWeight};
use crate::lora::change::{Change, Pair};
use crate::lora::keys::Network;

/// One layer of a LoRA: `W' = W + difference`, brought to other lengths by DoRA, and `b' = b + bias`.
#[derive(Debug, Clone)]
pub struct LoraLayer {
    /// The network that the layer is in.
    pub network: Network,
    /// The layer's checkpoint key without `.weight`.
    pub name: String,
    /// What is added to its weight.
    pub change: Change,
    /// DoRA: the lengths that the rows of the changed weight get, `[out]` with any axes of 1
    /// after it, or those of its columns, `[1, in]`.
    pub magnitude: Option<FrozenWeight>,
    /// `[out]`, added to its bias.
    pub bias: Option<FrozenWeight>,
}

impl LoraLayer {
    /// A plain one: `y += alpha / rank · up · down · x`.
    #[must_use]
    pub fn low_rank(
        network: Network,
        name: &str,
        down: FrozenWeight,
        up: FrozenWeight,
        alpha: f64,
    ) -> Self {
        let change = Change::LowRank(Pair { down, up, mid: None, alpha });
        Self { network, name: name.to_owned(), change, magnitude: None, bias: None }
    }

    /// Its two matrices, where it is nothing but two matrices.
    #[must_use]
    pub fn as_pair(&self) -> Option<&Pair> {
        match &self.change {
            Change::LowRank(pair) if pair.mid.is_none() => {
                (self.magnitude.is_none() && self.bias.is_none()).then_some(pair)
            }
            _ => None,
        }
    }

    /// The same with a Tucker decomposition's `mid` multiplied into `down`, in f32.
    #[must_use]
    pub fn without_mid(&self) -> Self {
        let mut layer = self.clone();
        if let Change::LowRank(pair) = &mut layer.change {
            pair.fold();
        }
        layer
    }

    /// Rows of `down`; 0 where there is no product.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.change.rank().unwrap_or(0)
    }

    /// What the product of the matrices is multiplied with.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.change.factor()
    }

    /// The whole difference, row by row in the shape of the weight: alpha counts, the user's
    /// scale does not. DoRA's lengths are another matter: they need the weight itself.
    #[must_use]
    pub fn delta(&self) -> Vec<f32> {
        self.change.delta()
    }

    /// All its tensors.
    #[must_use]
    pub fn tensors(&self) -> Vec<&FrozenWeight> {
        let mut tensors = self.change.tensors();
        tensors.extend(self.magnitude.iter().chain(&self.bias));
        tensors
    }

    /// The name of its method.
    #[must_use]
    pub fn method(&self) -> String {
        match self.magnitude {
            Some(_) => format!("{} with DoRA", self.change.name()),
            None => self.change.name().to_owned(),
        }
    }

    /// The same in f32, which holds every value of the other dtypes.
    #[must_use]
    pub fn widened(&self) -> Self {
        let wide = |weight: &FrozenWeight| {
            Ok::<_, std::convert::Infallible>(match weight.dtype() {
                Dtype::F32 => weight.clone(),
                _ => FrozenWeight::from_f32(&weight.values_f32(), weight.shape()),
            })
        };
        match self.map(wide) {
            Ok(layer) => layer,
        }
    }

    /// The same with tensors in this dtype, each value rounded to the nearest.
    ///
    /// Refuses a value that the dtype cannot hold, and a tensor that would become all zeros: its
    /// layer would do nothing.
    pub fn in_dtype(&self, dtype: Dtype) -> Result<Self> {
        let rounded = |weight: &FrozenWeight| {
            if weight.dtype() == dtype {
                return Ok(weight.clone());
            }
            let values = weight.values_f32();
            let rounded = FrozenWeight::rounded(&values, dtype, weight.shape());
            let kept = rounded.values_f32();
            let (layer, dtype) = (self.name.clone(), dtype.name());
            let is_lost = |(value, kept): &(&f32, &f32)| value.is_finite() && !kept.is_finite();
            if let Some((value, _)) = values.iter().zip(&kept).find(is_lost) {
                return Err(Error::LoraRange { layer, value: *value, dtype });
            }
            let greatest = values.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
            if greatest > 0.0 && kept.iter().all(|value| *value == 0.0) {
                return Err(Error::LoraVanishes { layer, greatest, dtype });
            }
            Ok(rounded)
        };
        self.map(rounded)
    }

    fn map<E>(
        &self,
        mut with: impl FnMut(&FrozenWeight) -> Result<FrozenWeight, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            network: self.network,
            name: self.name.clone(),
            change: self.change.map(&mut with)?,
            magnitude: self.magnitude.as_ref().map(&mut with).transpose()?,
            bias: self.bias.as_ref().map(&mut with).transpose()?,
        })
    }
}

impl Pair {
    /// `up` with the factor multiplied in, if `up`'s dtype holds every value exactly.
    pub(super) fn folded_up(&self) -> Option<FrozenWeight> {
        let rank = self.rank() as f64;
        if self.alpha.to_bits() == rank.to_bits() {
            return Some(self.up.clone());
        }
        let values = self.up.values_f32().into_iter().map(|value| {
            let product = f64::from(value) * self.alpha / rank;
            let rounded = match self.up.dtype() {
                Dtype::F32 => product as f32,
                Dtype::F16 => f16::from_f64(product).to_f32(),
                Dtype::Bf16 => bf16::from_f64(product).to_f32(),
            };
            (f64::from(rounded).to_bits() == product.to_bits()).then_some(rounded)
        });
        let values: Vec<f32> = values.collect::<Option<_>>()?;
        Some(FrozenWeight::rounded(&values, self.up.dtype(), self.up.shape()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(up: FrozenWeight, alpha: f64) -> LoraLayer {
        let down = FrozenWeight::from_f32(&[1.0, 2.0, 3.0, 4.0], &[4, 1]);
        LoraLayer::low_rank(Network::Unet, "conv_in", down, up, alpha)
    }

    fn folded_up(layer: &LoraLayer) -> Option<FrozenWeight> {
        layer.as_pair().and_then(Pair::folded_up)
    }

    fn up_of(layer: &LoraLayer) -> Option<Vec<f32>> {
        layer.as_pair().map(|pair| pair.up.values_f32())
    }

    #[test]
    fn a_power_of_two_folds_in_and_a_third_does_not() {
        let up = FrozenWeight::rounded(&[1.5, -0.1, 0.0, 3.0], Dtype::F16, &[1, 4]);
        let folded = folded_up(&layer(up.clone(), 1.0));
        let quarter: Vec<f32> = up.values_f32().iter().map(|value| value / 4.0).collect();
        assert_eq!(folded.map(|up| (up.dtype(), up.values_f32())), Some((Dtype::F16, quarter)));
        assert!(folded_up(&layer(up, 3.0)).is_none());
    }

    #[test]
    fn what_a_dtype_cannot_hold_is_refused() {
        let up = |most| layer(FrozenWeight::from_f32(&[most, 0.1, 0.0, 3.0], &[1, 4]), 4.0);
        let rounded = up(65504.0).in_dtype(Dtype::F16).ok().as_ref().and_then(up_of);
        let expected = FrozenWeight::rounded(&[65504.0, 0.1, 0.0, 3.0], Dtype::F16, &[1, 4]);
        assert_eq!(rounded, Some(expected.values_f32()));
        let error = up(1e6).in_dtype(Dtype::F16).err().map(|error| error.to_string());
        assert_eq!(
            error.as_deref(),
            Some("the LoRA's `conv_in` has the value 1000000, which F16 cannot hold")
        );
        assert!(up(1e6).in_dtype(Dtype::Bf16).is_ok());
    }

    #[test]
    fn a_matrix_that_would_become_all_zeros_is_refused() {
        let up = |most| layer(FrozenWeight::from_f32(&[most, -1e-12, 0.0, 1e-9], &[1, 4]), 4.0);
        let error = up(0.0).in_dtype(Dtype::F16).err();
        assert_eq!(
            error.as_ref().map(ToString::to_string).as_deref(),
            Some(
                "the LoRA's `conv_in` has a matrix whose greatest value is 1e-9; in F16 all of \
                 them would be 0"
            )
        );
        assert!(error.and_then(|error| error.hint()).is_some());
        // Some values of a matrix may vanish, and one of zeros is one of zeros.
        assert!(up(1e-3).in_dtype(Dtype::F16).is_ok());
        assert!(up(0.0).in_dtype(Dtype::Bf16).is_ok());
        let zeros = layer(FrozenWeight::from_f32(&[0.0; 4], &[1, 4]), 4.0);
        assert!(zeros.in_dtype(Dtype::F16).is_ok());
    }

    #[test]
    fn what_would_vanish_or_overflow_is_not_folded() {
        let least = 2_f32.powi(-24);
        let up = FrozenWeight::rounded(&[least, 1.0, 1.0, 1.0], Dtype::F16, &[1, 4]);
        assert!(folded_up(&layer(up.clone(), 2.0)).is_none());
        assert!(folded_up(&layer(up, 2.0).widened()).is_some());
        let up = FrozenWeight::rounded(&[65504.0, 1.0, 1.0, 1.0], Dtype::F16, &[1, 4]);
        assert!(folded_up(&layer(up, 8.0)).is_none());
    }
}
