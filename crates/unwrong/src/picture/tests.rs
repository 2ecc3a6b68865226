#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::error::Error;
use crate::request::{GenerateRequest, LoraRequest, Size};

const FORMATS: [(Format, Quality); 4] = [
    (Format::Png, Quality::Lossless),
    (Format::Webp, Quality::Lossless),
    (Format::Webp, Quality::Lossy(90)),
    (Format::Jpeg, Quality::Lossy(90)),
];

fn gradient(width: u32, height: u32) -> Pixels {
    let byte = |x: u32, y: u32, c: u32| (x * 7 + y * 5 + c * 60) as u8;
    let rgb = (0..height)
        .flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| byte(x, y, c))))
        .collect();
    Pixels::new(width, height, rgb).unwrap()
}

fn embedded(prompt: &str) -> EmbeddedRequest {
    let identity = |name: &str| ModelId { name: name.to_owned(), sha256: "31e35c80fc".repeat(6) };
    EmbeddedRequest {
        version: EmbeddedRequest::VERSION,
        request: GenerateRequest {
            seed: Some(7),
            steps: Some(30),
            guidance_scale: Some(7.5),
            size: Some(Size { width: 1024, height: 768 }),
            high_noise_fraction: Some(0.8),
            loras: vec![LoraRequest::new("style.safetensors", 0.5)],
            wrong: Some(1.0),
            negative_prompt: Some("dull".to_owned()),
            ..GenerateRequest::new(prompt)
        },
        models: EmbeddedModels {
            base: identity("sd_xl_base_1.0.safetensors"),
            refiner: Some(identity("sd_xl_refiner_1.0.safetensors")),
            vae: None,
        },
        loras: vec![
            EmbeddedLora {
                name: "style.safetensors".to_owned(),
                sha256: "0123456789abcdef".repeat(4),
                scale: 0.5,
                ..EmbeddedLora::default()
            },
            EmbeddedLora {
                name: "wrong".to_owned(),
                sha256: "f".repeat(64),
                scale: 1.0,
                ..EmbeddedLora::default()
            },
        ],
        embeddings: Vec::new(),
    }
}

fn decode(bytes: &[u8], format: Format) -> Option<Pixels> {
    match format {
        Format::Png => {
            let mut reader = ::png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
            let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut rgb).unwrap();
            Some(Pixels::new(info.width, info.height, rgb).unwrap())
        }
        Format::Webp => {
            let image = ::webp::Decoder::new(bytes).decode().unwrap();
            Some(Pixels::new(image.width(), image.height(), image.to_vec()).unwrap())
        }
        Format::Jpeg => None,
    }
}

#[test]
fn the_request_reads_back_from_every_format() {
    for prompt in ["a red apple", "a \"b\" <c> & 'd'\n\u{1f34e} テスト é \u{7f}\u{1}", ""] {
        let (pixels, embedded) = (gradient(40, 24), embedded(prompt));
        for (format, quality) in FORMATS {
            let bytes = encode(&pixels, &embedded, format, quality).unwrap();
            let metadata = metadata::parse(&bytes).unwrap();
            assert_eq!(metadata.request.as_ref(), Some(&embedded), "{format:?}");
            assert_eq!(metadata.parameters, Some(embedded.infotext()), "{format:?}");
            assert_eq!((metadata.problem, metadata.texts), (None, vec![]), "{format:?}");
        }
    }
}

#[test]
fn lossless_formats_lose_nothing_and_lossy_ones_little() {
    let pixels = gradient(40, 25);
    for (format, quality) in FORMATS {
        let bytes = encode(&pixels, &embedded("p"), format, quality).unwrap();
        let Some(decoded) = decode(&bytes, format) else { continue };
        if quality == Quality::Lossless {
            assert_eq!(decoded.rgb(), pixels.rgb(), "{format:?}");
        } else {
            let differences = decoded.rgb().iter().zip(pixels.rgb()).map(|(a, b)| a.abs_diff(*b));
            let mean = differences.map(f64::from).sum::<f64>() / pixels.rgb().len() as f64;
            assert!(mean < 20.0, "{format:?}: {mean}");
        }
        assert_eq!((decoded.width(), decoded.height()), (40, 25));
    }
}

#[test]
fn the_same_picture_and_request_give_the_same_bytes() {
    for (format, quality) in FORMATS {
        let make = || encode(&gradient(16, 16), &embedded("p"), format, quality).unwrap();
        assert_eq!(make(), make(), "{format:?}");
    }
}

