//! LoRA files: what they do to which layer.
