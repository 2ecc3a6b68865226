//! A model card: what a LoRA is and how it is used, as Hugging Face's pages show it.
//!
//! The fields are those of diffusers' `load_or_create_model_card` and of its training script for
//! SDXL. No clock and no local path is in it, so the same training gives the same card.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use unwrong::picture::{file_to_write, write_atomically};

use crate::error::{Error, Result};
use crate::metadata::Facts;

/// Stands in every card of ours that nobody has made their own yet.
const MARK: &str = "<!-- Written by `unwrong train`, which writes it anew as long as this line \
                    is in it. -->";

/// What a card says beyond what the training knows.
#[derive(Debug, Clone, Default)]
pub struct CardOptions {
    /// The base model's name at Hugging Face.
    pub base_model: Option<String>,
    /// The LoRA's licence, as Hugging Face abbreviates it.
    pub license: Option<String>,
    /// The caption is what pictures should not be: a negative prompt.
    pub is_negative: bool,
    /// Pictures to show.
    pub samples: Vec<CardSample>,
}

/// A picture on a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardSample {
    /// What it was drawn from.
    pub prompt: String,
    /// What it should not show.
    pub negative_prompt: Option<String>,
    /// Its place, as seen from the card, with slashes.
    pub path: String,
}

/// The name at Hugging Face that a path tells: that of a folder in its cache, or of the model that
/// SDXL LoRAs are trained on nearly always.
#[must_use]
pub fn hub_name(model: &str) -> Option<String> {
    const SDXL: &str = "stabilityai/stable-diffusion-xl-base-1.0";
    for part in Path::new(model).iter().filter_map(|part| part.to_str()) {
        if let Some((owner, name)) =
            part.strip_prefix("models--").and_then(|rest| rest.split_once("--"))
        {
            return Some(format!("{owner}/{name}"));
        }
    }
    let name = Path::new(model).file_name()?.to_str()?;
    let is_sdxl = name == "stable-diffusion-xl-base-1.0" || name.starts_with("sd_xl_base_1.0");
    is_sdxl.then(|| SDXL.to_owned())
}

/// Writes the card, unless a file of that name is there that is not ours; says whether it did.
pub fn write_card(path: &Path, card: &str) -> Result<bool> {
    // A folder is not ours, and a pipe would keep whoever reads it waiting.
    if file_to_write(path).is_err() {
        return Ok(false);
    }
    match fs::read_to_string(path) {
        Ok(text) if !text.contains(MARK) => return Ok(false),
        // No text at all is not ours either.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(false),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("read", path)(error));
        }
        _ => {}
    }
    write_atomically(path, card.as_bytes(), true)?;
    Ok(true)
}

/// The whole card.
#[must_use]
pub fn card(facts: &Facts<'_>, options: &CardOptions) -> String {
    let mut text = front_matter(facts, options);
    text.push_str(MARK);
    text.push_str(&body(facts, options));
    text
}

fn trigger<'a>(facts: &'a Facts<'_>) -> Option<&'a str> {
    facts.dataset.options().caption.as_deref().filter(|caption| !caption.trim().is_empty())
}

fn front_matter(facts: &Facts<'_>, options: &CardOptions) -> String {
    let mut yaml = String::from("---\n");
    let mut line = |key: &str, value: &str| {
        writeln!(yaml, "{key}: {}", quoted(value)).expect("a String takes every write");
    };
    if let Some(base) = &options.base_model {
        line("base_model", base);
    }
    line("library_name", "diffusers");
    if let Some(license) = &options.license {
        line("license", license);
    }
    if let Some(trigger) = trigger(facts) {
        line("instance_prompt", trigger);
    }
    if !options.samples.is_empty() {
        yaml.push_str("widget:\n");
    }
    for CardSample { prompt, negative_prompt, path } in &options.samples {
        writeln!(yaml, "- text: {}", quoted(prompt)).expect("a String takes every write");
        if let Some(negative) = negative_prompt {
            writeln!(yaml, "  parameters:\n    negative_prompt: {}", quoted(negative))
                .expect("a String takes every write");
        }
        writeln!(yaml, "  output:\n    url: {}", quoted(&url(path)))
            .expect("a String takes every write");
    }
    yaml.push_str("tags:\n");
    let tags = ["text-to-image", "diffusers", "lora", "template:sd-lora", "stable-diffusion-xl"];
    for tag in tags.into_iter().chain(["stable-diffusion-xl-diffusers", "unwrong"]) {
        writeln!(yaml, "- {tag}").expect("a String takes every write");
    }
    yaml.push_str("---\n");
    yaml
}

