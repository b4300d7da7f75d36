"""Picture quality: our networks beside the denoisers that people use in clear, on the same noisy images."""
