//! What prompts do on the way from text to latents: schedules, several prompts, other syntaxes.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod demo;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Tensor;
use demo::{pipeline, root};
use unwrong::encode::ConditioningPair;
use unwrong::progress::{Event, Part, Silent};
use unwrong::request::{Size, Syntax};
use unwrong::{GenerateRequest, Pipeline};

/// Two steps of the base, two of the refiner.
fn request(prompt: &str, syntax: Syntax) -> GenerateRequest {
    GenerateRequest {
        seed: Some(3),
        steps: Some(4),
        high_noise_fraction: Some(0.5),
        size: Some(Size { width: 64, height: 64 }),
        syntax: Some(syntax),
        ..GenerateRequest::new(prompt)
    }
}

/// The latents after every step.
fn steps(pipeline: &Pipeline, request: &GenerateRequest) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    let mut watch = |event: Event<'_>| {
        if let Event::Step { latents, .. } = event {
            all.push(latents.flatten_all().unwrap().to_vec1().unwrap());
        }
        ControlFlow::Continue(())
    };
    pipeline.generate(std::slice::from_ref(request), &mut watch).unwrap();
    all
}

fn difference(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn told(pipeline: &Pipeline, prompt: &str, syntax: Syntax) -> ConditioningPair {
    pipeline.condition(&request(prompt, syntax), Part::Base).unwrap()
}

#[test]
fn a_schedule_counts_steps_over_base_and_refiner() {
    let pipeline = pipeline();
    let of = |prompt: &str| steps(&pipeline, &request(prompt, Syntax::A1111));
    let apple = of("a red apple");
    for (switch, equal) in [("1", 1), ("0.5", 2), ("3", 3), ("4", 4)] {
        let changed = of(&format!("a [red apple:blue boat:{switch}]"));
        assert_eq!(changed.len(), 4);
        for step in 0..4 {
            let same = changed[step] == apple[step];
            assert_eq!(same, step < equal, "switch {switch}, step {}", step + 1);
        }
    }
    // What is drawn last is what a prompt of its own draws from there on.
    assert!(of("[a red apple:a red apple:2]") == apple);
    // Turn by turn, in the first step the first.
    let turns = of("a [red apple|blue boat]");
    assert!(turns[0] == apple[0] && turns[1] != apple[1]);
}

#[test]
fn prompts_joined_by_and_pull_each_with_its_weight() {
    let pipeline = pipeline();
    let of = |prompt: &str| steps(&pipeline, &request(prompt, Syntax::A1111));
    let apple = of("a red apple");
    // Two halves of one prompt are that prompt, but for rounding.
    let halves = of("a red apple :0.5 AND a red apple :0.5");
    for (one, other) in halves.iter().zip(&apple) {
        assert!(difference(one, other) < 1e-3, "{}", difference(one, other));
    }
    let both = of("a red apple AND a blue boat");
    assert!(difference(&both[3], &apple[3]) > 0.1);
    // A prompt of weight 0 pulls nowhere; one of another length goes beside the others.
    let long = "a wooden table, ".repeat(30);
    let nothing = of(&format!("a red apple AND {long} :0"));
    assert!(difference(&nothing[3], &apple[3]) < 1e-3);
}

#[test]
fn pictures_with_schedules_and_parts_are_the_same_alone_and_among_others() {
    let pipeline = pipeline();
    let prompts = ["a [cat:dog:2]", "a cat AND a boat :0.5", "a (cat:1.3)", "a cat BREAK a boat"];
    let requests: Vec<_> = prompts.map(|prompt| request(prompt, Syntax::A1111)).into();
    let among = pipeline.generate(&requests, &mut Silent).unwrap();
    for (request, among) in requests.iter().zip(among) {
        let alone = pipeline.generate(std::slice::from_ref(request), &mut Silent).unwrap();
        assert!(alone[0].pixels.rgb() == among.pixels.rgb(), "{}", request.prompt);
    }
}

#[test]
fn every_syntax_weighs_as_its_program_does() {
    let pipeline = pipeline();
    let embeds = |prompt: &str, syntax| {
        let pair = told(&pipeline, prompt, syntax);
        let embeds = pair.positive.prompt_embeds.squeeze(0).unwrap();
        (embeds.narrow(1, 0, 48).unwrap(), embeds) // Of the first encoder, and of both.
    };
    let (plain, both) = embeds("a red cat", Syntax::Plain);
    let (empty, _) = embeds("", Syntax::Plain);
    let row = |tensor: &Tensor, token: usize| values(&tensor.get(token).unwrap());
    let scaled = |weight: f32, token| -> Vec<f32> {
        row(&plain, token).iter().map(|value| weight * value).collect()
    };
    // `red` is token 2.
    let (no_norm, _) = embeds("a (red:1.5) cat", Syntax::A1111);
    assert!(difference(&row(&no_norm, 2), &scaled(1.5, 2)) < 1e-5);
    assert_eq!(row(&no_norm, 1), row(&plain, 1));

    let (original, _) = embeds("a (red:1.5) cat", Syntax::A1111Original);
    let mean = |tensor: &Tensor| values(tensor).iter().map(|x| f64::from(*x)).sum::<f64>();
    assert!((mean(&original) / mean(&plain) - 1.0).abs() < 1e-4, "the mean is kept");
    let factor = row(&original, 1)[0] / row(&plain, 1)[0];
    assert!(difference(&row(&original, 2), &scaled(1.5 * factor, 2)) < 1e-4);

    let (comfy, _) = embeds("a (red:1.5) cat", Syntax::Comfy);
    let away: Vec<f32> = row(&empty, 2)
        .iter()
        .zip(row(&plain, 2))
        .map(|(empty, plain)| empty + 1.5 * (plain - empty))
        .collect();
    assert!(difference(&row(&comfy, 2), &away) < 1e-5);
    // Without weights all programs say the same.
    for syntax in [Syntax::A1111, Syntax::A1111Original, Syntax::Comfy, Syntax::Compel] {
        assert_eq!(values(&embeds("a red cat", syntax).1), values(&both), "{syntax}");
    }
}

#[test]
fn compel_joins_and_blends() {
    let pipeline = pipeline();
    let embeds = |prompt: &str| told(&pipeline, prompt, Syntax::Compel).positive.prompt_embeds;
    let (cat, boat) = (embeds("a cat"), embeds("a boat"));
    let joined = embeds("(\"a cat\", \"a boat\").and()");
    assert_eq!(joined.dim(1).unwrap(), 154);
    assert_eq!(values(&joined.narrow(1, 0, 77).unwrap()), values(&cat));
    assert_eq!(values(&joined.narrow(1, 77, 77).unwrap()), values(&boat));

    let blended = embeds("(\"a cat\", \"a boat\").blend(3, 1)");
    let mixed = ((cat * 0.75).unwrap() + (boat * 0.25).unwrap()).unwrap();
    assert!(difference(&values(&blended), &values(&mixed)) < 1e-5);
    // A negative prompt is filled up to the same length with what an empty one is.
    let request = GenerateRequest {
        negative_prompt: Some("blurry".to_owned()),
        ..request("(\"a cat\", \"a boat\").and()", Syntax::Compel)
    };
    let pair = pipeline.condition(&request, Part::Base).unwrap();
    let negative = pair.negative.prompt_embeds;
    assert_eq!(negative.dim(1).unwrap(), 154);
    assert_eq!(values(&negative.narrow(1, 0, 77).unwrap()), values(&embeds("blurry")));
    assert_eq!(values(&negative.narrow(1, 77, 77).unwrap()), values(&embeds("")));
}

#[test]
fn an_empty_negative_prompt_is_none_in_a1111_alone() {
    let pipeline = pipeline();
    for (syntax, is_zero) in [(Syntax::A1111, true), (Syntax::Compel, false)] {
        let request =
            GenerateRequest { negative_prompt: Some(String::new()), ..request("a cat", syntax) };
        let pair = pipeline.condition(&request, Part::Base).unwrap();
        let zero = values(&pair.negative.prompt_embeds).iter().all(|value| *value == 0.0);
        assert_eq!(zero, is_zero, "{syntax}");
    }
}

#[test]
fn a_lora_that_the_prompt_names_is_found_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("style")).unwrap();
    let lora = root().join("crates/demo/model/wrong-lora.safetensors");
    fs::copy(lora, folder.path().join("style/ink.safetensors")).unwrap();
    let pipeline = pipeline();
    let picture = |prompt: &str, dir: Option<&Path>| {
        let lora_dir = dir.map(|dir| dir.display().to_string());
        let request = GenerateRequest { lora_dir, ..request(prompt, Syntax::A1111) };
        pipeline.generate(&[request], &mut Silent).map(|mut all| all.remove(0))
    };
    let plain = picture("a cat", None).unwrap();
    let with = picture("a cat<lora:ink:0.8>", Some(folder.path())).unwrap();
    assert!(plain.pixels.rgb() != with.pixels.rgb());
    assert_eq!(
        (&*with.embedded.loras[0].name, with.embedded.loras[0].scale),
        ("ink.safetensors", 0.8)
    );
    // The UNet's scale counts for this file, which changes nothing else.
    let without = picture("a cat<lora:ink:1:0>", Some(folder.path())).unwrap();
    assert!(plain.pixels.rgb() == without.pixels.rgb());

    let problem = |prompt: &str, dir| picture(prompt, dir).unwrap_err();
    assert!(problem("a cat<lora:ink:1>", None).hint().unwrap().contains("--lora-dir"));
    let other = problem("a cat<lora:oil:1>", Some(folder.path()));
    assert!(other.to_string().contains("`oil`") && other.hint().unwrap().contains("`ink`"));
    for tag in ["<lora:ink:1e9>", "<lora:ink:1:-101>", "<lora:ink:1:lbw=OUT=101>"] {
        let large = problem(&format!("a cat{tag}"), Some(folder.path())).to_string();
        assert!(large.contains("`<lora:ink:…>`") && large.contains("-100 to 100"), "{large}");
    }

    // A damaged file is never taken where another of its name comes first.
    for name in ["style/ink.pt", "style/ink.bin"] {
        fs::write(folder.path().join(name), "no tensors").unwrap();
    }
    fs::create_dir(folder.path().join("inner")).unwrap();
    fs::create_dir(folder.path().join("inner/most")).unwrap();
    fs::write(folder.path().join("inner/most/ink.safetensors"), "no tensors").unwrap();
    let again = picture("a cat<lora:ink:0.8>", Some(folder.path())).unwrap();
    assert!(again.pixels.rgb() == with.pixels.rgb());
}
