//! Prompt text to weighted token chunks for SDXL's two encoders.
