//! SDXL's networks, their weights and LoRA files.
