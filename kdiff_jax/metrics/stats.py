"""Files of reference statistics: ours, and those of other projects.

Ours hold `mu`, `sigma`, `num`, the name of the features, and as far as they are known
`preprocessing`, `weights_sha256`, a fingerprint of the data, and what further metrics
read: `rows`, `logits`, `labels`, `spatial_mu` and `spatial_sigma`. Of others any .npz
with `mu` and `sigma` is read (EDM's fid-refs, clean-fid's, pytorch-fid's), and
clean-fid's of KID, which hold features.
"""

import hashlib
import io
import json
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from kdiff_jax import arrays, sealed
from kdiff_jax.errors import DataError, NumericsError
from kdiff_jax.files import Unreadable, write_atomically
from kdiff_jax.metrics import clean_fid
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.frechet import check_spectrum, check_symmetric
from kdiff_jax.metrics.moments import Moments
from kdiff_jax.metrics.npz import read_npz
from kdiff_jax.metrics.seen import Gaussian, Seen

WANTED = "an .npz with mu and sigma"
LARGEST = 1e100  # whose products stay in float64


class Stats(NamedTuple):
    """Reference statistics of a set of images; None is what a file does not say.

    Attributes:
        mu: f64[D], mean of the features.
        sigma: f64[D, D], their covariance.
        num: Number of images.
        features: Name of the feature network.
        preprocessing: What was done to the images first, by name.
        sha256: Digest of the network's weights.
        data: Fingerprint of the images.
        image_shape: (H, W, C) of the images that were looked at.
        prepared: What was done to the images to bring them to this shape: crop, resize,
            filter, antialias, flip; see `data.resize.described`.
        seen: All that metrics read.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> stats = metrics.Stats(np.zeros(2), np.eye(2), num=100, features="pixels")
        >>> stats.provenance["num_images"], stats.provenance["features"]
        (100, 'pixels')
    """

    mu: np.ndarray
    sigma: np.ndarray
    num: int | None
    features: str | None
    preprocessing: str | None = None
    sha256: str | None = None
    data: str | None = None
    image_shape: tuple[int, ...] | None = None
    seen: Seen = Seen()
    prepared: Mapping[str, Any] | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        """What a figure's reference is, in plain values."""
        return {
            "num_images": self.num,
            "features": self.features,
            "preprocessing": self.preprocessing,
            "weights_sha256": self.sha256,
            "data": self.data,
            "image_shape": self.image_shape and list(self.image_shape),
            "prepared": self.prepared and dict(self.prepared),
            # Of files of others, which do not say what they were made of.
            "statistics": None if self.data else self._digest(),
        }

    def _digest(self) -> str:
        blob = b"".join(
            np.ascontiguousarray(x).tobytes() for x in (self.mu, self.sigma)
        )
        return hashlib.sha256(blob).hexdigest()


def of_seen(
    seen: Seen,
    features: Features,
    *,
    data: str | None = None,
    image_shape: tuple[int, ...] | None = None,
    prepared: Mapping[str, Any] | None = None,
) -> Stats:
    """Statistics of images that were looked at just now."""
    assert seen.main is not None, "a reference always has moments"
    mu, sigma, num = seen.main
    about = features.name, features.preprocessing, features.sha256
    return Stats(mu, sigma, num, *about, data, image_shape, seen, prepared)


def save(path: str | os.PathLike, stats: Stats) -> None:
    """Writes statistics as an .npz with a digest; what is None is left out."""
    seen = stats.seen
    entries = {
        "mu": stats.mu,
        "sigma": stats.sigma,
        "num": stats.num,
        "features": stats.features,
        "preprocessing": stats.preprocessing,
        "weights_sha256": stats.sha256,
        "data": stats.data,
        "image_shape": stats.image_shape,
        "prepared": stats.prepared and json.dumps(dict(stats.prepared)),
        "rows": seen.rows,
        "logits": seen.logits,
        "labels": seen.labels,
        "spatial_mu": seen.spatial and seen.spatial.mu,
        "spatial_sigma": seen.spatial and seen.spatial.sigma,
    }
    entries = {name: value for name, value in entries.items() if value is not None}
    blob = io.BytesIO()
    np.savez(blob, allow_pickle=False, **sealed.seal_arrays(entries))
    write_atomically(path, blob.getvalue())


