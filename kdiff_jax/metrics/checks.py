"""Features as every metric takes them: float64, finite, enough rows, equal widths."""

import numpy as np
from jax import Array
from jaxtyping import Float

from kdiff_jax.errors import NumericsError

Numbers = Array | np.ndarray


def check_real(name: str, x: Numbers) -> None:
    """Raises NumericsError of complex numbers, whose imaginary parts a cast drops."""
    if np.iscomplexobj(x):
        raise NumericsError(
            f"{name}: holds complex numbers: features and their moments are real; take"
            " them again, in float64"
        )


def check_features(
    name: str, f: Float[Numbers, "N D"], *, min_rows: int = 2
) -> Float[np.ndarray, "N D"]:
    """The features in float64, or one line that says what is wrong with them."""
    check_real(name, f)
    f = np.asarray(f, np.float64)
    if f.ndim != 2 or len(f) < min_rows:
        raise ValueError(
            f"{name}={f.shape}: shape must be (N, D) with N >= {min_rows}; give "
            "more images"
        )
    if not np.isfinite(f).all():
        bad = np.count_nonzero(~np.isfinite(f).all(axis=1))
        raise NumericsError(
            f"{name}={bad} of {len(f)} rows hold NaN or infinity: features must be "
            "finite; look for NaN in the weights of the feature network"
        )
    return f


def check_pair(
    f: Float[Numbers, "N D"], f_ref: Float[Numbers, "M D_ref"], *, min_rows: int = 2
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "M D"]]:
    """Both sets of features in float64, of one width."""
    f = check_features("f", f, min_rows=min_rows)
    f_ref = check_features("f_ref", f_ref, min_rows=min_rows)
    if f.shape[1] != f_ref.shape[1]:
        raise ValueError(
            f"f={f.shape[1]} features, f_ref={f_ref.shape[1]}: sizes must agree; "
            "compute both with the same features"
        )
    return f, f_ref
