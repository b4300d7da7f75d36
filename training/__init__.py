"""Training and measurement of the denoising networks that Darkroom ships. Run from a clone, by the model owner."""