def save_stats(path: str | os.PathLike, moments: Moments, *, features: str) -> None:
    """Writes moments alone, with the features' name and a digest, as an .npz.

    Args:
        path: The file; one that is there is replaced.
        moments: Moments of the features.
        features: Name of the feature network.

    Raises:
        DataError: If fewer than two images were seen.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> moments = metrics.Moments().update(np.eye(4))
        >>> metrics.save_stats("reference.npz", moments, features="pixels")
        >>> metrics.load_stats("reference.npz", features="pixels").num
        4
    """
    save(path, Stats(moments.mu, moments.sigma, moments.num, features))


def is_stats(path: pathlib.Path) -> bool:
    """Whether a file is an .npz of moments or features; not whether they are sound."""
    try:
        names = set(arrays.names(path))
        return {"mu", "sigma"} <= names or clean_fid.is_one(names)
    except (OSError, Unreadable):
        return False


def load_stats(
    path: str | os.PathLike,
    *,
    features: Features | str | None = None,
    dim: int | None = None,
    image_shape: tuple[int, ...] | None = None,
    needs: Collection[str] = (),
) -> Stats:
    """Reads statistics: ours, or any .npz with mu and sigma.

    Args:
        path: The .npz file.
        features: The features in use, or their name; a file of others is refused.
        dim: Number of the features.
        image_shape: (H, W, C) of the images that are compared.
        needs: What metrics read beside the moments: "rows", "logits", "spatial".

    Raises:
        DataError: If the file is missing, damaged, of other features, weights or
            preprocessing, holds no mean and covariance, or not what is needed.

    Examples:
        A file of another project:

        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> np.savez("theirs.npz", mu=np.zeros(4), sigma=np.eye(4))
        >>> stats = metrics.load_stats("theirs.npz", dim=4)
        >>> stats.mu.shape, stats.num
        ((4,), None)
    """
    entries = read_npz("reference", path, error=DataError, wanted=WANTED)
    try:
        entries = sealed.unseal_arrays(entries)
    except sealed.Damaged as damage:
        raise DataError(
            f"reference={path}: is damaged ({damage}); make the file again"
        ) from None
    if clean_fid.is_one(entries):
        entries = clean_fid.entries(path, entries)
    missing = [name for name in ("mu", "sigma") if name not in entries]
    if missing:
        raise DataError(
            f"reference={path}: holds {sorted(entries)}, lacks {missing}; give {WANTED}"
        )
    mu, sigma = _checked(path, entries["mu"], entries["sigma"])
    about = {name: str(entries[name]) for name in TEXTS if name in entries}
    _check_alike(path, about, features)
    if dim not in (None, len(mu)):
        name = getattr(features, "name", features) or "these"
        raise DataError(
            f"reference={path}: has {len(mu)} features, and {name} are"
            f" {dim}; evaluate with its own features, on images of its size"
        )
    shape = _shape(path, entries.get("image_shape"), image_shape)
    num = _num(path, entries.get("num"))
    seen = _seen(path, entries, Gaussian(mu, sigma, num))
    absent = [name for name in needs if getattr(seen, ENTRY.get(name, name)) is None]
    if absent:
        raise DataError(
            f"reference={path}: holds no {', '.join(absent)}, which the metrics read;"
            " make it with --make_reference and the same --metrics, or leave them out"
        )
    name, preprocessing, sha256, data = map(about.get, TEXTS)
    prepared = _prepared(path, entries.get("prepared"))
    known = name, preprocessing, sha256, data, shape, seen, prepared
    return Stats(mu, sigma, num, *known)


TEXTS = ("features", "preprocessing", "weights_sha256", "data")
ENTRY = {"moments": "main"}  # of `Seen`, where another name is needed


