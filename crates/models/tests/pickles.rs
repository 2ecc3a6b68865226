//! Files that torch wrote, in both of its formats, against what they hold
//! (`parity/make_pickles.py`).

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod shared;

use shared::root;
use unwrong_models::error::Error;
use unwrong_models::files::{Bytes, Folder, TensorFile};

fn goldens() -> Folder {
    Folder::disk(root().join("parity/goldens/pickles"))
}

fn open(name: &str) -> TensorFile {
    TensorFile::open_in(&goldens(), &format!("{name}.bin")).unwrap()
}

const NAMES: [&str; 18] = [
    "ordered",
    "legacy",
    "protocol2",
    "protocol3",
    "protocol4",
    "protocol5",
    "legacy5",
    "dtypes",
    "dtypes-legacy",
    "views",
    "views-legacy",
    "parameters",
    "module",
    "checkpoint",
    "checkpoint5",
    "lora",
    "lora-legacy",
    "inversion",
];

#[test]
fn every_file_of_torch_gives_the_tensors_it_was_made_of() {
    let expected = TensorFile::open_in(&goldens(), "pickles.safetensors").unwrap();
    for name in NAMES {
        let file = open(name);
        let keys = expected.names().filter_map(|key| Some((key.strip_prefix(name)?, key)));
        let mut found = 0;
        for (key, golden) in keys.filter_map(|(key, golden)| Some((key.strip_prefix('/')?, golden)))
        {
            found += 1;
            assert_eq!(file.shape(key), expected.shape(golden), "{name}: {key}");
            let (weight, golden_weight) = (file.weights().get(key), expected.weights().get(golden));
            assert_eq!(
                weight.map(|weight| (weight.dtype(), weight.bytes())),
                golden_weight.map(|weight| (weight.dtype(), weight.bytes())),
                "{name}: {key}"
            );
            if golden_weight.is_none() {
                assert_eq!(file.scalar(key), expected.scalar(golden), "{name}: {key}");
            }
        }
        assert!(found > 0, "{name}");
        assert_eq!(file.names().count(), found, "{name}");
    }
}

#[test]
fn tensors_in_order_are_views_of_the_file_and_others_are_copies() {
    for name in ["views", "views-legacy"] {
        let file = open(name);
        let inside = |key: &str| {
            let (file, weight) = (file.bytes().as_ptr_range(), file.weights()[key].bytes());
            file.contains(&weight.as_ptr())
        };
        for key in ["whole", "row", "ones", "scalar"] {
            assert!(inside(key), "{name}: {key}");
        }
        for key in ["transposed", "column", "block", "every.second", "permuted", "channels.last"] {
            assert!(!inside(key), "{name}: {key}");
        }
    }
}

#[test]
fn numbers_and_text_beside_the_tensors_are_kept() {
    let file = open("nested");
    assert_eq!(file.weights()["unet.a"].shape(), [2]);
    assert_eq!(file.scalar("alpha"), Some(4.0));
    assert_eq!(file.scalar("rank"), Some(4.0));
    assert_eq!(file.metadata()["name"], "text");
}

#[test]
fn the_format_follows_from_the_content_and_not_from_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let golden = root().join("parity/goldens/pickles");
    for (from, to, key) in [
        ("ordered.bin", "wrong.safetensors", "a"),
        ("legacy.bin", "old.safetensors", "a"),
        ("pickles.safetensors", "right.bin", "ordered/a"),
    ] {
        let path = folder.path().join(to);
        std::fs::copy(golden.join(from), &path).unwrap();
        assert_eq!(TensorFile::open(&path).unwrap().weights()[key].shape(), [2, 3]);
    }
}

#[test]
fn a_class_of_another_program_is_refused_by_its_name() {
    let error = TensorFile::open_in(&goldens(), "unknown-class.bin").unwrap_err();
    assert!(matches!(error, Error::Pickled { .. }), "{error:?}");
    assert!(error.to_string().contains("`__main__.Marked`"), "{error}");
    assert!(error.hint().unwrap().contains(".safetensors"), "{error}");
}

#[test]
fn every_file_cut_short_anywhere_is_refused() {
    for name in ["ordered", "legacy", "legacy5", "protocol4"] {
        let whole = open(name).bytes().to_vec();
        for end in 0..whole.len() {
            let bytes = Bytes::owned(whole[..end].to_vec());
            let error = TensorFile::parse(&bytes, "cut.bin").unwrap_err();
            if end > 8 {
                assert!(error.to_string().contains("cut off"), "{name} at {end}: {error}");
            }
        }
        let more = Bytes::owned([&whole[..], &[0]].concat());
        let error = TensorFile::parse(&more, "long.bin").unwrap_err();
        assert!(error.to_string().contains("1 bytes follow"), "{name}: {error}");
    }
}
