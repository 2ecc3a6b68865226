//! `unwrong generate`: a prompt becomes pictures.

use anyhow::Result;
use unwrong::GenerateRequest;
use unwrong::progress::Silent;
use unwrong_eval::prompts;

use crate::args::GenerateArgs;
use crate::destination::Destination;
use crate::from::Source;
use crate::interrupt;
use crate::prompts::Templates;
use crate::session::{Session, say_what_was_drawn, settle_seed};

/// Draws what the command line asks for; every picture is written as soon as it exists.
pub(crate) fn run(arguments: &GenerateArgs) -> Result<()> {
    let source = arguments.from.as_deref().map(Source::read).transpose()?;
    let picture = source.as_ref().map_or_else(GenerateRequest::default, Source::request);
    let mut request = arguments.over(picture);
    request.check()?;
    if let Some(source) = &source {
        source.locate(&mut request, &arguments.models)?;
    }
    let writing = &arguments.writing;
    let prompts = match &arguments.prompts {
        Some(path) => prompts::read(path)?,
        None => vec![request.prompt.clone()],
    };
    if let Some(source) = &source {
        source.locate_in_prompts(&mut request, &prompts)?;
    }
    let each = request.count.unwrap_or(1);
    let count = u32::try_from(prompts.len() as u64 * u64::from(each)).unwrap_or(u32::MAX);
    GenerateRequest { seed: None, count: Some(count), ..request.clone() }.check()?;
    let templates = Templates::read_each(&prompts, &request, &arguments.dynamic)?;
    let mut destination = Destination::new(arguments.output.as_deref(), count, writing.force)?;
    destination.format()?.check(writing.quality.unwrap_or_default())?;

    interrupt::listen()?;
    let session = Session::open(&request, &arguments.models, writing)?;
    if arguments.models.wrong == Some(None) {
        request.wrong = session.pipeline.defaults().wrong_lora_scale.or(request.wrong);
    }
    settle_seed(&mut request)?;
    let first = request.seed.unwrap_or_default();
    let mut requests = Vec::with_capacity(count as usize);
    for (prompt, template) in prompts.iter().zip(&templates) {
        for place in 0..each {
            requests.push(template.draw(GenerateRequest {
                prompt: prompt.clone(),
                seed: Some(first + u64::from(place)),
                count: None,
                ..request.clone()
            })?);
        }
    }
    if prompts.len() > 1 {
        // What the last of them would be refused for is said before the first is drawn.
        session.pipeline.check(&requests, &mut Silent)?;
    }
    // So many at once, so that they are safe on the disk before the next begin.
    let at_once = session.pipeline.together(&request)?;
    for (turn, some) in requests.chunks(at_once).enumerate() {
        let begin = turn * at_once;
        session.run_some(some, begin..begin + some.len(), count, &mut |place, generation| {
            if let (Some(source), (0, _)) = (&source, place) {
                source.warn_of_changes(generation, &arguments.models);
            }
            session.write_into(&mut destination, generation)?;
            say_what_was_drawn(place, generation);
            Ok(())
        })?;
    }
    Ok(())
}
