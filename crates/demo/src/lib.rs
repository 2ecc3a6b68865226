//! The demo model, embedded in the program: data only.
//!
//! A small SDXL (base, refiner and wrong-LoRA) with the true architecture, so that the
//! first picture needs no download. Its card is `model/README.md`, its recipe the folder
//! `demo/` of the repository.

/// Gives a file the alignment that views on its tensors need.
///
/// `include_bytes!` promises no alignment, and a safetensors file starts its numbers at
/// a multiple of 8 from its own first byte.
#[repr(C, align(8))]
struct Aligned<Bytes: ?Sized>(Bytes);

macro_rules! embed {
    ($name:literal) => {{
        static FILE: &Aligned<[u8]> =
            &Aligned(*include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/model/", $name)));
        ($name, &FILE.0)
    }};
}

/// Every file of the model that the program reads: its path inside the model, and its bytes.
///
/// `base/` and `refiner/` are folders in diffusers layout; `wrong-lora.safetensors` lies
/// beside them. Each file starts at a multiple of 8 bytes.
pub static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::FILES;

    #[test]
    fn every_file_that_the_program_reads_is_embedded() {
        for name in [
            "base/model_index.json",
            "base/scheduler/scheduler_config.json",
            "base/text_encoder/config.json",
            "base/text_encoder/model.safetensors",
            "base/text_encoder_2/config.json",
            "base/text_encoder_2/model.safetensors",
            "base/unet/config.json",
            "base/unet/diffusion_pytorch_model.safetensors",
            "base/vae/config.json",
            "base/vae/diffusion_pytorch_model.safetensors",
            "refiner/model_index.json",
            "refiner/scheduler/scheduler_config.json",
            "refiner/unet/config.json",
            "refiner/unet/diffusion_pytorch_model.safetensors",
            "wrong-lora.safetensors",
        ] {
            assert!(FILES.iter().any(|(known, _)| *known == name), "{name} is not embedded");
        }
    }

    #[test]
    fn diffusers_finds_its_tokenizers_on_disk() {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("model/base");
        for tokenizer in ["tokenizer", "tokenizer_2"] {
            for file in
                ["merges.txt", "vocab.json", "tokenizer_config.json", "special_tokens_map.json"]
            {
                let path = base.join(tokenizer).join(file);
                assert!(path.is_file(), "{} is missing", path.display());
            }
        }
    }

    #[test]
    fn the_vocabularies_are_not_embedded() {
        assert!(FILES.iter().all(|(name, _)| !name.ends_with("vocab.json")));
    }

    #[test]
    fn every_file_starts_at_a_multiple_of_eight() {
        for (name, bytes) in FILES {
            assert_eq!(bytes.as_ptr().align_offset(8), 0, "{name} is not aligned");
            assert!(!bytes.is_empty(), "{name} is empty");
        }
    }

    #[test]
    fn the_model_stays_within_45_megabytes() {
        let total: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(total <= 45_000_000, "{total} bytes");
    }
}
