//! The contact sheet: some prompts from top to bottom, the variants from left to right.

use unwrong::picture::{Format, Pixels, Quality, encode};
use unwrong::{Error, Result};

use crate::measure::Row;
use crate::{Experiment, Folder, picture};

/// Most prompts and variants on it.
const MOST: [usize; 2] = [8, 16];
/// Longest side of one picture on it.
const SIDE: u32 = 256;

/// The bytes of `sheet.webp`: the first seed of prompts that lie evenly in the list. It carries
/// the request of its first picture.
pub(crate) fn sheet(experiment: &Experiment, folder: &Folder, rows: &[Row]) -> Result<Vec<u8>> {
    let variants = experiment.variants.len();
    let seeds = experiment.seeds.count() as usize;
    let lines: Vec<Pixels> = places(experiment.prompts.len())
        .map(|prompt| line(folder, &rows[prompt * seeds * variants..][..variants]))
        .collect::<Result<_>>()?;
    let width = lines[0].width();
    if let Some(other) = lines.iter().find(|line| line.width() != width) {
        let problem = format!("lines of {width} and {} pixels", other.width());
        return Err(Error::Encode { format: "a contact sheet", problem });
    }
    let height = lines.iter().map(Pixels::height).sum();
    let whole = Pixels::new(width, height, lines.iter().flat_map(Pixels::rgb).copied().collect())?;
    encode(&whole, &rows[0].embedded, Format::Webp, Quality::default())
}

/// At most [`MOST`] prompts, evenly from all.
fn places(prompts: usize) -> impl Iterator<Item = usize> {
    let shown = prompts.min(MOST[0]);
    (0..shown).map(move |place| place * prompts / shown)
}

fn line(folder: &Folder, rows: &[Row]) -> Result<Pixels> {
    let read = |row: &Row| picture::shrink(&picture::read(&folder.file(&row.picture))?, SIDE);
    let drawn: Vec<Pixels> = rows.iter().take(MOST[1]).map(read).collect::<Result<_>>()?;
    Pixels::row(&drawn.iter().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::places;

    #[test]
    fn the_prompts_of_the_sheet_lie_evenly() {
        assert!(places(3).eq([0, 1, 2]));
        assert!(places(16).eq([0, 2, 4, 6, 8, 10, 12, 14]));
        assert_eq!(places(41).count(), 8);
    }
}
