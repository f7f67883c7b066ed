"""How many class-conditional digits a support vector machine reads as what was asked.

    python -m kdiff_jax.sample --checkpoint=W/student --output=d.npz --num_images=2000
    python benchmarks/digits_svm.py d.npz

The machine is trained on half of the real digits and first read on the other half.
"""

import sys

import numpy as np
from sklearn.svm import SVC

from kdiff_jax.data import images


def main(path):
    real = images.load("digits")
    x, y = real.in_memory.reshape(real.num, -1) / 255, real.labels
    # Every other digit, so that all writers are in both halves.
    machine = SVC(gamma=0.02 * 16, C=10).fit(x[::2], y[::2])
    print(f"real digits held out: {machine.score(x[1::2], y[1::2]):.4f}")
    with np.load(path) as file:
        made, labels = file["images"], file["labels"]
    found = machine.predict(made.reshape(len(made), -1) / 255)
    print(f"{len(made)} made digits: {(found == labels).mean():.4f}")
    for k in range(10):
        here = labels == k
        print(f"  {k}: {(found[here] == k).mean():.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
