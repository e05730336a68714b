"""Benchmarks with several things to predict for each pixel of a picture, one source of data per file."""
