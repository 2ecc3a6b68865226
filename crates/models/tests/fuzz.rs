//! Minutes of random damage to files: no panic, no hang, no memory beyond a file's own measure.
//!
//! ```text
//! UNWRONG_FUZZ_SECONDS=600 UNWRONG_FUZZ_SEED=1 \
//!     cargo test --release -p unwrong-models --test fuzz pickles -- --nocapture
//! ```
//!
//! The same seed tries the same files in the same order; `UNWRONG_FUZZ_FIRST=N` begins at one of
//! them. Without the variables a run takes two
//! seconds, so that the tests of every day see that it still works.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod pickled;
mod shared;

use pickled::{Entry, hostile, zip};
use shared::fuzzing::{Random, damage, fuzz, reason};
use shared::root;
use unwrong_models::files::{Bytes, TensorFile};

/// Reads all there is of a file; the reason of a refusal, without its numbers and names.
fn read(bytes: Vec<u8>) -> Result<(), String> {
    let file = TensorFile::parse(&Bytes::owned(bytes), "x");
    let file = file.map_err(|error| reason(&error.to_string()))?;
    for (name, weight) in file.weights() {
        assert_eq!(weight.values_f32().len(), weight.count(), "{name}");
        assert_eq!(weight.shape().iter().product::<usize>(), weight.count(), "{name}");
    }
    for name in file.names() {
        assert!(file.shape(name).is_some(), "{name}");
        let _ = file.scalar(name);
    }
    Ok(())
}

/// Files as torch writes them, and hostile ones, none longer than some kilobytes.
fn corpus() -> Vec<Vec<u8>> {
    let folder = root().join("parity/goldens/pickles");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let files = paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "bin"));
    let mut files: Vec<Vec<u8>> = files.map(|path| std::fs::read(path).unwrap()).collect();
    files.extend(hostile::cases().into_iter().map(|(_, bytes, _)| bytes));
    files.retain(|bytes| bytes.len() < 8192);
    files
}

/// The pickle in a zip of torch, if it is one.
fn inner(bytes: &[u8]) -> Option<Vec<u8>> {
    let start = bytes.windows(3).position(|window| matches!(window, [0x80, 2..=5, _]))?;
    let end = bytes[start..].windows(3).position(|window| window == b".PK")?;
    Some(bytes[start..=start + end].to_vec())
}

#[test]
fn no_damage_to_pickles_and_zips_makes_the_reader_panic_or_hang() {
    let corpus = corpus();
    let inside: Vec<Vec<u8>> = corpus.iter().filter_map(|bytes| inner(bytes)).collect();
    let storage: Vec<u8> = (0..96).collect();
    let make = |random: &mut Random| {
        if random.below(2) == 0 {
            let mut bytes = random.choose(&corpus).clone();
            damage(&mut bytes, random, &corpus);
            return bytes;
        }
        // The zip stays sound, so that the damage reaches the pickle.
        let mut pickle = random.choose(&inside).clone();
        damage(&mut pickle, random, &inside);
        let mut entries = vec![Entry::new("a/data.pkl", &pickle)];
        for (key, length) in [24, 16, 12, 6, 96, 48].into_iter().enumerate() {
            entries.push(Entry::new(&format!("a/data/{key}"), &storage[..length]));
        }
        zip(&entries)
    };
    fuzz("pickles", make, read);
}

#[test]
fn no_damage_to_safetensors_makes_the_reader_panic_or_hang() {
    let mut made = shared::Made::new();
    made.metadata.insert("format", "pt");
    made.f32("a.weight", &[2, 3]);
    made.add("b.weight", "F16", &[2], &[0, 60, 0, 188]);
    made.add("position_ids", "I64", &[1], &[7; 8]);
    made.add("empty", "BF16", &[0, 4], &[]);
    let whole = made.bytes();
    let length = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let words: Vec<Vec<u8>> = [
        "\"dtype\":\"F4\"",
        "[18446744073709551615,2]",
        "{\"a\":",
        "\"__metadata__\":{}",
        "-1",
        "1e9",
        "\"shape\":[]",
        "\"data_offsets\":[0,4]",
        "null",
        "\"\\ud800\"",
        "[[[[",
        ",",
        "\u{feff}",
    ]
    .into_iter()
    .map(|word| word.as_bytes().to_vec())
    .collect();
    let make = |random: &mut Random| {
        if random.below(2) == 0 {
            let mut bytes = whole.clone();
            damage(&mut bytes, random, &words);
            return bytes;
        }
        // The length stays right, so that the damage reaches the header.
        let mut header = whole[8..8 + length].to_vec();
        damage(&mut header, random, &words);
        [&(header.len() as u64).to_le_bytes()[..], &header, &whole[8 + length..]].concat()
    };
    fuzz("safetensors", make, read);
}
