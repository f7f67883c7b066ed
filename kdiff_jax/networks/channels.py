"""A narrower network's first parameters, out of a wider one's channels."""

import jax
import numpy as np

from kdiff_jax import networks, registry
from kdiff_jax.errors import CheckpointError
from kdiff_jax.networks import labels
from kdiff_jax.types import Params

RULES = ("even", "first")


def select(params: Params, template: Params, rule: str = "even") -> Params:
    """The parameters of the narrower network, leaf by leaf.

    "even" takes, along every axis that differs, index floor(i C_wide / C_narrow) as its
    i-th. Where the ratio is the same everywhere (networks that differ in `channels`
    alone), no leaf needs to know another: in a concatenation of h and a skip the second
    half starts at C_wide / 2, and is chosen like the skip itself; so do scale and shift
    of an embedding, sine and cosine of a time. Each group of a norm, if there are as
    many, loses as large a part, and a time's frequencies keep their places between the
    highest and the lowest. "first" takes the first channels; for comparison.

    Kernels are not scaled up for the inputs that they lose: most are followed by a
    norm, and branches that are cut badly do least harm when they are small. Measured on
    the digits' teacher at half its width (loss of TSM, weight v_mse, at the start and
    after 300 steps): 0.56 and 0.024; times sqrt(C_wide / C_narrow) 0.62 and 0.025;
    times C_wide / C_narrow 0.78 and 0.031; "first" 0.69 and 0.035; random numbers 0.73
    and 0.042.

    Args:
        params: Parameters of the wide network, NumPy or JAX arrays; so are the results.
        template: Parameters of the narrow network: arrays, or shapes as
            `jax.eval_shape` gives.
        rule: "even" or "first".

    Raises:
        CheckpointError: Names the first leaf where the networks differ in more than
            their widths.
        ConfigError: If there is no such rule.
    """
    if rule not in RULES:
        raise registry.unknown("rule", rule, RULES)
    wide = dict(jax.tree_util.tree_flatten_with_path(params)[0])
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    narrow = dict(leaves)
    for path in [*wide, *narrow]:
        if path not in wide or path not in narrow:
            owner = "wide" if path in wide else "narrow"
            raise _refusal(path, f"is in the {owner} network alone")
    chosen = [_selected(path, wide[path], leaf.shape, rule) for path, leaf in leaves]
    return jax.tree_util.tree_unflatten(structure, chosen)


def _selected(path, leaf, shape, rule):
    if len(leaf.shape) != len(shape):
        raise _refusal(path, f"has the shapes {leaf.shape} and {shape}")
    layer, kind = (str(getattr(key, "key", key)) for key in path[-2:])
    is_kernel = kind == "kernel"
    fixed = range(2) if is_kernel and len(shape) == 4 else ()  # pixels
    fixed = (0,) if is_kernel and layer in labels.layers() else fixed  # classes
    for axis, (many, few) in enumerate(zip(leaf.shape, shape, strict=True)):
        if many == few:
            continue
        if few > many or axis in fixed:
            raise _refusal(path, f"has the shapes {leaf.shape} and {shape}")
        in_turns = axis == len(shape) - 1 and layer in networks.facts("ALTERNATING")
        parts = 3 if in_turns else 1
        index = _index(many // parts, few // parts, rule)
        index = (parts * index[:, None] + np.arange(parts)[None]).ravel()
        leaf = leaf.take(index, axis=axis)
    return leaf


def _index(many, few, rule):
    return np.arange(few) * many // few if rule == "even" else np.arange(few)


def _refusal(path, why):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return CheckpointError(
        f"{name}: {why}; channels can be selected for a network that is narrower and"
        " otherwise the same, or start it from random numbers"
    )
