"""Dense prediction as benchmarks, one source of data per file."""
