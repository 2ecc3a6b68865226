//! Extra networks: `<lora:name:0.8>` and what else stands in such brackets.

use crate::python::{float, is_word};
use crate::warning::{MOST_WARNINGS, Warning, excerpt};

/// A LoRA that a prompt asks for, `<lora:name:te:unet>`.
///
/// `<lora:name>` has both scales 1, `<lora:name:0.8>` has both 0.8, `<lora:name:0.8:0.6>` one
/// for the text encoders and one for the UNet, and `te=` and `unet=` name them. `lyco` is
/// another word for `lora`. `lbw=` weighs blocks, with the extension
/// `sd-webui-lora-block-weight`.
///
/// A1111 1.10.1, `extensions-builtin/Lora/extra_networks_lora.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraTag {
    /// The name as written; which file that is, is not decided here.
    pub name: String,
    /// `lora_scale` for both text encoders.
    pub text_encoder_scale: f64,
    /// `lora_scale` for the UNet.
    pub unet_scale: f64,
    /// Factors of the scales block by block, as `lbw=` has them; not read here.
    pub blocks: Option<String>,
}

/// `text` without its networks, and those that are LoRAs: `<(\w+):([^>]+)>`.
pub(crate) fn take_out(text: &str) -> (String, Vec<LoraTag>, Vec<Warning>) {
    let mut rest = String::with_capacity(text.len());
    let (mut loras, mut warnings) = (Vec::new(), Vec::new());
    let mut from = 0;
    let last = text.rfind('>').unwrap_or(0);
    let mut found = None;
    while let Some(start) = text[from..].find('<').map(|found| from + found) {
        let inside = start + 1;
        let kind = text[inside..].split(|c| !is_word(c)).next().unwrap_or("");
        let arguments = inside + kind.len() + 1;
        let opens = !kind.is_empty() && text[inside + kind.len()..].starts_with(':');
        if opens && arguments <= last {
            found = next_end(text, arguments, found);
        }
        let Some(end) = found.filter(|&end| opens && end > arguments) else {
            rest.push_str(&text[from..inside + kind.len()]);
            from = inside + kind.len();
            continue;
        };
        rest.push_str(&text[from..start]);
        match read(kind, &text[arguments..end]) {
            Ok((lora, unread)) => {
                loras.push(lora);
                if let Some(parts) = unread.filter(|_| warnings.len() < MOST_WARNINGS) {
                    warnings
                        .push(Warning::ReadInPart { found: excerpt(&text[start..=end]), parts });
                }
            }
            Err(reason) if warnings.len() < MOST_WARNINGS => {
                warnings.push(Warning::LeftOut { found: excerpt(&text[start..=end]), reason });
            }
            Err(_) => {}
        }
        from = end + 1;
    }
    rest.push_str(&text[from..]);
    (rest, loras, warnings)
}

/// The place of the first `>` from `from` on, given the one found last: a row of `<a:<a:<a:`
/// is read once.
fn next_end(text: &str, from: usize, last: Option<usize>) -> Option<usize> {
    match last {
        Some(end) if end >= from => Some(end),
        _ => text[from..].find('>').map(|found| from + found),
    }
}

/// The LoRA, and what of it is not read.
fn read(kind: &str, arguments: &str) -> Result<(LoraTag, Option<String>), &'static str> {
    if !matches!(kind, "lora" | "lyco") {
        return Err("this kind of network is not supported");
    }
    let (mut positional, mut te, mut unet, mut blocks) = (Vec::new(), None, None, None);
    let mut unread = Vec::new();
    for argument in arguments.split(':') {
        match argument.split_once('=') {
            Some(("te", scale)) if !scale.contains('=') => te = Some(scale),
            Some(("unet", scale)) if !scale.contains('=') => unet = Some(scale),
            Some(("lbw", weights)) => blocks = Some(weights.to_owned()),
            Some((_, value)) if !value.contains('=') => unread.push(argument),
            _ => positional.push(argument),
        }
    }
    let Some(name) = positional.first().filter(|name| !name.is_empty()) else {
        return Err("it has no name");
    };
    // A1111 reads the positional scales even where named ones replace them.
    let mut scales = [1.0; 2];
    for (place, named) in [te, unet].into_iter().enumerate() {
        if place == 1 {
            scales[1] = scales[0];
        }
        for text in [positional.get(place + 1).copied(), named].into_iter().flatten() {
            let scale = float(text).filter(|scale| scale.is_finite());
            scales[place] = scale.ok_or("its scale is no number")?;
        }
    }
    let [text_encoder_scale, unet_scale] = scales;
    unread.extend(positional.iter().skip(3));
    let unread = unread.iter().map(|part| format!("`{}`", excerpt(part)));
    let unread: Vec<String> = unread.take(MOST_WARNINGS).collect();
    let unread = (!unread.is_empty()).then(|| unread.join(", "));
    Ok((LoraTag { name: (*name).to_owned(), text_encoder_scale, unet_scale, blocks }, unread))
}

