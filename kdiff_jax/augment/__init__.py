"""Augmentations of images: EDM's geometry, ADA's strength, DiffAugment."""
