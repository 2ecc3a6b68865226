//! The syntax of A1111 (AUTOMATIC1111 stable-diffusion-webui) and its copies.
//!
//! Stage 2 of the flow. In the order in which a prompt is read: extra networks are taken out
//! ([`networks`]), `AND` splits it ([`parts`]), schedules give a text for every step
//! ([`schedule`]), brackets give weights ([`attention`]), and the fragments are put into
//! chunks ([`chunks`]).
//!
//! Reference: A1111 1.10.1, `modules/extra_networks.py`, `prompt_parser.py`, `sd_emphasis.py`
//! and `sd_hijack_clip.py`, compared in `tests/a1111.rs`.
//!
//! Not as there: hypernetworks are not known; `#` starts no
//! comment; `ftfy`, which replaces curly quotes and wide characters, and HTML entities, which
//! `open_clip` resolves for the second encoder, are left alone; a weight that is no number is
//! text, where A1111 stops with an error.
//!
//! The plans of texts stand alone. A1111 encodes all texts of a schedule as one batch: it fills
//! the shorter ones up with empty chunks, and the mean that "Original" keeps is that of the batch.
//! Of parts of unlike length it repeats the last vector of the shorter. `parity/check_a1111.py`
//! shows that nothing else differs. Steps are counted from 1, as schedules are written; A1111's
//! denoiser (`modules/sd_samplers_cfg_denoiser.py`) counts its calls from 0 and so changes one
//! step later.

mod attention;
mod chunks;
mod networks;
mod parts;
mod schedule;
mod weights;

pub(crate) use attention::parse;
pub(crate) use chunks::chunks;
pub use networks::LoraTag;
pub(crate) use networks::take_out;
pub(crate) use parts::split;
pub(crate) use schedule::read as read_schedule;

use crate::plan::Weighting;

/// What weights in brackets do, as A1111's setting "Emphasis mode" says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Emphasis {
    /// "None": brackets and `BREAK` are text.
    Literal,
    /// "Ignore": brackets are read and their weights are not used.
    Ignore,
    /// "Original": [`Weighting::ScaleKeepMean`]. The default there, and unstable with SDXL.
    Original,
    /// "No norm": [`Weighting::Scale`].
    #[default]
    NoNorm,
}

impl Emphasis {
    pub(crate) fn weighting(self) -> Weighting {
        match self {
            Self::Original => Weighting::ScaleKeepMean,
            Self::Literal | Self::Ignore | Self::NoNorm => Weighting::Scale,
        }
    }
}
