"""Image classification as benchmarks, one source of data per file."""
