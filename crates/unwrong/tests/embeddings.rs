//! Textual inversions, from the file to the picture: against diffusers and compel, and what may go
//! wrong with them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../models/tests/common/mod.rs"]
mod common;
mod demo;

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use unwrong::encode::Conditioning;
use unwrong::progress::{Part, Silent};
use unwrong::request::{EmbeddingRequest, Size, Syntax};
use unwrong::{GenerateRequest, Options};
use unwrong_models::ops::Ops;

use common::{Goldens, Row};
use demo::{pipeline, pipeline_with, root};

/// Both sides compute in f32; what is left is the order of sums.
const EMBEDDINGS: f64 = 2e-5;

fn embedding(path: impl AsRef<Path>, word: &str) -> EmbeddingRequest {
    EmbeddingRequest { path: path.as_ref().display().to_string(), word: Some(word.to_owned()) }
}

fn golden(file: &str, word: &str) -> EmbeddingRequest {
    embedding(root().join(format!("parity/goldens/{file}.safetensors")), word)
}

fn with(prompt: &str, embeddings: &[EmbeddingRequest]) -> GenerateRequest {
    GenerateRequest {
        embeddings: embeddings.to_vec(),
        seed: Some(7),
        steps: Some(3),
        size: Some(Size { width: 64, height: 64 }),
        ..GenerateRequest::new(prompt)
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn embeds(pipeline: &unwrong::Pipeline, request: &GenerateRequest) -> Vec<f32> {
    values(&pipeline.condition(request, Part::Base).unwrap().positive.prompt_embeds)
}

/// The pooled vectors of the goldens are read at the end of the text, where ours are; what
/// transformers reads at the largest id is far from them.
#[test]
fn embeddings_with_added_words_equal_diffusers_and_compel() {
    let goldens = Goldens::open("embeddings");
    let words = goldens.fact("words").as_object().unwrap();
    let files: Vec<_> =
        words.iter().map(|(word, file)| golden(file.as_str().unwrap(), word)).collect();
    for ops in [Ops::Reference, Ops::Cpu] {
        let pipeline = pipeline_with(&Options { ops: Some(ops), ..Options::default() });
        let mut base = Row::new(format!("added words, base, {ops:?}"), EMBEDDINGS);
        let mut refiner = Row::new(format!("added words, refiner, {ops:?}"), EMBEDDINGS);
        for (name, prompt) in goldens.fact("prompts").as_object().unwrap() {
            let request = GenerateRequest {
                negative_prompt: prompt["negative_prompt"].as_str().map(str::to_owned),
                ..with(prompt["prompt"].as_str().unwrap(), &files)
            };
            for (part, prefix, row) in
                [(Part::Base, "", &mut base), (Part::Refiner, "refiner.", &mut refiner)]
            {
                let pair = pipeline.condition(&request, part).unwrap();
                let mut check = |what: &str, of: &Conditioning| {
                    let golden = format!("{name}.{prefix}{what}prompt_embeds");
                    row.add(&golden, goldens.compare(&golden, &of.prompt_embeds));
                    // Base and refiner have the same second encoder here.
                    let golden = format!("{name}.{what}pooled_embeds");
                    row.add(&golden, goldens.compare(&golden, &of.pooled_embeds));
                };
                check("", &pair.positive);
                check("negative_", &pair.negative);
            }
        }
        base.print();
        refiner.print();
    }
}

#[test]
fn the_largest_id_is_another_place_than_the_end_of_the_text() {
    let goldens = Goldens::open("embeddings");
    for (name, prompt) in goldens.fact("prompts").as_object().unwrap() {
        for (text, field) in [("prompt", 0), ("negative_prompt", 1)] {
            let apart = prompt["largest_id"][field].as_f64().unwrap();
            let is_added = prompt[text].as_str().unwrap().contains('<');
            assert_eq!(apart > 0.05, is_added, "{name}: {apart}");
        }
    }
}

#[test]
fn a_word_says_the_same_in_every_syntax() {
    let pipeline = pipeline();
    let files = [golden("embedding-three", "smear-x")];
    let of = |prompt: &str, syntax| {
        let request = GenerateRequest { syntax: Some(syntax), ..with(prompt, &files) };
        embeds(&pipeline, &request)
    };
    let expected = of("a smear-x cat", Syntax::Compel);
    assert_eq!(of("a smear-x cat", Syntax::Plain), expected);
    assert_eq!(of("a Smear-X cat", Syntax::A1111), expected);
    assert_eq!(of("a embedding:smear-x cat", Syntax::Comfy), expected);
    assert_ne!(of("a smear-x cat", Syntax::Comfy), expected);
}

#[test]
fn a_word_that_a_prompt_does_not_have_changes_nothing() {
    let pipeline = pipeline();
    let files = [golden("embedding-one", "<ink>")];
    assert_eq!(embeds(&pipeline, &with("a cat", &files)), embeds(&pipeline, &with("a cat", &[])));
}

#[test]
fn what_was_read_with_other_vectors_is_not_taken_for_these() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("word.safetensors");
    let request = with("a <w> cat", &[embedding(&path, "<w>")]);
    let goldens = root().join("parity/goldens");
    let used = pipeline();
    for file in ["embedding-one", "embedding-three", "embedding-one"] {
        let next = folder.path().join("next");
        fs::copy(goldens.join(format!("{file}.safetensors")), &next).unwrap();
        fs::rename(&next, &path).unwrap();
        assert_eq!(embeds(&used, &request), embeds(&pipeline(), &request), "{file}");
    }
    // The same ids, and other vectors behind them.
    let [one, three] = ["embedding-one", "embedding-three"].map(|file| golden(file, "<w>"));
    let of = |files: &[EmbeddingRequest]| embeds(&used, &with("a <w> cat", files));
    let (first, second) = (of(std::slice::from_ref(&one)), of(&[three]));
    assert_ne!(first, second);
    assert_eq!(of(&[one]), first);
}

#[test]
fn a_picture_carries_its_words_and_is_drawn_again_from_what_it_carries() {
    let pipeline = pipeline();
    let files = [golden("embedding-one", "<ink>"), golden("embedding-three", "smear")];
    let request = GenerateRequest {
        negative_prompt: Some("smear".to_owned()),
        ..with("a <ink> cat", &files)
    };
    let draw = |request: &GenerateRequest| {
        pipeline.generate(std::slice::from_ref(request), &mut Silent).unwrap().remove(0)
    };
    let picture = draw(&request);
    let json = picture.embedded.to_json();
    assert!(!json.contains("goldens"), "a local path: {json}");
    let carried = &picture.embedded;
    let words: Vec<_> = carried.embeddings.iter().map(|own| (&*own.name, &*own.word)).collect();
    assert_eq!(
        words,
        [("embedding-one.safetensors", "<ink>"), ("embedding-three.safetensors", "smear")]
    );
    assert!(carried.embeddings.iter().all(|own| own.sha256.len() == 64));
    assert!(carried.infotext().contains("TI hashes: \"<ink>: "), "{}", carried.infotext());

    let mut again = carried.request.clone();
    again.model = None;
    for own in &mut again.embeddings {
        own.path = root().join("parity/goldens").join(&own.path).display().to_string();
    }
    assert!(draw(&again).pixels.rgb() == picture.pixels.rgb(), "another picture");
    let without = GenerateRequest { embeddings: Vec::new(), ..request };
    assert!(draw(&without).pixels.rgb() != picture.pixels.rgb(), "the words do nothing");
}

#[test]
fn a_prompt_takes_words_from_a_folder_and_the_picture_names_their_files() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("below")).unwrap();
    for (file, name) in
        [("embedding-one", "ink"), ("embedding-three", "below/smear"), ("lora-peft-text", "cat")]
    {
        let from = root().join(format!("parity/goldens/{file}.safetensors"));
        fs::copy(from, folder.path().join(format!("{name}.safetensors"))).unwrap();
    }
    let pipeline = pipeline();
    let dir = Some(folder.path().display().to_string());
    let request = GenerateRequest { embedding_dir: dir, ..with("a <smear> cat, ink", &[]) };
    let embedded = pipeline.embedded(std::slice::from_ref(&request)).unwrap().remove(0);
    let words: Vec<_> = embedded.embeddings.iter().map(|own| &*own.word).collect();
    assert_eq!(words, ["<smear>", "ink"]);
    assert_eq!(embedded.request.embedding_dir, None);
    let named = [golden("embedding-one", "ink"), golden("embedding-three", "<smear>")];
    let named = with("a <smear> cat, ink", &named);
    assert_eq!(embeds(&pipeline, &request), embeds(&pipeline, &named));
}

