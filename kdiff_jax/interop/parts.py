"""Parts of a pipeline of diffusers: their folders, configs and parameters."""

import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kdiff_jax import registry
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import built, trees
from kdiff_jax.interop import diffusers_files as files
from kdiff_jax.types import Params

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16")


def check_precision(name: str) -> None:
    """Raises ConfigError unless networks compute in a type of this name."""
    registry.entry(dict.fromkeys(PRECISIONS), name, what="precision")


def folder(path: pathlib.Path, name: str) -> pathlib.Path:
    """The folder of one part of a pipeline; the path itself if it is that part's.

    Raises:
        CheckpointError: If there is none.
    """
    if not path.is_dir():
        raise CheckpointError(f"{name}={str(path)!r}: does not exist; give a folder")
    inside = path / name
    if (inside / files.CONFIG).is_file():
        return inside
    if (path / files.INDEX).is_file() or inside.is_dir():
        raise CheckpointError(
            f"{inside / files.CONFIG} is missing; copy {name}/ of the pipeline"
        )
    if not (path / files.CONFIG).is_file():
        raise CheckpointError(
            f"{path}: has no {name}/ and no {files.CONFIG}; give a pipeline's folder,"
            f" or its {name}/"
        )
    return path


def read(
    folder: pathlib.Path,
    *,
    stems: Sequence[str] = (files.WEIGHTS,),
    variant: str | None = None,
) -> tuple[dict[str, Any], dict[str, Lazy]]:
    """(config, {name: array}) of a part's own folder; see `diffusers_files.weights`."""
    config = files.read_json(folder / files.CONFIG)
    arrays, _, said = files.weights(folder, stems=stems, variant=variant)
    for line in said:
        log.info("%s: %s", folder, line)
    return config, arrays


def config(given: Any, name: str) -> Mapping[str, Any]:
    """A part's config, of its values, a file, its folder or the pipeline's.

    Raises:
        CheckpointError: If there is none.
    """
    if isinstance(given, Mapping):
        return given
    path = pathlib.Path(given).expanduser()
    if path.is_dir():
        path = folder(path, name) / files.CONFIG
    if not path.is_file():
        raise CheckpointError(f"config={str(given)!r}: does not exist")
    return files.read_json(path)


def params(leaves: Mapping[str, Lazy], module: Any, example: Any) -> Params:
    """Parameters of a Flax module, float32, if these leaves are its own.

    Args:
        leaves: {"a/b": array} in our layout.
        module: The module.
        example: Shape and type of its input.

    Raises:
        CheckpointError: If they are not; it names the first ones.
    """
    built.compare(leaves, _shapes(module, example), "its file")
    return trees.unflatten(
        {k: jnp.asarray(leaf.read(), jnp.float32) for k, leaf in leaves.items()}
    )


@functools.cache
def _shapes(module: Any, example: Any) -> dict[str, tuple[int, ...]]:
    found = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
    return {name: x.shape for name, x in trees.flatten(found).items()}
