//! Reads `("one", "another").and(1, 0.5)` and `.blend(0.7, 0.3, no_normalize)`.

use super::cursor::CallOption;
use super::reader::{Event, Reader};

/// Prompts that an operator joins.
pub(super) struct Join<'a> {
    pub(super) kind: Kind,
    /// Networks before a blend.
    pub(super) before: Vec<Event>,
    /// Networks after a blend.
    pub(super) after: Vec<Event>,
    pub(super) prompts: Vec<Listed<'a>>,
    /// As many as there are prompts.
    pub(super) weights: Vec<f64>,
    /// What follows a conjunction, which compel does not read.
    pub(super) rest: &'a str,
}

/// One of them.
pub(super) struct Listed<'a> {
    pub(super) events: Vec<Event>,
    pub(super) source: &'a str,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    And,
    Blend { normalize: bool },
}

/// Why an operator that was read joins nothing.
pub(super) struct Refusal {
    pub(super) operator: &'static str,
    pub(super) reason: String,
}

/// Sums of weights below this would blow the features up.
const SMALLEST_SUM: f64 = 1e-6;

/// `None` where `text` is no list with an operator behind it.
pub(super) fn read(text: &str) -> Option<Result<Join<'_>, Refusal>> {
    let mut reader = Reader::new(text);
    reader.cursor.skip_space();
    while reader.lora() {
        reader.cursor.skip_space();
    }
    let before = reader.take_events();
    let prompts = list(&mut reader)?;
    reader.cursor.skip_space();
    let operator = [".and", ".add", ".blend"]
        .into_iter()
        .find(|operator| reader.cursor.literal(operator).is_some())?;
    let is_blend = operator == ".blend";
    if !is_blend && !before.is_empty() {
        return None;
    }
    reader.cursor.skip_space();
    reader.cursor.literal("(")?;
    let options = reader.cursor.options();
    reader.cursor.skip_space();
    reader.cursor.literal(")")?;

    reader.cursor.skip_space();
    if is_blend {
        while reader.lora() {
            reader.cursor.skip_space();
        }
    }
    let after = reader.take_events();
    let rest = reader.cursor.rest();
    let refuse = |reason| Some(Err(Refusal { operator, reason }));
    if is_blend && !rest.is_empty() {
        return refuse("it joins whole prompts, so nothing may follow it".to_owned());
    }
    let (kind, weights) = match weights(&options, prompts.len(), is_blend) {
        Ok(read) => read,
        Err(reason) => return refuse(reason),
    };
    Some(Ok(Join { kind, before, after, prompts, weights, rest }))
}

fn list<'a>(reader: &mut Reader<'a>) -> Option<Vec<Listed<'a>>> {
    reader.cursor.literal("(")?;
    let mut prompts = Vec::new();
    loop {
        reader.cursor.skip_space();
        let unread = reader.cursor.rest();
        let events = reader.listed()?;
        let source = &unread[..unread.len() - reader.cursor.rest().len()];
        prompts.push(Listed { events, source });
        reader.cursor.skip_space();
        if reader.cursor.literal(",").is_none() {
            break;
        }
    }
    reader.cursor.literal(")")?;
    Some(prompts)
}

/// One weight for each prompt, or why there is none.
fn weights(
    options: &[CallOption<'_>],
    prompts: usize,
    is_blend: bool,
) -> Result<(Kind, Vec<f64>), String> {
    let (normalize, numbers) = match options {
        [numbers @ .., CallOption::Word("no_normalize")] if is_blend => (false, numbers),
        all => (true, all),
    };
    let mut weights = Vec::new();
    for option in numbers {
        match option {
            CallOption::Number(number) => weights.push(*number),
            CallOption::Word(word) => {
                let word = crate::warning::excerpt(word);
                return Err(format!("`{word}` among its weights is no number"));
            }
        }
    }
    if weights.is_empty() {
        weights.resize(prompts, 1.0);
    }
    if weights.len() != prompts {
        let plural = if weights.len() == 1 { "weight" } else { "weights" };
        return Err(format!("it has {} {plural} for {prompts} prompts", weights.len()));
    }
    let kind = if is_blend { Kind::Blend { normalize } } else { Kind::And };
    if kind == (Kind::Blend { normalize: true }) && weights.iter().sum::<f64>().abs() < SMALLEST_SUM
    {
        return Err("its weights sum to zero; `no_normalize` at their end allows that".to_owned());
    }
    Ok((kind, weights))
}