#[test]
fn the_text_for_others_is_as_a1111_writes_it() {
    let expected = format!(
        "a red apple <lora:style:0.5> <lora:wrong:1>\n\
         Negative prompt: wrong, dull\n\
         Steps: 30, Sampler: Euler, Schedule type: Automatic, CFG scale: 7.5, Seed: 7, \
         Size: 1024x768, Model hash: 31e35c80fc, Model: sd_xl_base_1.0, RNG: CPU, \
         Refiner: sd_xl_refiner_1.0 [31e35c80fc], Refiner switch at: 0.8, \
         Lora hashes: \"style: 0123456789, wrong: ffffffffff\", Generator: unwrong {}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(embedded("a red apple").infotext(), expected);
}

#[test]
fn an_absent_negative_prompt_has_no_line() {
    let mut embedded = embedded("p");
    embedded.request.wrong = None;
    embedded.request.negative_prompt = None;
    assert!(!embedded.infotext().contains("Negative"), "{}", embedded.infotext());
    embedded.request.negative_prompt = Some(String::new());
    assert!(embedded.infotext().contains("\nNegative prompt: \n"), "{}", embedded.infotext());
}

#[test]
fn a_long_prompt_fits_into_every_format() {
    let long = embedded(&"é".repeat(crate::request::MAX_PROMPT_BYTES / 2));
    for (format, quality) in FORMATS {
        let bytes = encode(&gradient(8, 8), &long, format, quality).unwrap();
        assert_eq!(metadata::parse(&bytes).unwrap().request.as_ref(), Some(&long), "{format:?}");
    }
}

#[test]
fn a_picture_too_large_for_its_format_is_refused() {
    let wide = Pixels::new(16_384, 1, vec![0; 16_384 * 3]).unwrap();
    let error = encode(&wide, &embedded("p"), Format::Webp, Quality::default()).unwrap_err();
    assert!(error.to_string().contains("16383"), "{error}");
    encode(&wide, &embedded("p"), Format::Png, Quality::default()).unwrap();
}

#[test]
fn a_written_picture_is_read_by_its_contents() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.webp");
    let embedded = embedded("p");
    write(&path, &gradient(8, 8), &embedded, Quality::default(), false).unwrap();
    let renamed = folder.path().join("b.png");
    std::fs::rename(&path, &renamed).unwrap();
    let metadata = read_metadata(&renamed).unwrap();
    assert_eq!(metadata.into_request(&renamed).unwrap(), embedded);
}

#[test]
fn what_is_no_picture_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    assert!(matches!(read_metadata(&path), Err(Error::NotThere { .. })));
    assert!(matches!(read_metadata(folder.path()), Err(Error::NotAPicture { .. })));
    for bytes in [&b""[..], b"GIF89a", b"\x89PNG", b"RIFF\0\0\0\0WAVE"] {
        std::fs::write(&path, bytes).unwrap();
        let error = read_metadata(&path).unwrap_err();
        assert!(error.is_request_error(), "{error}");
    }
    std::fs::write(&path, b"\x89PNG\r\n\x1a\n").unwrap();
    let error = read_metadata(&path).unwrap().into_request(&path).unwrap_err();
    assert!(matches!(error, Error::NoRequestInPicture { .. }), "{error}");
}

#[test]
fn a_request_of_a_later_version_is_not_guessed_at() {
    let later = EmbeddedRequest { version: 2, ..embedded("p") };
    let bytes = encode(&gradient(8, 8), &later, Format::Png, Quality::default()).unwrap();
    let metadata = metadata::parse(&bytes).unwrap();
    let error = metadata.into_request(&PathBuf::from("a.png")).unwrap_err();
    assert!(error.to_string().contains("version 2, expected 1"), "{error}");
}

/// Pictures of other programs, made by hand.
mod others {
    use super::*;

    fn png(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        for (kind, data) in chunks {
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(*kind);
            bytes.extend(data);
            bytes.extend([0; 4]);
        }
        bytes
    }

    fn parameters(kind: [u8; 4], data: Vec<u8>) -> Option<String> {
        metadata::parse(&png(&[(&kind, data)])).unwrap().parameters
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        miniz_oxide::deflate::compress_to_vec_zlib(text, 6)
    }

    #[test]
    fn text_chunks_are_latin1_or_raw_utf8() {
        let latin1 = [b"parameters\0caf".as_slice(), &[0xe9]].concat();
        assert_eq!(parameters(*b"tEXt", latin1).as_deref(), Some("café"));
        let utf8 = "parameters\0テスト".as_bytes().to_vec();
        assert_eq!(parameters(*b"tEXt", utf8).as_deref(), Some("テスト"));
    }

