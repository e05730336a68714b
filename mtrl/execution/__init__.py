"""How updates run: precision of matrix products, several processes, compilation and CUDA graphs."""
