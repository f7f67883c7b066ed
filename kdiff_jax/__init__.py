"""Distillation of diffusion models into one-step and few-step generators, in JAX."""

__version__ = "0.1.0"
