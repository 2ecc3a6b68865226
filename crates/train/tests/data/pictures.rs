//! What becomes of a file's pixels: compared with Pillow where that has an opinion.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage, Rgba, RgbaImage};
use serde::Deserialize;
use unwrong::request::Size;
use unwrong_train::data::{CropChoice, DataOptions, Dataset, Example, Framing};

use crate::support::{Folder, options, picture, png};

/// Of Pillow 13.0.0, written by `parity/make_pictures.py`.
fn goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/goldens/pictures")
}

#[derive(Deserialize)]
struct Expected {
    width: u32,
    height: u32,
    rgb: String,
}

/// Small pictures stay as they are.
fn as_they_are() -> DataOptions {
    DataOptions { framing: Framing::BucketsWithoutUpscale, ..options() }
}

/// The bytes that an example's pixels came from.
fn bytes(example: &Example<'_>) -> Vec<u8> {
    let byte = |value: f32| ((value * 0.5 + 0.5) * 255.0).round() as u8;
    example.pixels().unwrap().into_iter().map(byte).collect()
}

fn first(dataset: &Dataset) -> Example<'_> {
    dataset.example(0, 0, 0)
}

#[test]
fn every_kind_of_picture_is_read_as_pillow_reads_it() {
    let text = fs::read_to_string(goldens().join("expected.json")).unwrap();
    let expected: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
    assert_eq!(expected.len(), 20);
    for (name, expected) in expected {
        let folder = Folder::with(&[(&name, fs::read(goldens().join(&name)).unwrap())]);
        let (dataset, notes) = folder.scan(&as_they_are());
        let size = Size { width: expected.width, height: expected.height };
        assert_eq!(dataset.items()[0].original, size, "{name}");

        let digits: Vec<char> = expected.rgb.chars().collect();
        let digit = |digit: char| digit.to_digit(16).unwrap() as u8;
        let expected = digits.chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1]));
        let differences =
            bytes(&first(&dataset)).into_iter().zip(expected).map(|(a, b)| a.abs_diff(b));
        let largest = differences.max().unwrap();
        // JPEG and lossy WebP leave the last bits of the transform to the decoder.
        let allowed = if name.ends_with("jpg") { 3 } else { u8::from(name.contains("lossy")) * 3 };
        assert!(largest <= allowed.max(1), "{name} differs by {largest}");

        let notes = notes.join("; ");
        assert_eq!(notes.contains("is animated"), name.starts_with("animated"), "{name}: {notes}");
        let is_transparent = name.contains("alpha") || name.contains("transparent");
        assert_eq!(notes.contains("#ffffff shows through"), is_transparent, "{name}: {notes}");
    }
}

#[test]
fn resizing_and_cropping_are_pillows_to_the_bit() {
    let read = |name: &str| fs::read(goldens().join(name)).unwrap();
    let folder = Folder::with(&[("large.png", read("large.png"))]);
    let (dataset, _) = folder.scan(&DataOptions { framing: Framing::Square, ..options() });
    let example = first(&dataset);
    assert_eq!(example.time_ids().map(|size| size as u32), [100, 150, 0, 16, 64, 64]);
    let expected = image::load_from_memory(&read("resized.png")).unwrap().into_rgb8();
    assert!(bytes(&example) == expected.into_raw());
}

/// An EXIF block that says nothing but how the picture is turned.
fn exif(orientation: u8) -> Vec<u8> {
    let entry = [0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0];
    [&b"MM\0\x2a\0\0\0\x08\0\x01"[..], &entry, &[0; 4]].concat()
}

/// Two rows of three: red, green, blue, then black, grey, white; each 8 pixels wide and high.
fn six_colours() -> RgbImage {
    let colours =
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0], [128, 128, 128], [255, 255, 255]];
    RgbImage::from_fn(24, 16, |x, y| Rgb(colours[(y / 8 * 3 + x / 8) as usize]))
}

#[test]
fn all_eight_exif_orientations_are_turned_upright() {
    // The corners of the upright picture, as colours of the stored one: row by row.
    let (r, b, k, w) = ('r', 'b', 'k', 'w');
    let corners = [
        [r, b, k, w], // 1: as stored
        [b, r, w, k], // 2: mirrored left for right
        [w, k, b, r], // 3: upside down
        [k, w, r, b], // 4: mirrored top for bottom
        [r, k, b, w], // 5: rows are columns
        [k, r, w, b], // 6: turned right, as a phone held upright
        [w, b, k, r], // 7: columns from the right are rows from the bottom
        [b, w, r, k], // 8: turned left
    ];
    let stored = six_colours();
    for (index, corners) in corners.iter().enumerate() {
        let orientation = index as u8 + 1;
        let encode = |encoder: &mut dyn FnMut(&mut Vec<u8>)| {
            let mut file = Vec::new();
            encoder(&mut file);
            file
        };
        let png = encode(&mut |file| {
            let mut encoder = PngEncoder::new(file);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            encoder.write_image(&stored, 24, 16, ExtendedColorType::Rgb8).unwrap();
        });
        let jpg = encode(&mut |file| {
            let mut encoder = JpegEncoder::new_with_quality(file, 100);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            encoder.write_image(&stored, 24, 16, ExtendedColorType::Rgb8).unwrap();
        });
        let webp = encode(&mut |file| {
            let mut encoder = WebPEncoder::new_lossless(file);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            encoder.write_image(&stored, 24, 16, ExtendedColorType::Rgb8).unwrap();
        });
        for (name, file) in [("a.png", png), ("a.jpg", jpg), ("a.webp", webp)] {
            let folder = Folder::with(&[(name, file)]);
            let (dataset, _) = folder.scan(&as_they_are());
            let Size { width, height } = dataset.items()[0].original;
            let expected = if orientation < 5 { (24, 16) } else { (16, 24) };
            assert_eq!((width, height), expected, "{name} {orientation}");
            let bytes = bytes(&first(&dataset));
            let colour = |x: u32, y: u32| {
                let at = ((y * width + x) * 3) as usize;
                match [bytes[at], bytes[at + 1], bytes[at + 2]].map(|byte| byte > 127) {
                    [true, false, false] => r,
                    [false, false, true] => b,
                    [false, false, false] => k,
                    [true, true, true] => w,
                    other => unreachable!("{other:?}"),
                }
            };
            let (right, bottom) = (width - 3, height - 3);
            let found = [colour(2, 2), colour(right, 2), colour(2, bottom), colour(right, bottom)];
            assert_eq!(found, *corners, "{name} {orientation}");
        }
    }
}