#[test]
fn a_file_that_cannot_be_used_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, tensors: &[(&str, &[usize])]| {
        let path = folder.path().join(name);
        let tensor = |shape: &[usize]| Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu);
        let tensors = tensors.iter().map(|(key, shape)| (*key, tensor(shape).unwrap())).collect();
        candle_core::safetensors::save(&tensors, &path).unwrap();
        path
    };
    let pipeline = pipeline();
    for (path, problem) in [
        (folder.path().join("none.safetensors"), "none.safetensors does not exist"),
        (root().join("parity/goldens/lora-peft-text.safetensors"), "it is a LoRA"),
        (file("sd1", &[("emb_params", &[2, 768])]), "one for Stable Diffusion 1"),
        (file("other", &[("clip_l", &[1, 768]), ("clip_g", &[1, 1280])]), "expected [1 to 75, 48]"),
        (file("half", &[("clip_l", &[1, 48])]), "it has no `clip_g`"),
    ] {
        let error = pipeline.condition(&with("a w", &[embedding(path, "w")]), Part::Base);
        let error = error.unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
        assert!(error.is_request_error() && error.hint().is_some(), "{error}");
    }
}

#[test]
fn a_word_that_is_none_is_refused_before_any_file_is_opened() {
    for (words, problem) in [
        (&[""][..], "`0.safetensors`: the word `` is empty"),
        (&["two words"], "the word `two words` holds white space"),
        (&["..."], "the word `...` has no letter and no digit"),
        (&["a", "A"], "the words `A` and `a` are the same word"),
    ] {
        let files = words.iter().enumerate();
        let files = files.map(|(place, word)| embedding(format!("{place}.safetensors"), word));
        let error = with("a cat", &files.collect::<Vec<_>>()).check().unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
        assert!(error.hint().unwrap().contains("--embedding PATH:WORD"), "{error}");
    }
}
