//! Which of SDXL's two text encoders, and what differs between their token ids.

/// How many tokens one pass through an encoder takes, markers included.
pub const CHUNK_TOKENS: usize = 77;
/// `<|startoftext|>`, the first token of every chunk.
pub const START_OF_TEXT: u32 = 49_406;
/// `<|endoftext|>`, the token after the text.
pub const END_OF_TEXT: u32 = 49_407;
/// The first id after the vocabulary: what [`crate::AddedWords`] stand for begins here.
pub const FIRST_ADDED: u32 = 49_408;

/// One of SDXL's two text encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoder {
    /// CLIP ViT-L/14, `text_encoder` and `tokenizer` of a model folder.
    ClipL,
    /// `OpenCLIP` ViT-bigG/14, `text_encoder_2` and `tokenizer_2`.
    BigG,
}

impl Encoder {
    /// Both, in the order in which their features are joined.
    pub const BOTH: [Self; 2] = [Self::ClipL, Self::BigG];

    /// The id that fills a chunk after the text.
    ///
    /// `pad_token` in `tokenizer/tokenizer_config.json` (`<|endoftext|>`) and
    /// `tokenizer_2/tokenizer_config.json` (`!`) of `stabilityai/stable-diffusion-xl-base-1.0`.
    #[must_use]
    pub const fn padding(self) -> u32 {
        match self {
            Self::ClipL => END_OF_TEXT,
            Self::BigG => 0,
        }
    }

    /// A chunk without text: what weights are measured from, and what fills up the shorter
    /// of two prompts.
    #[must_use]
    pub fn empty_ids(self) -> [u32; CHUNK_TOKENS] {
        self.frame(&[])
    }

    /// `text`, at most 75 tokens, between the markers, with padding after them.
    pub(crate) fn frame(self, text: &[u32]) -> [u32; CHUNK_TOKENS] {
        let mut ids = [self.padding(); CHUNK_TOKENS];
        ids[0] = START_OF_TEXT;
        ids[1..=text.len()].copy_from_slice(text);
        ids[text.len() + 1] = END_OF_TEXT;
        ids
    }
}
