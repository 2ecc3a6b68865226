//! `unwrong wrongs`: the pictures that the wrong-LoRA is trained on.

use std::fs;
use std::path::Path;

use anyhow::Result;
use unwrong::picture::Format;
use unwrong::wrongs::{WrongFolder, WrongSet};

use crate::args::WrongsArgs;
use crate::bars::Total;
use crate::destination::refuse_unwritable;
use crate::failure::wrong_request;
use crate::session::{Session, say_what_was_drawn, settle_seed};
use crate::{interrupt, printer};

/// Draws what the folder lacks; every picture is in it and in its table before the next begins.
pub(crate) fn run(arguments: &WrongsArgs) -> Result<()> {
    let set = wrong_set(arguments)?;
    let mut request = arguments.request();
    let (output, writing) = (&arguments.output, &arguments.writing);
    // Checked with the seed that leaves most room: the real one may be in the folder.
    set.requests(&unwrong::GenerateRequest { seed: request.seed.or(Some(0)), ..request.clone() })?;
    Format::Png.check(writing.quality.unwrap_or_default())?;
    refuse_unwritable(output)?;

    interrupt::listen()?;
    let session = Session::open(&request, &arguments.models, writing)?;
    if request.seed.is_none() {
        request.seed = WrongFolder::first_seed(output)?;
    }
    settle_seed(&mut request)?;
    let requests = set.requests(&request)?;
    let pipeline = &session.pipeline;
    let mut folder =
        WrongFolder::open(output, &arguments.text, &requests, pipeline, writing.force)?;

    let (missing, pictures) = (folder.missing(), requests.len());
    let there = pictures - missing.len();
    if there > 0 {
        printer::note(&format!("{there} of {pictures} pictures are there"));
    }
    let steps = pipeline.settled(&requests[0])?.steps.unwrap_or_default();
    let total = Total::new(there, pictures, u64::from(steps));
    // So many at once, so that they are safe on the disk before the next begin.
    for indices in missing.chunks(pipeline.together(&requests[0])?) {
        let some: Vec<_> = indices.iter().map(|index| requests[*index].clone()).collect();
        session.run_of_total(&some, &total, indices, &mut |place, generation| {
            let (index, _) = place;
            session.write(&folder.picture(index), generation)?;
            say_what_was_drawn(place, generation);
            Ok(folder.add(index, &generation.embedded)?)
        })?;
    }
    Ok(())
}

fn wrong_set(arguments: &WrongsArgs) -> Result<WrongSet> {
    let WrongsArgs { keywords, weight, guidance_scales, count, .. } = arguments;
    let mut set = WrongSet { weight: weight.clone(), count: *count, ..WrongSet::default() };
    if let Some(list) = keywords {
        set.keywords = read_keywords(list)?;
    }
    if let Some(one) = arguments.sampling.guidance_scale {
        set.guidance_scales = vec![one];
    } else if !guidance_scales.is_empty() {
        set.guidance_scales.clone_from(guidance_scales);
    }
    Ok(set)
}

/// The lines of a file, or what stands between commas.
fn read_keywords(list: &str) -> Result<Vec<String>> {
    let path = Path::new(list);
    let is_path = path.is_file()
        || list.contains(std::path::is_separator)
        || path.extension().is_some_and(|extension| extension == "txt");
    let text = if is_path {
        fs::read_to_string(path).map_err(|error| {
            wrong_request(
                format!("cannot read the keywords in `{list}`: {error}"),
                "give a text file with one keyword on each line, or a list: `blurry,ugly`",
            )
        })?
    } else {
        list.replace(',', "\n")
    };
    let keywords = text.lines().map(str::trim).filter(|keyword| !keyword.is_empty());
    Ok(keywords.map(str::to_owned).collect())
}
