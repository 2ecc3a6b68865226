//! Minutes of random keys for the reader of LoRA files; see `fuzz.rs` for how to run it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod shared;

use std::collections::BTreeSet;

use shared::fuzzing::{Random, damage, fuzz, reason};
use shared::{Made, root};
use unwrong_models::files::{Bytes, TensorFile};
use unwrong_models::lora::LoraFile;

/// Keys of every dialect of the goldens.
fn keys() -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = std::fs::read_dir(root().join("parity/goldens"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("lora-"))
        .collect();
    paths.sort();
    let mut keys: Vec<Vec<u8>> = paths
        .iter()
        .flat_map(|path| {
            let file = TensorFile::open(path).unwrap();
            file.names().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>()
        })
        .collect();
    for odd in
        ["", ".", "..", "lora_unet_", "unet.", "lora_te1_text_model_encoder_layers_", ".alpha"]
    {
        keys.push(odd.as_bytes().to_vec());
    }
    keys
}

#[test]
fn no_keys_make_the_reader_of_lora_files_panic_or_hang() {
    let keys = keys();
    let make = |random: &mut Random| {
        let mut names = BTreeSet::new();
        for _ in 0..=random.below(3) {
            let mut key = random.choose(&keys).clone();
            for _ in 0..random.below(3) {
                damage(&mut key, random, &keys);
            }
            let key = String::from_utf8_lossy(&key).into_owned();
            // Both halves of a layer, so that more files come through.
            for (from, to) in [("down", "up"), ("up", "down"), ("_A", "_B"), ("_B", "_A")] {
                names.insert(key.replace(from, to));
            }
            names.insert(key);
        }
        let mut made = Made::new();
        for name in names {
            let shape = [&[2, 2][..], &[1, 2], &[2, 1], &[2, 2, 1, 1]][random.below(32).min(3)];
            let shape = if random.below(4) == 0 { shape } else { &[2, 2] };
            made.f32(&name, if name.ends_with("alpha") { &[] } else { shape });
        }
        made.bytes()
    };
    fuzz("keys", make, |bytes| {
        let lora = LoraFile::parse(&Bytes::owned(bytes), "x");
        let lora = lora.map_err(|error| reason(&error.to_string()))?;
        let _ = (lora.dialects(), lora.family(), lora.metadata(), lora.ignored().len());
        lora.to_layers().map(|_| ()).map_err(|error| reason(&error.to_string()))
    });
}
