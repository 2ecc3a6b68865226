//! The `unwrong` binary.
fn main() {}
