"""The records of a run: its folder, metrics, checkpoints, pictures and tables."""
