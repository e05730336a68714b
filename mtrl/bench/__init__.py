"""Measures speed on this machine: mtrl bench update, envs, and others, one per file."""
