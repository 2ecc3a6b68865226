//! What pickled files are for: LoRA files, textual inversions, models.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod pickled;
mod shared;

use std::path::Path;

use pickled::written;
use shared::{demo, root};
use unwrong_models::files::{Bytes, Folder, ModelParts, TensorFile, Weights};
use unwrong_models::lora::LoraFile;
use unwrong_models::textual_inversion::TextualInversion;

fn golden(name: &str) -> std::path::PathBuf {
    root().join("parity/goldens").join(name)
}

#[test]
fn a_pickled_lora_is_the_lora_it_was_made_of() {
    for name in ["pickles/lora.bin", "pickles/lora-legacy.bin"] {
        let lora = LoraFile::open(&golden(name)).unwrap();
        assert_eq!((lora.tensors(), lora.layers()), (2, 1), "{name}");
        assert!(lora.ignored().is_empty(), "{name}");
    }
    let mut files = 0;
    for entry in std::fs::read_dir(golden("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.starts_with("lora-") {
            continue;
        }
        let file = TensorFile::open(&path).unwrap();
        let bytes = Bytes::owned(written(&file));
        let pickle = TensorFile::parse(&bytes, name).unwrap();
        let values = |file: &TensorFile| -> Vec<_> {
            let weights = file.weights().iter();
            weights.map(|(key, weight)| (key.clone(), weight.bytes().to_vec())).collect()
        };
        assert_eq!(values(&pickle), values(&file), "{name}");
        let (lora, expected) =
            (LoraFile::parse(&bytes, name).unwrap(), LoraFile::open(&path).unwrap());
        assert_eq!(lora.layers(), expected.layers(), "{name}");
        assert_eq!(lora.dialects(), expected.dialects(), "{name}");
        assert_eq!(*lora.bytes().first_chunk().unwrap(), *b"PK", "{name}");
        files += 1;
    }
    assert!(files > 10);
}

#[test]
fn a_pickled_textual_inversion_is_read() {
    let word = TextualInversion::open(&golden("pickles/inversion.bin"), [768, 1280]).unwrap();
    assert_eq!(word.tokens(), 1);
    let error = TextualInversion::open(&golden("pickles/ordered.bin"), [768, 1280]).unwrap_err();
    assert!(error.to_string().contains("it has no `clip_l`"), "{error}");
}

/// Copies a folder, with every safetensors file under the pickled name.
fn pickled_copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            pickled_copy(&path, &to.join(name));
        } else if let Some(stem) = name.strip_suffix(".safetensors") {
            let bytes = written(&TensorFile::open(&path).unwrap());
            let stem = if stem == "model" { "pytorch_model" } else { stem };
            std::fs::write(to.join(format!("{stem}.bin")), bytes).unwrap();
        } else {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

#[test]
fn a_folder_of_pickles_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    pickled_copy(&root().join("crates/demo/model/base"), folder.path());
    let expected = ModelParts::open_folder(&demo("base")).unwrap();
    let found = ModelParts::open_folder(&Folder::disk(folder.path())).unwrap();
    let keys = |parts: &ModelParts| -> Vec<String> {
        parts.weights().flat_map(Weights::keys).map(str::to_owned).collect()
    };
    assert_eq!(keys(&found), keys(&expected));
}