fn body(facts: &Facts<'_>, options: &CardOptions) -> String {
    let file = format!("{}.safetensors", facts.name);
    let base = options.base_model.as_deref().unwrap_or(facts.model);
    let pictures = facts.dataset.items().len();
    let mut text = format!(
        "\n\n# {}\n\nA LoRA for Stable Diffusion XL, trained with unwrong on {} for the model {}.\n",
        plain(facts.name),
        if pictures == 1 { "1 picture".to_owned() } else { format!("{pictures} pictures") },
        code(base),
    );
    if !options.samples.is_empty() {
        text.push_str("\n<Gallery />\n");
    }
    let told = match trigger(facts) {
        Some(word) if options.is_negative => format!(
            "{} in the negative prompt: it names what the pictures should not be.\n",
            code(word)
        ),
        Some(word) => format!("{} in the prompt.\n", code(word)),
        None => "None of its own: every picture was trained with a caption.\n".to_owned(),
    };
    let sections = ["\n## Trigger\n\n", &told, &usage(facts, options, &file), &training(facts)];
    text.extend(sections);
    text
}

/// How three programs use it, with a prompt that one may copy.
fn usage(facts: &Facts<'_>, options: &CardOptions, file: &str) -> String {
    let word = trigger(facts);
    let subject =
        if facts.model == "demo" { "a red heart" } else { "a portrait of a lighthouse keeper" };
    let first = options.samples.first().map(|sample| sample.prompt.as_str());
    let prompt = match word {
        Some(word) if !options.is_negative => first.unwrap_or(word),
        _ => first.unwrap_or(subject),
    };
    let negative = word.filter(|_| options.is_negative);
    let (shell_file, python_file) = (shell(&format!("./{file}")), quoted(file));
    let shell_negative = negative.map(|word| format!(" -n {}", shell(word))).unwrap_or_default();
    let python_negative =
        negative.map(|word| format!(", negative_prompt={}", quoted(word))).unwrap_or_default();
    let shell_model = match facts.model {
        "demo" => String::new(),
        model => format!(" --model {}", shell(model)),
    };
    let hub = "stabilityai/stable-diffusion-xl-base-1.0";
    let base = quoted(options.base_model.as_deref().unwrap_or(hub));
    let prompts = match (word, negative) {
        (_, Some(word)) => format!("and {} into the negative prompt", code(word)),
        (Some(word), None) => format!("and {} beside it", code(word)),
        (None, None) => "beside what the picture shows".to_owned(),
    };
    format!(
        "\n## Use\n\nWith unwrong:\n\n```sh\nunwrong generate {} --lora {shell_file}{shell_negative}{shell_model} \
         -o picture.png\n```\n\nWith diffusers:\n\n```python\nimport torch\nfrom diffusers import \
         StableDiffusionXLPipeline\n\npipeline = StableDiffusionXLPipeline.from_pretrained(\n    \
         {base}, torch_dtype=torch.float16\n).to(\"cuda\")\npipeline.load_lora_weights(\".\", \
         weight_name={python_file})\npipeline({}{python_negative}).images[0].save(\"picture.png\")\n\
         ```\n\nWith AUTOMATIC1111, Forge and their kind: put {} into `models/Lora`, {} into the \
         prompt, {prompts}.\n",
        shell(prompt),
        quoted(prompt),
        code(file),
        code(&format!("<lora:{}:1>", facts.name)),
    )
}