def _check_alike(path, about, features: Features | str | None) -> None:
    """Refuses statistics of other features than those in use, with both named."""
    if features is None:
        return
    name = features if isinstance(features, str) else features.name
    wanted = {"features": name}
    if isinstance(features, Features):
        wanted["preprocessing"] = features.preprocessing
        wanted["weights_sha256"] = features.sha256 or ""
    for what, value in wanted.items():
        found = about.get(what)
        if found is not None and found != value:
            raise DataError(
                f"reference={path}: made with {what}={found!r}, not {value!r}; "
                "evaluate with the same features"
            )


def _shape(path, found, wanted) -> tuple[int, ...] | None:
    """(H, W, C) of the images behind the file, which must be the wanted one."""
    if found is None:
        return None
    shape = tuple(np.asarray(found).reshape(-1).tolist())
    if wanted is not None and shape != tuple(wanted):
        raise DataError(
            f"reference={path}: made of images of {list(shape)}, not {list(wanted)};"
            " make one of the same size"
        )
    return shape


def _prepared(path, found) -> dict[str, Any] | None:
    """What the file says was done to its images; None of files of before."""
    if found is None:
        return None
    try:
        about = json.loads(str(found))
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise DataError(f"reference={path}: prepared is no JSON; make the file again")
    return about


def _seen(path, entries, main: Gaussian) -> Seen:
    """What further metrics read, checked against the moments."""
    num, dim = main.num, len(main.mu)
    widths = {"rows": dim, "logits": None}
    found: dict[str, np.ndarray | None] = {}
    for name, width in widths.items():
        rows = found[name] = entries.get(name)
        if rows is None:
            continue
        fits = (
            rows.ndim == 2
            and rows.shape[0] == num
            and rows.shape[1] == (width or rows.shape[-1])
        )
        if not fits or rows.dtype.kind != "f" or not np.isfinite(rows).all():
            raise DataError(
                f"reference={path}: {name} {rows.dtype}{list(rows.shape)} are no finite"
                f" features of {num} images; make the file again"
            )
    labels = entries.get("labels")
    if labels is not None and (labels.shape != (num,) or labels.dtype.kind not in "iu"):
        raise DataError(
            f"reference={path}: labels {labels.dtype}{list(labels.shape)} are none of"
            f" {num} images; make the file again"
        )
    spatial = None
    if {"spatial_mu", "spatial_sigma"} <= entries.keys():
        moments = _checked(path, entries["spatial_mu"], entries["spatial_sigma"])
        spatial = Gaussian(*moments, num)
    return Seen(main, found["rows"], found["logits"], spatial, labels)


def _checked(path, mu, sigma):
    """Both in float64, if they are a mean and a covariance."""
    again = "make the file again"
    if mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
        raise DataError(
            f"reference={path}: mu {mu.dtype} and sigma {sigma.dtype} must be real"
            f" numbers; {again}"
        )
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
        raise DataError(
            f"reference={path}: mu {mu.shape} and sigma {sigma.shape} must be (D,) and "
            f"(D, D); {again}"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise DataError(f"reference={path}: holds NaN or infinity; {again}")
    size = np.abs(sigma).max()
    if size > LARGEST or np.abs(mu).max() > LARGEST:
        raise DataError(
            f"reference={path}: numbers above {LARGEST:g} are no features; {again}"
        )
    try:
        check_symmetric("sigma", sigma)
        check_spectrum("sigma", np.linalg.eigvalsh((sigma + sigma.T) / 2))
    except NumericsError as error:
        raise DataError(f"reference={path}: {error}") from error
    return mu, sigma


def _num(path, num) -> int | None:
    """How many images the file says that it is of."""
    if num is None:
        return None
    value = num.item() if num.size == 1 else None
    if num.dtype.kind not in "fiu" or value is None or not 2 <= value < 2**63:
        raise DataError(
            f"reference={path}: num={num.tolist()!r:.40} must be the number of images,"
            " 2 or more; make the file again"
        )
    return int(value)
