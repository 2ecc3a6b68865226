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
    // One after the other, so that each is safe on the disk before the next begins.
    let first = request.seed.unwrap_or_default();
    for picture in 0..count {
        let seed = Some(first + u64::from(picture));
        let alone = GenerateRequest { seed, count: None, ..request.clone() };
        session.run_one(&alone, (picture, count), &mut |place, generation| {
            if let (Some(source), 0) = (&source, picture) {
                source.warn_of_changes(generation, &arguments.models);
            }
            session.write_into(&mut destination, generation)?;
            say_what_was_drawn(place, generation);
            Ok(())
        })?;
    }
    Ok(())
}
