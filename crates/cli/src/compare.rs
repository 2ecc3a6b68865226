//! `unwrong compare`: the same seed without and with the method, side by side.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use unwrong::GenerateRequest;
use unwrong::compare::compare_requests;
use unwrong::generate::Generation;
use unwrong::picture::Pixels;
use unwrong::progress::Silent;
use unwrong_eval::prompts;

use crate::args::CompareArgs;
use crate::destination::{Destination, refuse_existing, refuse_unwritable};
use crate::failure::wrong_request;
use crate::prompts::Templates;
use crate::session::{Session, seconds, settle_seed};
use crate::{interrupt, printer};

/// Names of the two pictures, as the original notebook has them.
const PARTS: [&str; 2] = ["01.png", "02.png"];
/// What the two pictures are.
const SIDES: [&str; 2] = ["left, without the wrong-LoRA", "right, with it"];

/// Draws both pictures of every prompt and puts them side by side.
///
/// A pair carries the request of its right half: that is the picture one wants again.
pub(crate) fn run(arguments: &CompareArgs) -> Result<()> {
    let mut request = arguments.request();
    // The comparison is about the wrong-LoRA: naming one is asking for it.
    if request.wrong_lora.is_some() {
        request.wrong.get_or_insert(1.0);
    }
    request.check()?;
    let writing = &arguments.writing;
    let prompts = match &arguments.prompts {
        Some(path) => prompts::read(path)?,
        None => vec![request.prompt.clone()],
    };
    let pairs = u32::try_from(prompts.len()).unwrap_or(u32::MAX);
    GenerateRequest { count: Some(pairs), ..request.clone() }.check()?;
    let mut destination = Destination::new(arguments.output.as_deref(), pairs, writing.force)?;
    destination.format()?.check(writing.quality.unwrap_or_default())?;
    let parts: Vec<[PathBuf; 2]> = part_names(arguments, prompts.len())?;
    let templates = Templates::read_each(&prompts, &request, &arguments.dynamic)?;

    interrupt::listen()?;
    let session = Session::open(&request, &arguments.models, writing)?;
    settle_seed(&mut request)?;
    let draw = |(prompt, template): (String, Templates)| -> Result<_> {
        let drawn = template.draw(GenerateRequest { prompt, ..request.clone() })?;
        Ok(compare_requests(&drawn, session.pipeline.defaults()))
    };
    let pairs: Vec<[GenerateRequest; 2]> =
        prompts.into_iter().zip(templates).map(draw).collect::<Result<_>>()?;
    if pairs.len() > 1 {
        // What the last of them would be refused for is said before the first is drawn.
        session.pipeline.check(pairs.as_flattened(), &mut Silent)?;
    }
    for (place, requests) in pairs.iter().enumerate() {
        if pairs.len() > 1 {
            let prompt = printer::visible(&requests[1].prompt);
            printer::note(&format!("{} of {}: {prompt}", place + 1, pairs.len()));
        }
        let pair = draw_pair(&session, requests, parts.get(place))?;
        session.write_into(&mut destination, &pair)?;
    }
    Ok(())
}

/// Names of the single pictures of every pair, if they are asked for; refuses those that exist.
fn part_names(arguments: &CompareArgs, pairs: usize) -> Result<Vec<[PathBuf; 2]>> {
    let Some(folder) = &arguments.parts else { return Ok(Vec::new()) };
    let of_pair = |place: usize| match pairs {
        1 => folder.clone(),
        _ => folder.join(format!("{place:05}")),
    };
    let parts: Vec<[PathBuf; 2]> =
        (0..pairs).map(|place| PARTS.map(|name| of_pair(place).join(name))).collect();
    for part in parts.as_flattened() {
        refuse_existing(part, arguments.writing.force)?;
        if arguments.output.as_ref() == Some(part) {
            return Err(wrong_request(
                format!("`{}` is the pair and a part of it", part.display()),
                "give the pair another name",
            ));
        }
    }
    refuse_unwritable(folder)?;
    Ok(parts)
}

/// Both pictures, beside each other; `parts` get each of them as soon as it exists.
fn draw_pair(
    session: &Session<'_>,
    requests: &[GenerateRequest; 2],
    parts: Option<&[PathBuf; 2]>,
) -> Result<Generation> {
    let mut all = 0.0;
    let mut on_picture = |(index, _): (usize, usize), generation: &Generation| {
        let (steps, seconds) = (generation.timings.steps.len(), seconds(generation));
        printer::note(&format!("{}: {steps} steps, {seconds:.1} s", SIDES[index]));
        all += seconds;
        match parts {
            Some(parts) => session.write(&parts[index], generation),
            None => Ok(()),
        }
    };
    let pictures = session.run(requests, &mut on_picture)?;
    let [left, right] = <[Generation; 2]>::try_from(pictures)
        .map_err(|pictures| anyhow!("{} pictures came from two requests", pictures.len()))?;
    let pair = Generation { pixels: Pixels::beside(&left.pixels, &right.pixels)?, ..right };
    printer::note(&format!("seed {}, both pictures: {all:.1} s", pair.plan.seed));
    Ok(pair)
}
