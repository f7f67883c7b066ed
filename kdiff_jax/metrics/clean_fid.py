"""clean-fid's files of KID references: `feats`, f32[N, D], features and nothing else.

Source: Parmar, Zhang & Zhu 2022, arXiv:2104.11222; the files of clean-fid 0.1.35.
"""

import os
from collections.abc import Collection, Mapping

import numpy as np

from kdiff_jax.errors import DataError
from kdiff_jax.metrics.seen import of_rows

KEY = "feats"


def is_one(names: Collection[str]) -> bool:
    """Whether a file with arrays of these names is one."""
    return set(names) == {KEY}


def entries(
    path: str | os.PathLike, found: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What a file of ours would hold of such features.

    Args:
        path: The file, for messages.
        found: Its arrays.

    Raises:
        DataError: If they are no features of two or more images.
    """
    feats = found[KEY]
    is_matrix = feats.ndim == 2 and len(feats) > 1 and feats.shape[1] > 0
    if not is_matrix or feats.dtype.kind != "f" or not np.isfinite(feats).all():
        raise DataError(
            f"reference={path}: {KEY} {feats.dtype}{list(feats.shape)} are no finite"
            " features of two or more images, as clean-fid's files of KID have them;"
            " make the file again"
        )
    rows = feats.astype(np.float32)
    mu, sigma, num = of_rows(rows)
    return {"mu": mu, "sigma": sigma, "num": np.array(num), "rows": rows}
