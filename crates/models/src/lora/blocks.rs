//! How strongly a LoRA counts in each block of the model.
//!
//! The notation of A1111's extension `sd-webui-lora-block-weight` and of kohya's scripts
//! (sd-scripts 48d368f, `networks/svd_merge_lora.py`: `LAYER12`, `LAYER20`, `LAYER26`,
//! `get_lbw_block_index`): one number for the text encoders (`BASE`) and one for each block of
//! the UNet in LDM's count, `IN00` … `IN11`, `MID`, `OUT00` … `OUT11`. SDXL has `IN00` … `IN08`
//! and `OUT00` … `OUT08`; what LDM calls `out` comes after them.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use crate::error::{Error, Result};
use crate::files::BlockNames;
use crate::lora::keys::Network;

/// Number of names.
const COUNT: usize = 26;
/// Their places: the text encoders, then the way down, the middle, the way up.
const BASE: usize = 0;
const IN: usize = 1;
const MID: usize = 13;
const OUT: usize = 14;
/// Blocks on the way down, and up.
const SIDE: usize = 12;

/// The blocks that a list of 12 numbers is about: those of SDXL that have attention.
const ATTENTIONS: [usize; 12] = [0, 5, 6, 8, 9, 13, 14, 15, 16, 17, 18, 19];
/// The blocks that a list of 20 numbers is about: all of SDXL's.
const SDXL: [usize; 20] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22];

/// SDXL's base and refiner count their blocks alike.
static NAMES: LazyLock<BlockNames> = LazyLock::new(|| BlockNames::unet(4, 2));

/// How strongly a LoRA counts in each block: a factor of its scale.
///
/// Written as a list of 12, 20 or 26 numbers, or block by block: `IN04=0.5,OUT=0`, where `IN` and
/// `OUT` are all on that side and `ALL` is all. Blocks that are not named count fully.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockWeights([f64; COUNT]);

impl Default for BlockWeights {
    fn default() -> Self {
        Self([1.0; COUNT])
    }
}

impl BlockWeights {
    /// The factor of a layer, by its checkpoint name.
    #[must_use]
    pub fn of(&self, network: Network, layer: &str) -> f64 {
        if self.is_neutral() {
            return 1.0;
        }
        place(network, layer).map_or(1.0, |place| self.0[place])
    }

    /// Every factor is 1.
    #[must_use]
    pub fn is_neutral(&self) -> bool {
        *self == Self::default()
    }

    /// All factors.
    pub fn numbers(&self) -> impl Iterator<Item = f64> {
        self.0.into_iter()
    }

    fn list(numbers: &[f64]) -> Option<Self> {
        let mut weights = Self::default();
        let places: &[usize] = match numbers.len() {
            12 => &ATTENTIONS,
            20 => &SDXL,
            COUNT => {
                weights.0.copy_from_slice(numbers);
                return Some(weights);
            }
            _ => return None,
        };
        for (place, number) in places.iter().zip(numbers) {
            weights.0[*place] = *number;
        }
        Some(weights)
    }
}

/// The name of a layer's block, `IN04`; none where the model has no such layer.
#[must_use]
pub fn block_name(network: Network, layer: &str) -> Option<String> {
    place(network, layer).map(name)
}

fn place(network: Network, layer: &str) -> Option<usize> {
    if network != Network::Unet {
        return Some(BASE);
    }
    let ldm = NAMES.to_ldm(layer).next()?;
    let mut parts = ldm.split('.');
    let block = parts.next()?;
    let number: Option<usize> = parts.next().and_then(|part| part.parse().ok());
    match (block, number) {
        ("time_embed" | "label_emb", _) => Some(IN),
        ("input_blocks", Some(number)) if number < SIDE => Some(IN + number),
        ("middle_block", _) => Some(MID),
        ("output_blocks", Some(number)) if number < SIDE => Some(OUT + number),
        // The tenth on the way up: SDXL has nine blocks there.
        ("out", _) => Some(OUT + 9),
        _ => None,
    }
}

fn name(place: usize) -> String {
    match place {
        BASE => "BASE".to_owned(),
        MID => "MID".to_owned(),
        place if place < MID => format!("IN{:02}", place - IN),
        place => format!("OUT{:02}", place - OUT),
    }
}

/// The places that a name stands for.
fn places(name: &str) -> Option<std::ops::Range<usize>> {
    let side = |start: usize, number: &str| match number {
        "" => Some(start..start + SIDE),
        number => {
            let number: usize = number.parse().ok().filter(|number| *number < SIDE)?;
            Some(start + number..start + number + 1)
        }
    };
    let name = name.to_ascii_uppercase();
    match name.as_str() {
        "ALL" => Some(0..COUNT),
        "BASE" => Some(BASE..IN),
        "MID" | "M00" => Some(MID..OUT),
        name => match (name.strip_prefix("IN"), name.strip_prefix("OUT")) {
            (Some(number), _) => side(IN, number),
            (_, Some(number)) => side(OUT, number),
            _ => None,
        },
    }
}

