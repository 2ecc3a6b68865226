//! No file, however broken, stops the program.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use unwrong_train::data::{DataOptions, Dataset, Framing};

use crate::support::{Folder, jpg, options, picture, png, webp};

/// Files of all kinds.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let golden = |name| {
        let folder =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/goldens/pictures");
        (name, fs::read(folder.join(name)).unwrap())
    };
    let lossy = webp::Encoder::from_rgb(&picture(64, 48, 1), 64, 48).encode(80.0).to_vec();
    let mut files = vec![
        ("png", png(64, 48, 1)),
        ("jpg", jpg(64, 48, 1)),
        ("webp", webp(64, 48, 1)),
        ("lossy", lossy),
    ];
    files.extend(
        [
            "animated.webp",
            "animated.png",
            "alpha.webp",
            "palette-transparent.png",
            "progressive.jpg",
            "cmyk.jpg",
            "rotated.jpg",
            "rotated.webp",
        ]
        .map(golden),
    );
    files
}

/// Scans one file, and reads its pixels where it is taken.
fn read(bytes: &[u8]) -> Option<Vec<f32>> {
    let folder = Folder::with(&[("a.png", bytes.to_vec())]);
    let options = DataOptions { framing: Framing::BucketsWithoutUpscale, ..options() };
    let (dataset, _) = Dataset::scan(folder.path(), &options).ok()?;
    Some(dataset.example(0, 0, 0).pixels().unwrap())
}

#[test]
fn a_file_cut_anywhere_is_whole_or_refused() {
    for (name, file) in files() {
        let whole = read(&file).unwrap();
        for length in (0..file.len()).step_by(1 + file.len() / 300) {
            // What was cut off was not needed, such as the end marker of a PNG.
            if let Some(pixels) = read(&file[..length]) {
                assert!(pixels == whole, "{name} cut to {length} of {} bytes", file.len());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_files_are_read_or_refused(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let files = files();
        let (_, mut file) = files[which.index(files.len())].clone();
        for (place, byte) in damage {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if let Some(cut) = cut {
            let length = cut.index(file.len());
            file.truncate(length);
        }
        let _ = read(&file);
    }

    #[test]
    fn random_bytes_are_refused(
        start in prop::sample::select(vec![
            &b""[..],
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff\xe0",
            b"RIFF\xff\0\0\0WEBPVP8 ",
            b"RIFF\xff\0\0\0WEBPVP8L",
            b"RIFF\xff\0\0\0WEBPVP8X",
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = read(&[start, &bytes].concat());
    }
}
