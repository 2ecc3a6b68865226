//! The weight files of a model, tensor by tensor as they lie there.
//!
//! The networks read weights under their own names; here it is the other way round: every tensor
//! of a file, in the file's order, and the layers that it holds. So a file can be written anew
//! with one tensor in memory at a time.

use std::borrow::Cow;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::{
    BlockNames, Dtype, Folder, FrozenWeight, ModelParts, SingleLayers, TensorFile, TensorSlot,
    Weights, single_layers,
};
use crate::lora::{Adapters, Network};

/// A model and its weight files.
#[derive(Debug)]
pub struct Checkpoint {
    /// The model, as the networks read it.
    pub parts: ModelParts,
    /// The files of UNet and text encoders, and of the VAE where it is in the same file.
    pub files: Vec<CheckpointFile>,
}

/// One weight file of a model.
#[derive(Debug)]
pub struct CheckpointFile {
    file: TensorFile,
    /// The network that all of it is, where files are apart.
    network: Option<Network>,
}

/// A tensor of a file.
pub struct RawTensor<'a> {
    name: &'a str,
    dtype: &'a str,
    shape: &'a [usize],
    bytes: &'a [u8],
    /// Absent for what is no number of ours, and for parts that no LoRA changes.
    layers: Option<(Network, SingleLayers)>,
    weight: Option<&'a FrozenWeight>,
}

impl Checkpoint {
    /// Opens a folder in diffusers layout or a single-file checkpoint.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            Self::of_folder(ModelParts::open_folder(&Folder::disk(path))?)
        } else {
            let parts = ModelParts::open_file(path)?;
            let file = CheckpointFile { file: TensorFile::open(path)?, network: None };
            Ok(Self { parts, files: vec![file] })
        }
    }

    fn of_folder(parts: ModelParts) -> Result<Self> {
        let encoder = |encoder: &'_ Option<(_, Weights)>| {
            encoder.as_ref().map(|(_, weights): &(_, Weights)| weights.clone())
        };
        let networks = [
            (Network::Unet, Some(parts.unet.1.clone())),
            (Network::TextEncoder, encoder(&parts.text_encoder)),
            (Network::TextEncoder2, encoder(&parts.text_encoder_2)),
        ];
        let mut files = Vec::new();
        for (network, weights) in networks {
            for (path, bytes) in weights.iter().flat_map(Weights::files) {
                let file = TensorFile::parse(bytes, path)?;
                files.push(CheckpointFile { file, network: Some(network) });
            }
        }
        Ok(Self { parts, files })
    }

    /// All tensors of a file, in its order.
    #[must_use]
    pub fn tensors<'a>(&self, file: &'a CheckpointFile) -> Vec<RawTensor<'a>> {
        let unet = &self.parts.unet.0;
        let names = BlockNames::unet(unet.levels(), unet.layers_per_block);
        let tensors = file.file.in_order().into_iter().map(|(name, dtype, shape, bytes)| {
            let weight = file.file.weights().get(name);
            let layers = weight.and_then(|weight| file.layers(name, weight, &names));
            RawTensor { name, dtype, shape, bytes, layers, weight }
        });
        tensors.collect()
    }
}

impl CheckpointFile {
    /// How to name the file in a message; of a folder on disk, its path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.file.path()
    }

    /// What the writer of the file noted in it.
    #[must_use]
    pub fn metadata(&self) -> &std::collections::BTreeMap<String, String> {
        self.file.metadata()
    }

    fn layers(
        &self,
        name: &str,
        weight: &FrozenWeight,
        names: &BlockNames,
    ) -> Option<(Network, SingleLayers)> {
        if let Some(network) = self.network {
            let layers = vec![(name.to_owned(), weight.clone())];
            return Some((
                network,
                SingleLayers { part: network.part(), layers, transposed: false },
            ));
        }
        let layers = single_layers(name, weight, names)?;
        let network = Network::ALL.into_iter().find(|network| network.part() == layers.part)?;
        Some((network, layers))
    }
}

