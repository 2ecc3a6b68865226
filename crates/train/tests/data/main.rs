//! A folder of pictures as training sees it: what is read, what is refused and in which words.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod cache;
mod captions;
mod damage;
mod order;
mod pictures;
mod scan;
mod support;
