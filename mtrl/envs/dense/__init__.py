"""Several things to tell of each pixel of a picture, as benchmarks: one source of data per file."""
