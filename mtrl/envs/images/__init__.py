"""Image classification as benchmarks, one source of data a file."""
