"""Pure loss functions: no networks, no state."""
