//! `unwrong compare`: the same seed without and with the method, side by side.

use anyhow::{Result, anyhow};
use unwrong::compare::compare_requests;
use unwrong::generate::Generation;
use unwrong::picture::Pixels;

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

/// Draws both pictures and puts them side by side.
///
/// The pair carries the request of its right half: that is the picture one wants again.
pub(crate) fn run(arguments: &CompareArgs) -> Result<()> {
    let mut request = arguments.request();
    // The comparison is about the wrong-LoRA: naming one is asking for it.
    if request.wrong_lora.is_some() {
        request.wrong.get_or_insert(1.0);
    }
    request.check()?;
    let writing = &arguments.writing;
    let mut destination = Destination::new(arguments.output.as_deref(), 1, writing.force)?;
    destination.format()?.check(writing.quality.unwrap_or_default())?;
    let parts = arguments.parts.as_ref().map(|folder| PARTS.map(|name| folder.join(name)));
    for part in parts.iter().flatten() {
        refuse_existing(part, writing.force)?;
        if arguments.output.as_ref() == Some(part) {
            return Err(wrong_request(
                format!("`{}` is the pair and a part of it", part.display()),
                "give the pair another name",
            ));
        }
    }
    if let Some(folder) = &arguments.parts {
        refuse_unwritable(folder)?;
    }

    let templates = Templates::read(&request, &arguments.dynamic)?;

    interrupt::listen()?;
    let session = Session::open(&request, &arguments.models, writing)?;
    settle_seed(&mut request)?;
    let request = templates.draw(request)?;
    let requests = compare_requests(&request, session.pipeline.defaults());
    let mut all = 0.0;
    let mut on_picture = |(index, _): (usize, usize), generation: &Generation| {
        let (steps, seconds) = (generation.timings.steps.len(), seconds(generation));
        printer::note(&format!("{}: {steps} steps, {seconds:.1} s", SIDES[index]));
        all += seconds;
        match &parts {
            Some(parts) => session.write(&parts[index], generation),
            None => Ok(()),
        }
    };
    let pictures = session.run(&requests, &mut on_picture)?;
    let [left, right] = <[Generation; 2]>::try_from(pictures)
        .map_err(|pictures| anyhow!("{} pictures came from two requests", pictures.len()))?;
    let pair = Generation { pixels: Pixels::beside(&left.pixels, &right.pixels)?, ..right };
    printer::note(&format!("seed {}, both pictures: {all:.1} s", pair.plan.seed));
    session.write(&destination.name(pair.plan.seed), &pair)
}