#[cfg(test)]
mod tests {
    use super::{LoraTag, take_out};

    fn lora(name: &str, text_encoder_scale: f64, unet_scale: f64) -> LoraTag {
        LoraTag { name: name.to_owned(), text_encoder_scale, unet_scale, blocks: None }
    }

    #[test]
    fn every_form_of_a_lora_is_read() {
        for (text, expected) in [
            ("<lora:a>", lora("a", 1.0, 1.0)),
            ("<lora:a b.c:0.8>", lora("a b.c", 0.8, 0.8)),
            ("<lora:a:0.8:0.6>", lora("a", 0.8, 0.6)),
            ("<lora:a:te=0.5>", lora("a", 0.5, 0.5)),
            ("<lora:a:unet=0.5>", lora("a", 1.0, 0.5)),
            ("<lora:a:0.3:te=0.5:unet=-1>", lora("a", 0.5, -1.0)),
            ("<lora:a:0.3:0.4:te=0.5>", lora("a", 0.5, 0.4)),
            ("<lora:te=2:a>", lora("a", 2.0, 2.0)),
            ("<lyco:a:1:0>", lora("a", 1.0, 0.0)),
        ] {
            let (rest, loras, warnings) = take_out(&format!("x {text}y"));
            assert_eq!((rest.as_str(), loras, warnings), ("x y", vec![expected], vec![]), "{text}");
        }
    }

    #[test]
    fn parts_of_a_lora_that_are_not_read_are_named() {
        for (text, part) in [
            ("<lora:a:1:0:dyn=4>", "`dyn=4`"),
            ("<lora:a:foo=1:0.5:start=0.5>", "`foo=1`, `start=0.5`"),
            ("<lora:a:1:2:3>", "`3`"),
        ] {
            let (_, loras, warnings) = take_out(text);
            assert_eq!((loras.len(), warnings.len()), (1, 1), "{text}");
            let warning = warnings[0].to_string();
            assert!(warning.contains(text) && warning.contains(part), "{warning}");
        }
    }

    #[test]
    fn weights_of_blocks_are_handed_on() {
        let (_, loras, _) = take_out("<lora:a:0.5:lbw=OUT=0,IN04=0.5>");
        let blocks = Some("OUT=0,IN04=0.5".to_owned());
        assert_eq!(loras, [LoraTag { blocks, ..lora("a", 0.5, 0.5) }]);
    }

    #[test]
    fn networks_that_cannot_be_used_are_left_out_and_named() {
        for text in ["<hypernet:a:1>", "<x_1:y>", "<lora:a:high>", "<lora:te=1>", "<lora:a:inf>"] {
            let (rest, loras, warnings) = take_out(text);
            assert_eq!((rest.as_str(), loras.len(), warnings.len()), ("", 0, 1), "{text}");
            assert!(warnings[0].to_string().contains(text));
        }
    }

    #[test]
    fn brackets_that_are_no_network_stay_text() {
        for text in ["<3 a:b>", "a < b > c", "<lora>", "<lora:>", "<lora: a", "<:a>", "<lora :a>"] {
            assert_eq!(take_out(text), (text.to_owned(), vec![], vec![]));
        }
    }
}
