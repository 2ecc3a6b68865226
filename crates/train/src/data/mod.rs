//! A folder of pictures, as training sees it.
//!
//! Everything is read and checked before any weight is: [`Dataset::scan`] decodes each file once,
//! so that what is wrong with one is said at the start, by name, and not after an hour.
//!
//! | # | stage | in → out | where |
//! |---|---|---|---|
//! | 1 | list | folder → files, sorted | `listing` |
//! | 2 | describe | files → captions | `captions` |
//! | 3 | decode | file → red, green and blue, upright | `decode` |
//! | 4 | fit | size → resized size and bucket | `bucket` |
//! | 5 | order | seed, epoch → batches of [`Example`]s | `order` |
//! | 6 | pixels | example → `[H, W, 3]` in −1…1 | `item`, `resize` |
//! | 7 | keep | latents and embeddings on disk | [`cache`] |

mod bucket;
pub mod cache;
mod captions;
mod dataset;
mod decode;
pub(crate) mod draws;
mod found;
mod item;
mod listing;
mod note;
mod options;
mod order;
mod resize;
mod survey;

pub use cache::{Array, Cache, Entry, Key};
pub use dataset::Dataset;
pub use item::{Crop, Example, Item};
pub use note::Note;
pub use options::{CropChoice, DataOptions, Framing};