impl FromStr for BlockWeights {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |reason: String| Error::BlockWeights { value: text.to_owned(), reason };
        let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
        let parts = || inner.split(',').map(str::trim);
        let number = |text: &str| {
            let number = text.parse().ok().filter(|number: &f64| number.is_finite());
            number.ok_or_else(|| refuse(format!("`{text}` is no number")))
        };
        if !inner.contains('=') {
            let numbers = parts().map(number).collect::<Result<Vec<f64>>>()?;
            let reason = || refuse(format!("it has {} numbers", numbers.len()));
            return Self::list(&numbers).ok_or_else(reason);
        }
        let mut weights = Self::default();
        for part in parts() {
            let (name, weight) =
                part.split_once('=').ok_or_else(|| refuse(format!("`{part}` has no `=`")))?;
            let places =
                places(name.trim()).ok_or_else(|| refuse(format!("`{name}` is no block")))?;
            weights.0[places].fill(number(weight.trim())?);
        }
        Ok(weights)
    }
}

impl fmt::Display for BlockWeights {
    /// The blocks that do not count fully.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others =
            self.0.iter().enumerate().filter(|(_, weight)| weight.to_bits() != 1f64.to_bits());
        let parts: Vec<String> =
            others.map(|(place, weight)| format!("{}={weight}", name(place))).collect();
        if parts.is_empty() { f.write_str("ALL=1") } else { f.write_str(&parts.join(",")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(text: &str) -> BlockWeights {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_layer_lies_in_the_block_that_kohya_counts_it_to() {
        for (layer, block) in [
            ("conv_in", "IN00"),
            ("time_embedding.linear_1", "IN00"),
            ("add_embedding.linear_2", "IN00"),
            ("down_blocks.0.resnets.1.conv1", "IN02"),
            ("down_blocks.0.downsamplers.0.conv", "IN03"),
            ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "IN04"),
            ("down_blocks.1.attentions.1.proj_in", "IN05"),
            ("down_blocks.2.attentions.1.proj_in", "IN08"),
            ("mid_block.attentions.0.proj_in", "MID"),
            ("mid_block.resnets.1.conv1", "MID"),
            ("up_blocks.0.attentions.0.proj_in", "OUT00"),
            ("up_blocks.0.upsamplers.0.conv", "OUT02"),
            ("up_blocks.1.attentions.2.proj_in", "OUT05"),
            ("up_blocks.2.resnets.2.conv2", "OUT08"),
            ("conv_out", "OUT09"),
        ] {
            assert_eq!(block_name(Network::Unet, layer).as_deref(), Some(block), "{layer}");
        }
        let layer = "text_model.encoder.layers.0.mlp.fc1";
        assert_eq!(block_name(Network::TextEncoder2, layer).as_deref(), Some("BASE"));
        assert_eq!(block_name(Network::Unet, "nowhere.to_q"), None);
    }

    #[test]
    fn twelve_twenty_and_twenty_six_numbers_are_read_in_their_order() {
        let twelve = weights("0, 4,5,7,8, 13, 100,101,102,103,104,105");
        let at = |weights: &BlockWeights, block: &str| {
            places(block).map(|places| weights.0[places.start])
        };
        for (block, weight) in [
            ("BASE", 0.0),
            ("IN03", 1.0),
            ("IN04", 4.0),
            ("IN07", 7.0),
            ("IN08", 8.0),
            ("M00", 13.0),
            ("OUT00", 100.0),
            ("OUT05", 105.0),
            ("OUT06", 1.0),
        ] {
            assert_eq!(at(&twelve, block), Some(weight), "{block}");
        }
        let list: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        let twenty = weights(&format!("[{}]", list.join(",")));
        for (block, weight) in
            [("IN00", 1.0), ("IN08", 9.0), ("IN09", 1.0), ("MID", 10.0), ("OUT08", 19.0)]
        {
            assert_eq!(at(&twenty, block), Some(weight), "{block}");
        }
        let list: Vec<String> = (0..26).map(|number| number.to_string()).collect();
        assert_eq!(weights(&list.join(",")).0[25].to_bits(), 25f64.to_bits());
    }

    #[test]
    fn blocks_are_named_and_sides_too() {
        let named = weights("ALL=0,in04=0.5,OUT=2,out01=-1");
        assert_eq!(named.to_string().parse::<BlockWeights>().ok(), Some(named));
        let layer = "down_blocks.1.attentions.0.proj_in";
        assert_eq!(named.of(Network::Unet, layer).to_bits(), 0.5f64.to_bits());
        assert_eq!(named.0[OUT + 1].to_bits(), (-1f64).to_bits());
        assert_eq!(named.0[OUT + 2].to_bits(), 2f64.to_bits());
        assert!(weights("ALL=1").is_neutral());
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_reason() {
        for (text, reason) in [
            ("1,1,1", "it has 3 numbers"),
            ("", "`` is no number"),
            ("1,x", "`x` is no number"),
            ("IN04=NaN", "`NaN` is no number"),
            ("IN12=1", "`IN12` is no block"),
            ("IN04=1,0.5", "`0.5` has no `=`"),
        ] {
            let error = text.parse::<BlockWeights>().err().map(|error| error.to_string());
            assert!(
                error.as_ref().is_some_and(|error| error.contains(reason)),
                "{text}: {error:?}"
            );
        }
    }
}