#[test]
fn a_broken_exif_block_turns_nothing() {
    for block in [vec![], b"MM".to_vec(), exif(0), exif(9), vec![0xff; 40]] {
        let mut file = Vec::new();
        let mut encoder = PngEncoder::new(&mut file);
        encoder.set_exif_metadata(block).unwrap();
        encoder.write_image(&six_colours(), 24, 16, ExtendedColorType::Rgb8).unwrap();
        let folder = Folder::with(&[("a.png", file)]);
        let (dataset, _) = folder.scan(&as_they_are());
        assert_eq!(dataset.items()[0].original, Size { width: 24, height: 16 });
    }
}

#[test]
fn transparent_pixels_show_the_background() {
    let alphas = [0, 51, 255];
    let rgba = RgbaImage::from_fn(24, 8, |x, _| Rgba([200, 100, 0, alphas[(x / 8) as usize]]));
    let mut file = Vec::new();
    PngEncoder::new(&mut file).write_image(&rgba, 24, 8, ExtendedColorType::Rgba8).unwrap();
    let folder = Folder::with(&[("a.png", file)]);
    let (dataset, notes) = folder.scan(&DataOptions { background: [0, 255, 10], ..as_they_are() });
    assert_eq!(notes, ["`a.png` is transparent in places; #00ff0a shows through"]);
    let bytes = bytes(&first(&dataset));
    // 200 · 0.2, 100 · 0.2 + 255 · 0.8, 10 · 0.8
    let pixels = [[0, 255, 10], [40, 224, 8], [200, 100, 0]];
    assert_eq!([&bytes[..3], &bytes[24..27], &bytes[48..51]], pixels);
}

#[test]
fn an_opaque_alpha_channel_is_no_transparency() {
    let rgba = RgbaImage::from_pixel(16, 16, Rgba([1, 2, 3, 255]));
    let mut file = Vec::new();
    PngEncoder::new(&mut file).write_image(&rgba, 16, 16, ExtendedColorType::Rgba8).unwrap();
    let (dataset, notes) = Folder::with(&[("a.png", file)]).scan(&as_they_are());
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(dataset.items().len(), 1);
}

#[test]
fn values_are_those_of_torchvision() {
    let file = |value| {
        let mut file = Vec::new();
        let grey = RgbImage::from_pixel(8, 8, Rgb([value; 3]));
        PngEncoder::new(&mut file).write_image(&grey, 8, 8, ExtendedColorType::Rgb8).unwrap();
        file
    };
    let folder = Folder::with(&[("0.png", file(0)), ("1.png", file(100)), ("2.png", file(255))]);
    let (dataset, _) = folder.scan(&as_they_are());
    let value = |place| dataset.example(place, 0, 0).pixels().unwrap()[0].to_bits();
    // (torch.tensor([0, 100, 255]) / 255 - 0.5) / 0.5
    assert_eq!([value(0), value(1), value(2)], [-1.0f32, -0.215_686_26, 1.0].map(f32::to_bits));
}

#[test]
fn a_mirrored_example_is_mirrored_before_the_crop() {
    let folder = Folder::with(&[("a.png", png(90, 64, 1))]);
    let random =
        DataOptions { framing: Framing::Square, crop: CropChoice::Random, flip: true, ..options() };
    let (dataset, _) = folder.scan(&random);
    let stored = picture(90, 64, 1);
    let mut seen = [0; 2];
    for epoch in 0..20 {
        let example = dataset.example(0, epoch, 0);
        seen[usize::from(example.flip)] += 1;
        let bytes = bytes(&example);
        for (x, y) in [(0, 0), (63, 0), (5, 40)] {
            let column = example.crop.left + x;
            let column = if example.flip { 89 - column } else { column };
            let at = ((y * 64 + x) * 3) as usize;
            assert_eq!(bytes[at..at + 3], stored.get_pixel(column, y).0);
        }
    }
    assert!(seen.iter().all(|times| *times > 3), "{seen:?}");
}

#[test]
fn a_file_that_changed_after_the_scan_is_refused() {
    let folder = Folder::with(&[("a.png", png(64, 64, 1))]);
    let (dataset, _) = folder.scan(&options());
    assert!(first(&dataset).pixels().is_ok());
    let path = folder.write("a.png", &png(64, 64, 2));
    let error = first(&dataset).pixels().unwrap_err();
    let expected = format!("`{}` has changed since the folder was read", path.display());
    assert_eq!(error.to_string(), expected);
    fs::remove_file(&path).unwrap();
    let error = first(&dataset).pixels().unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read `{}`", path.display()));
}
