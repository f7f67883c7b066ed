"""A model as a folder: `model.safetensors`, `config.json`, `README.md`.

The config is the model's spec: a dict of plain values from which the network, its
preconditioning and its process are built, so that loading executes no code.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from kdiff_jax import __version__, denoiser, models, samplers
from kdiff_jax.diffusion import process as processes
from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import training
from kdiff_jax.interop.trees import flatten, unflatten
from kdiff_jax.method import Net
from kdiff_jax.samplers import Sampler

WEIGHTS, SPEC, CARD = "model.safetensors", "config.json", "README.md"


@dataclasses.dataclass(frozen=True)
class Model:
    """A denoiser with its parameters.

    Attributes:
        net: The pure functions.
        params: Their parameters, float32.
        process: The forward process; its times are the model's own.
        spec: Network, preconditioning, process, image shape, classes, default sampler.
    """

    net: Net
    params: Any
    process: Process
    spec: Mapping[str, Any]

    def apply(self, x_t, t, y=None):
        """x0_hat, float32 NHWC in [-1, 1].

        Args:
            x_t: f32[B, H, W, C], noised images.
            t: f32[B] or a number, in the model's own time (EDM: sigma; DDPM: index).
            y: i32[B] labels, or None for a model without classes.
        """
        x_t = jnp.asarray(x_t, jnp.float32)
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (len(x_t),))
        y = jnp.zeros(len(x_t), jnp.int32) if y is None else jnp.asarray(y, jnp.int32)
        return self.net.apply(self.params, x_t, t, y)

    def sampler(self, name: str | None = None, num_steps: int | None = None) -> Sampler:
        """The model's own sampler, another one, or its own with other steps."""
        keywords = dict(self.spec["sampler"])
        if name and name != keywords["name"]:
            keywords = {"name": name, "num_steps": keywords["num_steps"]}
        if num_steps:
            keywords["num_steps"] = num_steps
        return samplers.make(process=self.process, **keywords)

    @property
    def num_params(self) -> int:
        return sum(x.size for x in jax.tree.leaves(self.params))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.spec["image_shape"])

    @property
    def num_classes(self) -> int:
        return self.spec["num_classes"]


def build(spec: Mapping[str, Any]) -> tuple[Net, Process]:
    """The network (as pure functions) and the process that a spec describes.

    Args:
        spec: {"network": {"name", ...}, "precondition": {"name", ...}, "process":
            {"name", ...}, "image_shape": [H, W, C], "num_classes": int,
            "augment_dim": int}.
    """
    channels = spec["image_shape"][-1]
    num_classes, augment_dim = spec["num_classes"], spec.get("augment_dim", 0)
    network, precondition = spec["network"], dict(spec["precondition"])
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in network.items()
    }
    module = models.make(
        **fields,
        out_channels=channels * (2 if precondition["name"] in ("both", "iddpm") else 1),
        num_classes=num_classes,
        augment_dim=augment_dim,
    )
    process = processes.make(**spec["process"])
    name = precondition.pop("name")
    net = denoiser.make(
        module,
        process,
        precondition=name,
        image_shape=tuple(spec["image_shape"]),
        num_classes=num_classes,
        augment_dim=augment_dim,
        **precondition,
    )
    return net, process


def save(folder, *, params, spec: Mapping[str, Any], card: str = "") -> pathlib.Path:
    """Writes a model folder; an interrupted call leaves no half-written model.

    Args:
        folder: Made where it does not exist; a model in it is replaced.
        params: Tree of arrays.
        spec: See `build`; facts of the model's origin may be added.
        card: Markdown for people.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    blob = safetensors.numpy.save(
        {k: np.ascontiguousarray(v) for k, v in flatten(params).items()}
    )
    spec = {
        **spec,
        "sha256": hashlib.sha256(blob).hexdigest(),
        "kdiff_jax": __version__,
    }
    # The spec comes last: a folder without it holds no model.
    (folder / SPEC).unlink(missing_ok=True)
    _write(folder / WEIGHTS, blob)
    _write(folder / CARD, card.encode())
    _write(folder / SPEC, json.dumps(spec, indent=1).encode())
    return folder


def load(path) -> Model:
    """Reads a model: a model folder, a stage folder of a workdir, or a step in it.

    A stage folder without a model gives the newest valid step; the log names those that
    were passed over.

    Raises:
        CheckpointError: If nothing loadable is there, or it is damaged. One line.
    """
    path = pathlib.Path(path)
    for folder in (path, path / "model"):
        if (folder / SPEC).is_file() and (folder / WEIGHTS).is_file():
            return _load_folder(folder)
    if (found := training.find(path)) is not None:
        spec, params = training.load(*found)
        net, process = build(spec)
        return Model(net, _checked(params, net, path), process, spec)
    raise CheckpointError(
        f"checkpoint={str(path)!r} holds no model; give a stage folder of a workdir, a"
        f" step in its checkpoints/, or a folder with {WEIGHTS} and {SPEC}"
    )


def _load_folder(folder: pathlib.Path) -> Model:
    try:
        spec = json.loads((folder / SPEC).read_text())
        net, process = build(spec)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / SPEC} is not a model's spec: {error}"
        ) from error
    blob = (folder / WEIGHTS).read_bytes()
    found = hashlib.sha256(blob).hexdigest()
    if found != spec["sha256"]:
        raise CheckpointError(
            f"{folder / WEIGHTS} has sha256 {found[:12]}..., expected"
            f" {spec['sha256'][:12]}...; it is damaged: copy or train it again"
        )
    params = unflatten(safetensors.numpy.load(blob))
    return Model(net, _checked(params, net, folder), process, spec)


def _checked(params, net: Net, where):
    """The params as device arrays; an error names the first leaves that differ."""
    expected = flatten(jax.eval_shape(net.init, jax.random.key(0)))
    given = flatten(params)
    wrong = [f"{k} is missing" for k in expected if k not in given]
    wrong += [f"{k} is not expected" for k in given if k not in expected]
    wrong += [
        f"{k} is {given[k].shape}, expected {expected[k].shape}"
        for k in expected.keys() & given.keys()
        if given[k].shape != expected[k].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise CheckpointError(
            f"{where} does not fit its spec: {'; '.join(sorted(wrong)[:10])}{more}"
        )
    return jax.tree.map(jnp.asarray, params)


def _write(path: pathlib.Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