    #[test]
    fn compressed_chunks_are_read() {
        let ztxt = [b"parameters\0\0".as_slice(), &zlib(b"a cat")].concat();
        assert_eq!(parameters(*b"zTXt", ztxt).as_deref(), Some("a cat"));
        let itxt = [b"parameters\0\x01\0en\0\0".as_slice(), &zlib("猫".as_bytes())].concat();
        assert_eq!(parameters(*b"iTXt", itxt).as_deref(), Some("猫"));
    }

    #[test]
    fn a_decompression_bomb_is_left_alone() {
        let bomb = zlib(&vec![b'a'; metadata::MAX_TEXT + 1]);
        assert!(bomb.len() < 20_000, "a small file");
        let ztxt = [b"parameters\0\0".as_slice(), &bomb].concat();
        assert_eq!(parameters(*b"zTXt", ztxt), None);
    }

    #[test]
    fn other_texts_are_kept_up_to_a_number() {
        let many: Vec<(&[u8; 4], Vec<u8>)> =
            (0..1000).map(|_| (b"tEXt", b"workflow\0{}".to_vec())).collect();
        let texts = metadata::parse(&png(&many)).unwrap().texts;
        assert_eq!(texts.len(), 64);
        assert_eq!(texts[0], ("workflow".to_owned(), "{}".to_owned()));
    }

    #[test]
    fn a_lying_length_ends_the_walk() {
        let mut bytes = png(&[(b"tEXt", b"parameters\0a".to_vec())]);
        bytes.extend(u32::MAX.to_be_bytes());
        bytes.extend(b"tEXtparameters\0b");
        assert_eq!(metadata::parse(&bytes).unwrap().parameters.as_deref(), Some("a"));
    }

    #[test]
    fn comments_in_either_byte_order_and_in_ascii_are_read() {
        let comment = |tiff: Vec<u8>| parameters(*b"eXIf", tiff);
        let big = exif::write("a cat, テスト");
        assert_eq!(comment(big.clone()).as_deref(), Some("a cat, テスト"));
        let (header, text) = big.split_at(52);
        let swapped: Vec<u8> = text.as_chunks().0.iter().flat_map(|[a, b]| [*b, *a]).collect();
        assert_eq!(comment([header, &swapped].concat()).as_deref(), Some("a cat, テスト"));
        let mut ascii = header.to_vec();
        ascii[44..].copy_from_slice(b"ASCII\0\0\0");
        ascii[32..36].copy_from_slice(&13u32.to_be_bytes()); // the field's count
        ascii.extend(b"a cat and more");
        assert_eq!(comment(ascii).as_deref(), Some("a cat"));
    }

    #[test]
    fn xmp_survives_programs_that_rewrite_it() {
        let embedded = embedded("<a> & \"b\"");
        let json = embedded.to_json();
        let escaped = json.replace('&', "&#38;").replace('<', "&#x3C;").replace('"', "&quot;");
        let packet = format!("<rdf:Description unwrong:request=\"{escaped}\"/>");
        let chunk = [b"XML:com.adobe.xmp\0\0\0\0\0".as_slice(), packet.as_bytes()].concat();
        let metadata = metadata::parse(&png(&[(b"iTXt", chunk)])).unwrap();
        assert_eq!(metadata.request, Some(embedded));
    }
}

proptest! {
    #[test]
    fn any_request_reads_back(prompt: String, negative: Option<String>, seed: u64, format in 0..4usize) {
        let mut embedded = embedded(&prompt);
        embedded.request.negative_prompt = negative;
        embedded.request.seed = Some(seed);
        let (format, quality) = FORMATS[format];
        let bytes = encode(&gradient(8, 8), &embedded, format, quality).unwrap();
        prop_assert_eq!(metadata::parse(&bytes).unwrap().request, Some(embedded));
    }

    #[test]
    fn a_damaged_file_never_panics(
        format in 0..4usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end: prop::sample::Index,
    ) {
        let (format, quality) = FORMATS[format];
        let mut bytes = encode(&gradient(8, 8), &embedded("p"), format, quality).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        metadata::parse(&bytes);
        metadata::parse(&bytes[..end.index(bytes.len())]);
    }

    #[test]
    fn noise_behind_a_signature_never_panics(signature in 0..5usize, noise: Vec<u8>) {
        let signature = [
            &b"\x89PNG\r\n\x1a\n"[..],
            b"RIFF\0\0\0\0WEBP",
            b"\xff\xd8\xff",
            b"RIFF\0\0\0\0WEBPEXIF\xff\0\0\0II\x2a\0\x08\0\0\0",
            b"\xff\xd8\xff\xe1\0\xf0Exif\0\0MM\0\x2a\0\0\0\x08",
        ][signature];
        metadata::parse(&[signature, &noise].concat());
    }
}
