"""The training machinery: one step for every method, many devices, checkpoints."""
