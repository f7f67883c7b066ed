"""Pure mathematics of diffusion: no networks, no state."""
