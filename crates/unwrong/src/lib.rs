//! Request to picture: SDXL base, refiner and LoRA in one library.
