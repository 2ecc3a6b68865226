//! CPU kernels on slices: linear, convolution, attention, norms.
//!
//! The hot operations of the models, without a tensor library: activations are row-major f32
//! slices, images `[B, H, W, C]`, weights stay as the file stores them ([`Matrix`]). Results
//! are fresh vectors that were never zeroed.
//!
//! **One result.** No sum is split between threads and no order of summation depends on
//! anything but the layer: a row, an image, a query gets the same bits alone or in a batch, on
//! one thread or many. (Two instruction levels, see [`Isa`], may differ in the last bits.)
//!
//! **Threads** are rayon's: the pool of the calling thread, else the global one. A thread
//! outside the pool waits while the pool works; code that calls many small kernels runs
//! faster inside, under `ThreadPool::install` or `rayon::scope`.
//!
//! **Panics** mean that the caller passed lengths that do not fit.
//!
//! [`mod@reference`] is every kernel again, slow and plain: the oracle of the tests.

#![expect(
    clippy::inline_always,
    reason = "generic bodies must be inlined into the function that enables their instructions"
)]
#![expect(unsafe_code, reason = "vector instructions, and threads that fill parts of one vector")]

mod alarm;
mod attention;
mod backward;
mod buffer;
mod conv;
mod elementwise;
mod gemm;
mod isa;
mod linear;
mod math;
mod matrix;
mod moments;
mod norm;
mod pack;
mod parallel;
mod quantized;
mod recycle;
pub mod reference;
mod simd;
mod winograd;

pub use alarm::Alarm;
pub use attention::{
    AttentionPass, AttentionShape, Tokens, attention, attention_backward, attention_strided,
    attention_with_log_sum,
};
pub use backward::{
    Added, activate_backward, conv2d_backward, conv2d_filters_backward, geglu_backward,
    group_norm_backward, layer_norm_backward, linear_backward, linear_backward_onto, outer_sum,
};
pub use conv::{Conv, ConvEpilogue, Fold, conv2d, conv2d_folded, conv2d_into, conv2d_rows_into};
pub use elementwise::{activate, geglu};
pub use isa::Isa;
pub use linear::{Epilogue, LowRank, linear, linear_geglu};
pub use math::Activation;
pub use matrix::{Dtype, Matrix};
pub use moments::Moments;
pub use norm::{Factors, GroupNorm, group_norm, layer_norm};
pub use quantized::{linear_geglu_quantized, linear_quantized};
pub use recycle::{Recycling, kept_bytes};
