"""Dense prediction (a target for each pixel of a picture) as benchmarks, one source of data per file."""
