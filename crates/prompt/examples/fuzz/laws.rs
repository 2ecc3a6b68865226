//! What must hold of a prompt, whatever it is.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use unwrong_prompt::{
    CHUNK_TOKENS, Conjunction, Dynamic, END_OF_TEXT, Emphasis, EncodePlan, Encoder, Fragment,
    LongPrompt, Prompt, START_OF_TEXT, Script, Steps, SwitchTime, Syntax, Warning,
};

/// Characters that a warning or an error has at most.
const MOST_MESSAGE: usize = 500;
const A1111: Syntax = Syntax::A1111 { emphasis: Emphasis::Original };

type Law<T = ()> = Result<T, String>;

#[derive(Clone, Copy)]
pub(crate) enum Reader {
    Compel,
    Script,
    Attention,
    Comfy,
    Dynamic,
}

/// What a prompt showed.
pub(crate) struct Verdict {
    /// The same for prompts that are alike.
    pub(crate) shape: u64,
    /// How much text was read, for the time that it may take.
    pub(crate) bytes: usize,
}

impl Reader {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "compel" => Self::Compel,
            "script" => Self::Script,
            "attention" => Self::Attention,
            "comfy" => Self::Comfy,
            "dynamic" => Self::Dynamic,
            _ => return None,
        })
    }

    pub(crate) fn check(self, text: &str) -> Law<Verdict> {
        let mut shape = DefaultHasher::new();
        let bytes = match self {
            Self::Compel => compel(text, &mut shape),
            Self::Script => script(text, &mut shape),
            Self::Attention => prompt(text, A1111, &mut shape),
            Self::Comfy => prompt(text, Syntax::Comfy, &mut shape),
            Self::Dynamic => dynamic(text, &mut shape),
        }?;
        Ok(Verdict { shape: shape.finish(), bytes })
    }
}

fn law(holds: bool, name: &str) -> Law {
    if holds { Ok(()) } else { Err(name.to_owned()) }
}

/// The number of bits, so that only magnitudes make a difference.
fn about(count: usize) -> u32 {
    usize::BITS - count.leading_zeros()
}

fn compel(text: &str, shape: &mut DefaultHasher) -> Law<usize> {
    let (whole, warnings) = Conjunction::parse(text, Syntax::Compel);
    messages(&warnings, shape)?;
    for encoder in Encoder::BOTH {
        for long_prompt in [LongPrompt::Pad, LongPrompt::Truncate] {
            conjunction_plan(&whole, encoder, long_prompt)?;
        }
    }
    for part in whole.parts() {
        let shares = part.blend.shares();
        law(shares.iter().all(|share| share.is_finite()), "a share is not finite")?;
        let total: f64 = shares.iter().sum();
        law(!part.blend.normalize || (total - 1.0).abs() < 1e-9, "shares do not sum to 1")?;
        (part.blend.normalize, shares.len().min(4), (part.weight * 8.0) as i64).hash(shape);
    }
    let mut drawn = String::new();
    for own in whole.prompts() {
        weights(own.fragments(), 0.0, shape)?;
        own.fragments().iter().for_each(|fragment| drawn.push_str(&fragment.text));
        own.edited().map(<[Fragment]>::len).hash(shape);
    }
    law(is_part_of(&drawn, text), "a letter was made up")?;
    law(Conjunction::parse(&whole.to_string(), Syntax::Compel).0 == whole, "it prints otherwise")?;
    (whole.parts().len().min(4), whole.loras().len().min(2)).hash(shape);
    Ok(text.len())
}

fn conjunction_plan(whole: &Conjunction, encoder: Encoder, long_prompt: LongPrompt) -> Law {
    let plan = whole.plan(encoder, long_prompt);
    law(!plan.parts.is_empty(), "no part")?;
    for part in &plan.parts {
        law(!part.prompts.is_empty() && part.weight.is_finite(), "a part without prompts")?;
        for own in &part.prompts {
            law(own.share.is_finite(), "a share is not finite")?;
            law(own.plan.chunks.len() == part.chunks(), "prompts of a part are not equally long")?;
            encode_plan(&own.plan)?;
        }
    }
    Ok(())
}

fn encode_plan(plan: &EncodePlan) -> Law {
    law(!plan.chunks.is_empty(), "no chunk")?;
    for chunk in &plan.chunks {
        law(chunk.ids[0] == START_OF_TEXT && chunk.ids.contains(&END_OF_TEXT), "no markers")?;
        law(chunk.ids.iter().all(|&id| id <= END_OF_TEXT), "an id that no encoder has")?;
        law(chunk.weights.iter().all(|weight| weight.is_finite()), "a weight is not finite")?;
        law(chunk.variants[0].masked.is_empty(), "the first variant is masked")?;
        let total: f32 = chunk.variants.iter().map(|variant| variant.share).sum();
        law((total - 1.0).abs() < 1e-4, "shares of a chunk do not sum to 1")?;
        for variant in &chunk.variants[1..] {
            let masked = &variant.masked;
            law(!masked.is_empty() && masked.end <= CHUNK_TOKENS, "a mask lies outside")?;
        }
    }
    Ok(())
}

fn script(text: &str, shape: &mut DefaultHasher) -> Law<usize> {
    let mut bytes = text.len();
    for (count, switch_time) in [(1, SwitchTime::Old), (20, SwitchTime::Current)] {
        let steps = Steps { count, switch_time };
        let (script, warnings) = Script::parse(text, A1111, steps);
        let (negative, others) = Script::parse_negative(text, A1111, steps);
        messages(&warnings, shape)?;
        messages(&others, shape)?;
        law(negative.parts.len() == 1 && negative.loras.is_empty(), "a negative prompt of parts")?;
        for lora in &script.loras {
            let scales = [lora.text_encoder_scale, lora.unet_scale];
            law(scales.into_iter().all(f64::is_finite), "a scale is not finite")?;
        }
        law(!script.parts.is_empty(), "no part")?;
        for part in script.parts.iter().chain(&negative.parts) {
            bytes += scheduled(text, part, count, shape)?;
        }
        (script.parts.len().min(4), script.loras.len().min(3)).hash(shape);
    }
    Ok(bytes)
}

