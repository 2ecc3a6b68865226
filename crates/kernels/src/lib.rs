//! CPU kernels on slices: linear, convolution, attention, norms.
