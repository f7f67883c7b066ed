"""Frechet distances between sets of samples, each with each.

    python -m kdiff_jax.sample --checkpoint=W/student --output=a.npz --num_images=1000
    python benchmarks/between.py cifar10_resnet56.npz a.npz b.npz ...

A student may be as far from the real images as its teacher is and yet be elsewhere. The
distance of one model's samples with two seeds is what the number of images alone makes.
"""

import sys

import numpy as np

from kdiff_jax.metrics import features
from kdiff_jax.metrics.frechet import frechet_distance
from kdiff_jax.metrics.moments import Moments


def main(weights, *paths):
    extract = features.make("resnet56", weights=weights)
    found = []
    for path in paths:
        with np.load(path) as file:
            found.append(Moments().update(extract.apply(file["images"])))
    for i, (a, name_a) in enumerate(zip(found, paths, strict=True)):
        for b, name_b in zip(found[:i], paths, strict=False):
            value = frechet_distance(a.mu, a.sigma, b.mu, b.sigma)
            print(f"{value:8.2f}  {name_b} - {name_a}")


if __name__ == "__main__":
    main(*sys.argv[1:])
