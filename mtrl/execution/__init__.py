"""How updates run: precision of products, tracing and compilation, CUDA graphs."""
