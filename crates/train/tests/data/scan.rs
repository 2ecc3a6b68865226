//! Which files of a folder are pictures, and what is said of the others.

use std::fs;

use unwrong_train::data::{DataOptions, Framing};

use crate::support::{Folder, jpg, names, options, png, webp};

#[test]
fn every_bad_file_is_named_with_the_reason() {
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() * 2 / 3].to_vec();
    let mut bomb = png(64, 64, 0);
    bomb[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let checksum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    let folder = Folder::with(&[
        ("a-good.png", png(64, 64, 1)),
        ("b-empty.png", vec![]),
        ("c-text.png", b"these are words, not pixels".to_vec()),
        ("d-cut.jpg", cut(jpg(640, 640, 1))),
        ("e-cut.png", cut(png(64, 64, 2))),
        ("f-cut.webp", cut(webp(64, 64, 3))),
        ("g-dot.png", png(1, 1, 0)),
        ("h-line.png", png(20_000, 40, 0)),
        ("i-bomb.png", bomb),
        ("j-film.gif", b"GIF89a\x01\0\x01\0".to_vec()),
        ("k-phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0".to_vec()),
        ("l-lfs.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec()),
        ("m-noise.webp", vec![0x91; 300]),
        ("n-page.jpg", b"<!DOCTYPE html><html>".to_vec()),
    ]);
    let (dataset, notes) = folder.scan(&options());
    assert_eq!(names(&dataset), ["a-good.png"]);
    assert_eq!(
        notes,
        [
            "`b-empty.png` is left out: it is empty",
            "`c-text.png` is left out: it is text, expected PNG, JPEG or WebP",
            "`d-cut.jpg` is left out: it ends before the picture does",
            "`e-cut.png` is left out: it ends before the picture does",
            "`f-cut.webp` is left out: it ends before the picture does",
            "`g-dot.png` is left out: it is 1x1 and would be enlarged 64.0 times, expected at most 8",
            "`h-line.png` is left out: it is 20000x40, of which the nearest bucket, 128x32, keeps \
             0.8 %, expected at least 25 %",
            "`i-bomb.png` is left out: it has 65535x65535 pixels, expected at most 178 million",
            "`j-film.gif` is left out: it is GIF, expected PNG, JPEG or WebP",
            "`k-phone.heic` is left out: it is HEIC, AVIF or a film, expected PNG, JPEG or WebP",
            "`l-lfs.jpg` is left out: it is a pointer of git-lfs: the picture itself was not fetched",
            "`m-noise.webp` is left out: it is no picture, expected PNG, JPEG or WebP",
            "`n-page.jpg` is left out: it is text, expected PNG, JPEG or WebP",
        ]
    );
}

#[test]
fn with_strict_one_bad_file_is_an_error() {
    let folder = Folder::with(&[("a.png", png(64, 64, 1)), ("b.png", vec![])]);
    let strict = DataOptions { strict: true, ..options() };
    assert_eq!(
        folder.refusal(&strict),
        "1 of the pictures in `DIR` cannot be used: `b.png` is empty"
    );
}

#[test]
fn what_a_training_left_is_not_trained_on() {
    let folder = Folder::with(&[
        ("a.png", png(64, 64, 1)),
        ("cat.training/loss.png", png(64, 64, 2)),
        ("within/b.png", png(64, 64, 3)),
        ("within/dog.training/samples/00000000-0.png", png(64, 64, 4)),
    ]);
    let said = |name: &str| format!("`{name}` is left out: it is what a training left");
    let (dataset, notes) = folder.scan(&DataOptions { recursive: true, ..options() });
    assert_eq!(names(&dataset), ["a.png", "b.png"]);
    assert_eq!(notes, [said("cat.training"), said("within/dog.training")]);
    let (_, notes) = folder.scan(&options());
    assert_eq!(notes, [&said("cat.training"), "1 folder in it is not looked into"]);
}

#[test]
fn what_does_not_want_to_be_a_picture_is_not_mentioned() {
    let folder = Folder::with(&[
        ("a.png", png(64, 64, 1)),
        ("Thumbs.db", vec![0xd0, 0xcf, 0x11, 0xe0]),
        (".DS_Store", vec![0, 0, 0, 1]),
        ("._a.png", vec![0, 5, 22, 7]),
        (".ipynb_checkpoints/a-checkpoint.png", png(64, 64, 2)),
        ("readme.md", b"P5 is no picture".to_vec()),
        ("workflow.json", b"{}".to_vec()),
    ]);
    let (dataset, notes) = folder.scan(&DataOptions { recursive: true, ..options() });
    assert_eq!(names(&dataset), ["a.png"]);
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn a_picture_is_known_by_its_content() {
    let folder = Folder::with(&[
        ("a.png", jpg(64, 64, 1)),
        ("b.jpg", webp(64, 64, 2)),
        ("c.webp", png(64, 64, 3)),
        ("d", png(64, 64, 4)),
        ("e.txt", png(64, 64, 5)),
        ("f.JPEG", jpg(64, 64, 6)),
    ]);
    let (dataset, notes) = folder.scan(&options());
    assert_eq!(names(&dataset), ["a.png", "b.jpg", "c.webp", "d", "e.txt", "f.JPEG"]);
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn a_folder_without_pictures_says_what_it_holds() {
    let folder = Folder::new();
    assert_eq!(folder.refusal(&options()), "`DIR` has no picture to train on: it holds no file");
    for name in ["a.txt", "b.txt", "c.png", "d.png", "e.png", "f.png", "sub/g.png"] {
        folder.write(name, b"");
    }
    assert_eq!(
        folder.refusal(&options()),
        "`DIR` has no picture to train on: it holds 6 files, 2 of other kinds, 4 that cannot be \
         used: `c.png` is empty; `d.png` is empty; `e.png` is empty; …; 1 folder in it is not \
         looked into"
    );
    let missing = folder.path().join("missing");
    let error = unwrong_train::data::Dataset::scan(&missing, &options()).unwrap_err();
    assert!(error.is_request_error());
    let missing = missing.display();
    let said = format!("`{missing}` does not exist, expected a folder of pictures");
    assert_eq!((error.to_string(), error.hint().as_deref()), (said, Some("check the path")));
    let file = folder.write("h.png", &png(64, 64, 0));
    let error = unwrong_train::data::Dataset::scan(&file, &options()).unwrap_err();
    assert!(error.is_request_error() && error.hint().is_some(), "{error}");
}

#[test]
fn two_files_with_one_content_are_noted_and_kept() {
    let folder = Folder::with(&[
        ("a.png", png(64, 64, 1)),
        ("b.png", png(64, 64, 2)),
        ("c.png", png(64, 64, 1)),
    ]);
    let (dataset, notes) = folder.scan(&options());
    assert_eq!(dataset.items().len(), 3);
    assert_eq!(notes, ["`c.png` is the same file as `a.png`; both are trained"]);
    let [first, .., last] = dataset.items() else { unreachable!("three pictures") };
    assert_eq!(first.sha256, last.sha256);
    assert_eq!(first.sha256.len(), 64);
}

#[test]
fn the_order_is_that_of_the_names() {
    let folder = Folder::new();
    for (seed, name) in ["b.png", "a2.png", "a10.png", "B.png"].iter().enumerate() {
        folder.write(name, &png(64, 64, seed as u32));
    }
    let (dataset, _) = folder.scan(&options());
    assert_eq!(names(&dataset), ["B.png", "a10.png", "a2.png", "b.png"]);
}

#[test]
fn folders_within_are_read_when_asked_for() {
    let folder = Folder::with(&[
        ("a.png", png(64, 64, 1)),
        ("sub/b.png", png(64, 64, 2)),
        ("sub/deep/c.png", png(64, 64, 3)),
    ]);
    let (dataset, notes) = folder.scan(&options());
    assert_eq!(names(&dataset), ["a.png"]);
    assert_eq!(notes, ["1 folder in it is not looked into"]);
    let (dataset, notes) = folder.scan(&DataOptions { recursive: true, ..options() });
    assert_eq!(names(&dataset), ["a.png", "b.png", "c.png"]);
    assert!(notes.is_empty(), "{notes:?}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_end() {
    use std::os::unix::fs::symlink;

    let folder = Folder::with(&[("a.png", png(64, 64, 1)), ("sub/b.png", png(64, 64, 2))]);
    symlink(folder.path(), folder.path().join("sub/up")).unwrap();
    symlink(folder.path().join("sub"), folder.path().join("twice")).unwrap();
    symlink("nowhere.png", folder.path().join("c.png")).unwrap();
    symlink("d.png", folder.path().join("d.png")).unwrap();
    symlink("a.png", folder.path().join("e.png")).unwrap();
    let (dataset, notes) = folder.scan(&DataOptions { recursive: true, ..options() });
    assert_eq!(names(&dataset), ["a.png", "e.png", "b.png"]);
    assert_eq!(notes[0], "`c.png` is left out: it is a link to nothing");
    assert!(notes[1].starts_with("`d.png` is left out: it cannot be read: "), "{notes:?}");
    assert_eq!(notes[2], "`e.png` is the same file as `a.png`; both are trained");
    assert_eq!(notes.len(), 3, "{notes:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_no_utf8_are_read_like_others() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let folder = Folder::new();
    let path = folder.path().join(OsStr::from_bytes(b"gr\xfcn.png"));
    fs::write(&path, png(64, 64, 1)).unwrap();
    fs::write(path.with_extension("txt"), "green").unwrap();
    let (dataset, notes) = folder.scan(&options());
    assert_eq!(dataset.items()[0].path, path);
    assert_eq!(dataset.items()[0].caption, "green");
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn much_enlarged_and_much_cropped_pictures_are_noted() {
    let folder = Folder::with(&[("a.png", png(16, 16, 1)), ("b.png", png(1000, 300, 2))]);
    let square = DataOptions { framing: Framing::Square, ..options() };
    let (dataset, notes) = folder.scan(&square);
    assert_eq!(dataset.items().len(), 2);
    assert_eq!(notes, ["`a.png` is enlarged 4.0 times", "`b.png` is cropped to 30 % of its area"]);
}

#[test]
fn options_out_of_range_are_refused_before_anything_is_read() {
    let folder = Folder::new();
    let refusal = |options: &DataOptions| folder.refusal(options);
    let wrong = DataOptions { resolution: 32, ..options() };
    assert_eq!(refusal(&wrong), "`--resolution` is 32, expected 64 to 4096");
    let wrong = DataOptions { bucket_step: Some(12), ..options() };
    assert_eq!(refusal(&wrong), "`bucket_step` is 12, expected a multiple of 8, at most 64");
    let wrong = DataOptions { bucket_step: Some(0), ..options() };
    assert_eq!(refusal(&wrong), "`bucket_step` is 0, expected a multiple of 8, at most 64");
    let wrong = DataOptions { min_side: Some(72), ..options() };
    assert_eq!(refusal(&wrong), "`min_side` is 72, expected a multiple of 8, at most 64");
    let wrong = DataOptions { max_side: Some(100), ..options() };
    assert_eq!(refusal(&wrong), "`max_side` is 100, expected a multiple of 8, 64 to 8192");
    let wrong = DataOptions { caption_dropout: f64::NAN, ..options() };
    assert_eq!(refusal(&wrong), "`--caption-dropout` is NaN, expected 0 to 1");
    let wrong = DataOptions { repeats: 0, ..options() };
    assert_eq!(refusal(&wrong), "`--repeats` is 0, expected 1 to 100000");
    let wrong = DataOptions { batch_size: 0, ..options() };
    assert_eq!(refusal(&wrong), "`--batch` is 0, expected 1 or more");
}

/// The checksum of a PNG chunk (PNG specification, annex D).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    };
    !bytes.iter().fold(!0, step)
}
