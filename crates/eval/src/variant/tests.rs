#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;

fn variant(text: &str) -> Variant {
    text.parse().unwrap()
}

#[track_caller]
fn refused(text: &str) -> String {
    let error = text.parse::<Variant>().unwrap_err();
    assert!(error.is_request_error(), "{error}");
    format!("{error}; {}", error.hint().unwrap())
}

#[test]
fn the_defaults_tell_the_lora_apart_from_any_negative() {
    let shared = GenerateRequest { seed: Some(3), ..GenerateRequest::default() };
    let requests: Vec<GenerateRequest> = Variant::defaults()
        .iter()
        .map(|variant| variant.request(&shared, "a cat", &ModelDefaults::default()))
        .collect();
    let full = |at: usize| requests[at].full_negative_prompt();
    let loras = |at: usize| requests[at].loras.len() + usize::from(requests[at].wrong.is_some());
    assert_eq!((full(0), loras(0)), (None, 0));
    assert_eq!((full(1), loras(1)), (Some("wrong".to_owned()), 0));
    assert_eq!((full(2), loras(2)), (None, 1));
    assert_eq!((full(3), loras(3)), (Some("wrong".to_owned()), 1));
    assert_eq!((full(4), loras(4)), (Some(KEYWORDS.to_owned()), 0));
    assert_eq!(KEYWORDS.split(", ").count(), 13);
    for request in requests {
        assert_eq!((request.prompt.as_str(), request.seed), ("a cat", Some(3)));
        request.check().unwrap();
    }
}

#[test]
fn a_wrong_lora_of_ones_own_goes_where_the_variant_asks_for_it() {
    let shared = GenerateRequest {
        wrong_lora: Some("mine.safetensors".to_owned()),
        ..GenerateRequest::default()
    };
    let defaults = ModelDefaults { wrong_lora_scale: Some(0.8), ..ModelDefaults::default() };
    let request = |name: &str| variant(name).request(&shared, "a cat", &defaults);
    let lora = LoraRequest::new("mine.safetensors", 0.8);
    assert_eq!((request("lora").loras, request("lora").wrong_lora), (vec![lora], None));
    assert_eq!(
        (request("both").wrong, request("both").wrong_lora),
        (Some(0.8), shared.wrong_lora.clone())
    );
    assert_eq!(request("none").wrong_lora, None);
}

#[test]
fn a_comma_starts_a_pair_only_before_a_key() {
    let mine = variant(r"mine:negative-prompt=low quality, blurry,wrong=0.5,suffix=\, f\,wrong=2");
    assert_eq!(mine.negative_prompt.as_deref(), Some("low quality, blurry"));
    assert_eq!(mine.wrong, Some(Scale::Fixed(0.5)));
    assert_eq!(mine.suffix.as_deref(), Some(", f,wrong=2"));
    let request = mine.request(&GenerateRequest::default(), "a cat", &ModelDefaults::default());
    assert_eq!(request.prompt, "a cat, f,wrong=2");
}

#[test]
fn every_key_has_its_place() {
    let all = "a.b-C_9:prefix=photo of ,guidance_scale=9,lora=auto,negative-prompt=";
    let expected = Variant {
        name: "a.b-C_9".to_owned(),
        negative_prompt: Some(String::new()),
        lora: Some(Scale::Auto),
        guidance_scale: Some(9.0),
        prefix: Some("photo of ".to_owned()),
        ..Variant::default()
    };
    assert_eq!(variant(all), expected);
    assert_eq!(variant("plain:"), Variant { name: "plain".to_owned(), ..Variant::default() });
    assert_eq!(variant("both"), Variant::named("both").unwrap());
}

#[test]
fn what_is_no_variant_is_refused_with_what_would_be() {
    assert!(refused("nothing").contains("none, word, lora, both, keywords"));
    assert!(refused("a b:wrong=1").contains("letters, digits"));
    assert!(refused(":wrong=1").contains("letters, digits"));
    assert!(refused("../x:wrong=1").contains("letters, digits"));
    assert!(refused("x:wrong=much").contains("`much`, expected a number"));
    assert!(refused("x:guidance-scale=").contains("expected a number"));
    assert!(refused("x:negativ-prompt=a").contains("negative-prompt"));
    assert!(refused("x:wrong=1,stepps=3").contains("`stepps=3`"));
    assert!(refused("x:wrong").contains("expected `KEY=VALUE`"));
    assert!(refused("x:wrong=1,wrong=2").contains("`wrong` twice"));
    assert!(refused("x:wrong=1,lora=1").contains("both apply"));
}

#[test]
fn a_scale_out_of_range_is_left_to_the_request() {
    let request = variant("x:wrong=NaN").request(
        &GenerateRequest::default(),
        "a cat",
        &ModelDefaults::default(),
    );
    assert!(request.check().unwrap_err().is_request_error());
}