/// Returns how much text the prompts of all steps have.
fn scheduled(
    text: &str,
    part: &unwrong_prompt::Part,
    count: usize,
    shape: &mut DefaultHasher,
) -> Law<usize> {
    law(part.weight.is_finite(), "the weight of a part is not finite")?;
    let ends: Vec<usize> = part.prompts.iter().map(|own| own.until).collect();
    law(ends.is_sorted_by(|a, b| a < b), "steps are not in order")?;
    law(ends.last() == Some(&count), "the last prompt ends before the last step")?;
    let mut bytes = 0;
    for own in &part.prompts {
        bytes += own.prompt.source().len();
        law(is_part_of(own.prompt.source(), text), "a letter was made up")?;
    }
    // Those of all steps would be read for long.
    for step in [1, count] {
        for encoder in Encoder::BOTH {
            conjunction_plan(part.prompt_at(step), encoder, LongPrompt::Pad)?;
        }
    }
    (ends.len().min(6), ends[0], (part.weight * 8.0) as i64).hash(shape);
    Ok(bytes)
}

fn prompt(text: &str, syntax: Syntax, shape: &mut DefaultHasher) -> Law<usize> {
    let (prompt, warnings) = Prompt::parse(text, syntax);
    messages(&warnings, shape)?;
    weights(prompt.fragments(), -1e6, shape)?;
    let read: String = prompt.fragments().iter().map(|own| own.text.as_str()).collect();
    law(is_part_of(&read, text), "a letter was made up")?;
    if syntax == A1111 {
        let letters = |text: &str| text.chars().filter(|c| c.is_alphabetic()).count();
        law(letters(&read) == letters(text), "a letter was lost")?;
    }
    for encoder in Encoder::BOTH {
        for long_prompt in [LongPrompt::Pad, LongPrompt::Truncate] {
            encode_plan(&prompt.plan(encoder, long_prompt))?;
        }
    }
    law(Prompt::parse(&prompt.to_string(), syntax).0 == prompt, "it prints otherwise")?;
    Ok(text.len())
}

fn weights(fragments: &[Fragment], least: f64, shape: &mut DefaultHasher) -> Law {
    law(!fragments.is_empty(), "no fragment")?;
    let inside = |own: &Fragment| own.weight >= least && own.weight <= 1e6;
    law(fragments.iter().all(inside), "a weight lies outside")?;
    about(fragments.len()).hash(shape);
    for own in fragments.iter().take(6) {
        (about(own.text.len()), (own.weight * 8.0) as i64).hash(shape);
    }
    Ok(())
}

/// Messages are few and short, however long the prompt is.
fn messages(warnings: &[Warning], shape: &mut DefaultHasher) -> Law {
    law(warnings.len() <= 64, "more warnings than anyone reads")?;
    for warning in warnings {
        let told = warning.to_string();
        law(told.chars().count() <= MOST_MESSAGE, "a long warning")?;
        std::mem::discriminant(warning).hash(shape);
    }
    Ok(())
}

/// Whether the letters and digits of `read` are among those of `text`, in their order.
fn is_part_of(read: &str, text: &str) -> bool {
    let mut letters = text.chars().filter(|c| c.is_alphanumeric());
    read.chars().filter(|c| c.is_alphanumeric()).all(|c| letters.any(|letter| letter == c))
}

fn dynamic(text: &str, shape: &mut DefaultHasher) -> Law<usize> {
    let wildcards = [
        ("fruit", "apple\npear\n# none\n{a|b}"),
        ("food/x", "__fruit__\nbread"),
        ("food/y", "{2$$__fruit__}"),
        ("round", "__round__"),
    ];
    let wildcards: BTreeMap<String, String> =
        wildcards.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
    let read = match Dynamic::parse(text, &wildcards) {
        Ok(read) => read,
        Err(error) => return refused(&error, text, shape),
    };
    let mut bytes = text.len();
    for seed in 0..3 {
        match (read.draw(seed), read.draw(seed)) {
            (Ok(drawn), Ok(again)) => {
                law(drawn == again, "a seed draws two prompts")?;
                law(read.is_dynamic() || is_part_of(&drawn, text), "a letter was made up")?;
                bytes += 2 * drawn.len();
                about(drawn.len()).hash(shape);
            }
            (Err(error), _) | (_, Err(error)) => {
                // Such a draw makes millions of choices first.
                return refused(&error, text, shape).map(|_| usize::MAX >> 33);
            }
        }
    }
    (read.is_dynamic(), u128::BITS - read.combinations().leading_zeros()).hash(shape);
    let plain = Dynamic::parse(&Dynamic::escape(text), &wildcards);
    let drawn = plain.and_then(|plain| plain.draw(0)).map_err(|error| error.to_string())?;
    law(drawn == text, "escaped text draws otherwise")?;
    Ok(bytes)
}

fn refused(error: &unwrong_prompt::Error, text: &str, shape: &mut DefaultHasher) -> Law<usize> {
    std::mem::discriminant(error).hash(shape);
    let told = error.to_string().chars().count().max(error.hint().chars().count());
    law(told <= MOST_MESSAGE, "a long message")?;
    Ok(text.len())
}
