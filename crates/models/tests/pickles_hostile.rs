//! Pickles and zips that mean harm: each is refused in words that name what was found, and
//! nothing of it is ever run.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod pickled;

use std::time::{Duration, Instant};

use pickled::{file, floats, hostile, one, tensor};
use unwrong_models::error::Error;
use unwrong_models::files::{Bytes, TensorFile};

fn parse(bytes: Vec<u8>) -> Result<TensorFile, Error> {
    TensorFile::parse(&Bytes::owned(bytes), "test.bin")
}

#[test]
fn a_sound_file_made_by_hand_is_read() {
    let parsed = parse(file(&one(&tensor(&floats(), 0, &[2, 2], &[2, 1])))).unwrap();
    assert_eq!(parsed.weights()["w"].values_f32(), [0.0, 1.0, 2.0, 3.0]);
    let parsed = parse(file(&one(&tensor(&floats(), 0, &[2, 2], &[1, 2])))).unwrap();
    assert_eq!(parsed.weights()["w"].values_f32(), [0.0, 2.0, 1.0, 3.0]);
}

#[test]
fn every_hostile_file_is_refused_by_what_it_does() {
    for (what, bytes, words) in hostile::cases() {
        let start = Instant::now();
        match parse(bytes) {
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains(words), "{what}: {message}");
                assert!(!message.contains(char::is_control), "{what}: {message:?}");
                assert!(message.len() < 400, "{what}: {message}");
            }
            // Odd, and harmless: nothing but the tensors is taken.
            Ok(file) => assert!(words.is_empty(), "{what}: {file:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{what}");
    }
}