fn training(facts: &Facts<'_>) -> String {
    let (options, data) = (facts.trainer.options(), facts.dataset.options());
    let mut text = String::from("\n## Training\n\n| | |\n|---|---|\n");
    let mut row = |what: &str, value: String| {
        writeln!(text, "| {what} | {value} |").expect("a String takes every write");
    };
    row("steps", facts.trainer.state().step.to_string());
    row("pictures in a step", (data.batch_size * options.accumulation).to_string());
    row("rank, alpha", format!("{}, {}", options.rank, options.alpha()));
    row("learning rate", format!("{}, {}", options.rate, options.schedule.name()));
    row("resolution", data.side().to_string());
    row("seed", options.seed.to_string());
    if let Some(gamma) = options.loss.snr_gamma {
        row("min-SNR gamma", gamma.to_string());
    }
    if let Some(decay) = options.ema {
        row("running mean of the matrices, decay", decay.to_string());
    }
    if let Some(class) = facts.trainer.class() {
        row("class pictures", class.items().len().to_string());
        row("weight of their loss", options.prior_weight.to_string());
    }
    row("text encoders trained", "no".to_owned());
    text
}

/// A string that YAML and Python read alike: JSON's, with what YAML calls unprintable escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                write!(quoted, "\\u{:04x}", u32::from(c)).expect("a String takes every write");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// One word of a POSIX shell.
fn shell(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) && !text.starts_with('-') {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A code span of Markdown, whatever is in it.
fn code(text: &str) -> String {
    let text = one_line(text);
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    if longest == 0 { format!("`{text}`") } else { format!("{fence} {text} {fence}") }
}

/// Words that Markdown takes as they are.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for character in one_line(text).chars() {
        if character.is_ascii_punctuation() && character != '-' && character != '.' {
            plain.push('\\');
        }
        plain.push(character);
    }
    plain
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A path as part of an address.
fn url(path: &str) -> String {
    let mut url = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            url.push(char::from(byte));
        } else {
            write!(url, "%{byte:02X}").expect("a String takes every write");
        }
    }
    url
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_card_of_somebody_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wrong.md");
        assert!(write_card(&path, &format!("{MARK}\none")).unwrap());
        assert!(write_card(&path, &format!("{MARK}\ntwo")).unwrap());
        assert!(fs::read_to_string(&path).unwrap().ends_with("two"));
        for theirs in [&b"my own words"[..], &[0xff, 0xfe]] {
            fs::write(&path, theirs).unwrap();
            assert!(!write_card(&path, MARK).unwrap());
            assert_eq!(fs::read(&path).unwrap(), theirs);
        }
        assert!(!write_card(folder.path(), MARK).unwrap());
    }

    #[test]
    fn the_hub_is_named_where_a_path_tells() {
        let sdxl = "stabilityai/stable-diffusion-xl-base-1.0";
        let cached = "/hub/models--stabilityai--stable-diffusion-xl-base-1.0/snapshots/462165";
        assert_eq!(hub_name(cached).as_deref(), Some(sdxl));
        assert_eq!(hub_name("models/sd_xl_base_1.0_0.9vae.safetensors").as_deref(), Some(sdxl));
        assert_eq!(hub_name("demo"), None);
        assert_eq!(hub_name("mine/"), None);
    }

    #[test]
    fn texts_stay_texts_wherever_they_are_put() {
        assert_eq!(quoted("a \"b\"\n\u{7f}é"), "\"a \\\"b\\\"\\n\\u007fé\"");
        assert_eq!(shell("it's"), "'it'\\''s'");
        assert_eq!(shell("./wrong.safetensors"), "./wrong.safetensors");
        assert_eq!(shell("-n"), "'-n'");
        assert_eq!(code("wrong"), "`wrong`");
        assert_eq!(code("a `` b"), "``` a `` b ```");
        assert_eq!(plain("my_lora <b>"), "my\\_lora \\<b\\>");
        assert_eq!(url("my lora.training/samples/1-0.png"), "my%20lora.training/samples/1-0.png");
    }
}
