//! Gradients for what layers read; their weights are frozen.
//!
//! Training walks the network backwards: from the gradient for a layer's result to the one for
//! its input. (That of attention is with [`attention`](crate::attention_backward).) What holds
//! forwards holds here: one result for any number of threads, in any company.

mod activation;
mod conv;
mod linear;
mod norm;
mod outer;

pub(crate) use activation::times_gelu;
pub use activation::{activate_backward, geglu_backward};
pub use conv::{conv2d_backward, conv2d_filters_backward};
pub use linear::{Added, linear_backward, linear_backward_onto};
pub use norm::{group_norm_backward, layer_norm_backward};
pub use outer::outer_sum;
