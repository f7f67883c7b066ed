"""Discriminators: a head on a network's features, and projected ones on classifiers."""