impl RawTensor<'_> {
    /// What the tensor will be, in another dtype if one is given. The VAE and what is no number
    /// of ours stay as they are.
    #[must_use]
    pub fn slot(&self, dtype: Option<Dtype>) -> TensorSlot {
        let (name, shape) = (self.name.to_owned(), self.shape.to_vec());
        match dtype.filter(|_| self.layers.is_some()) {
            Some(dtype) => {
                let bytes = shape.iter().product::<usize>() * dtype.size();
                TensorSlot { name, dtype: dtype.name().to_owned(), shape, bytes }
            }
            None => {
                TensorSlot { name, dtype: self.dtype.to_owned(), shape, bytes: self.bytes.len() }
            }
        }
    }

    /// The bytes of the tensor with what the LoRA files do to its layers.
    ///
    /// Refuses a sum that the dtype cannot hold.
    pub fn fused(&self, adapters: &Adapters, dtype: Option<Dtype>) -> Result<Cow<'_, [u8]>> {
        let (Some((network, held)), Some(weight)) = (&self.layers, self.weight) else {
            return Ok(Cow::Borrowed(self.bytes));
        };
        let adapters = adapters.of(*network);
        let adapter = |key: &str| adapters.get(key.strip_suffix(".weight")?);
        let bias = |key: &str| adapters.get(key.strip_suffix(".bias")?)?.bias.as_ref();
        let changes =
            held.layers.iter().any(|(key, _)| adapter(key).is_some() || bias(key).is_some());
        let dtype = dtype.unwrap_or(weight.dtype());
        if !changes && dtype == weight.dtype() {
            return Ok(Cow::Borrowed(self.bytes));
        }
        let mut values = Vec::with_capacity(weight.count());
        for (key, part) in held.layers.iter().filter(|_| changes) {
            let mut part_values = part.values_f32();
            if let Some(bias) = bias(key) {
                part_values = bias.values_f32();
            }
            if let Some(adapter) = adapter(key) {
                adapter.fuse_into(&mut part_values, part.shape().first().copied().unwrap_or(0));
            }
            values.append(&mut part_values);
        }
        // All of an unchanged tensor, and rows that a fused projection has beyond three equal
        // parts.
        values.extend(weight.values_f32().split_off(values.len().min(weight.count())));
        if let (true, true, [rows, columns]) = (changes, held.transposed, self.shape) {
            values = FrozenWeight::from_f32(&values, &[*columns, *rows]).transposed().values_f32();
        }
        let rounded = FrozenWeight::rounded(&values, dtype, self.shape);
        if let Some(value) = lost(&values, &rounded) {
            let (layer, dtype) = (self.name.to_owned(), dtype.name());
            return Err(Error::LoraRange { layer, value, dtype });
        }
        Ok(Cow::Owned(rounded.bytes().to_vec()))
    }

    /// Its key in the file.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name
    }
}

/// A value that is finite only before it is rounded.
fn lost(values: &[f32], rounded: &FrozenWeight) -> Option<f32> {
    if rounded.dtype() == Dtype::F32 {
        return None;
    }
    let kept = rounded.values_f32();
    let mut pairs = values.iter().zip(kept);
    pairs.find(|(value, kept)| value.is_finite() && !kept.is_finite()).map(|(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::LowRank;

    /// A tensor of a single file with `10 · (row + 1)` added to each row of one of its layers.
    fn fused(name: &str, shape: &[usize], layer: &str, rows: usize) -> Result<Vec<f32>> {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
        let weight = FrozenWeight::from_f32(&values, shape);
        let layers = single_layers(name, &weight, &BlockNames::unet(4, 2)).expect("it has layers");
        let network = Network::TextEncoder2;
        assert_eq!(layers.part, network.part());
        let up: Vec<f32> = (0..rows).map(|row| 10.0 * (row as f32 + 1.0)).collect();
        let mut adapters = Adapters::default();
        adapters.of_mut(network).entry(layer).low_rank.push(LowRank {
            down: FrozenWeight::from_f32(&[1.0, 1.0], &[1, 2]),
            up: FrozenWeight::from_f32(&up, &[rows, 1]),
            scale: 1.0,
        });
        let (layers, bytes) = (Some((network, layers)), weight.bytes());
        let tensor = RawTensor { name, dtype: "F32", shape, bytes, layers, weight: Some(&weight) };
        let bytes = tensor.fused(&adapters, None)?;
        let (values, _) = bytes.as_chunks::<4>();
        Ok(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }

    #[test]
    fn the_key_of_a_fused_projection_is_its_second_third() -> Result<()> {
        let name = "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight";
        let layer = "text_model.encoder.layers.3.self_attn.k_proj";
        let expected = [0.0, 1.0, 2.0, 3.0, 14.0, 15.0, 26.0, 27.0, 8.0, 9.0, 10.0, 11.0];
        assert_eq!(fused(name, &[6, 2], layer, 2)?, expected);
        Ok(())
    }

    #[test]
    fn a_projection_that_lies_transposed_stays_so() -> Result<()> {
        let name = "conditioner.embedders.1.model.text_projection";
        let values = fused(name, &[2, 3], "text_projection", 3)?;
        assert_eq!(values, [10.0, 21.0, 32.0, 13.0, 24.0, 35.0]);
        Ok(())
    }
}
