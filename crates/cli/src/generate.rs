//! `unwrong generate`: a prompt becomes pictures.

use anyhow::Result;
use unwrong::GenerateRequest;

use crate::args::GenerateArgs;
use crate::destination::Destination;
use crate::from::Source;
use crate::interrupt;
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
    let count = request.count.unwrap_or(1);
    let mut destination = Destination::new(arguments.output.as_deref(), count, writing.force)?;
    destination.format()?.check(writing.quality.unwrap_or_default())?;

    interrupt::listen()?;
    let session = Session::open(&request, &arguments.models, writing)?;
    if arguments.models.wrong == Some(None) {
        request.wrong = session.pipeline.defaults().wrong_lora_scale.or(request.wrong);
    }
    settle_seed(&mut request)?;
    // So many at once, so that they are safe on the disk before the next begin.
    let first = request.seed.unwrap_or_default();
    let at_once = session.pipeline.together(&request)? as u32;
    for begin in (0..count).step_by(at_once as usize) {
        let places = begin..count.min(begin + at_once);
        let some = GenerateRequest {
            seed: Some(first + u64::from(begin)),
            count: Some(places.end - begin),
            ..request.clone()
        };
        session.run_some(&some, places, count, &mut |place, generation| {
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
