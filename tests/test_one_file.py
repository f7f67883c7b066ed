"""A network, a source, a feature network and a family: each is added by its file alone.

What a method, a sampler and a metric need is in test_pages.py, from their pages.
"""

import importlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import points
import pytest
from safetensors.numpy import save_file

from kdiff_jax import interop, recipe
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import convert
from kdiff_jax.interop.trees import flatten

ONE = jax.devices()[:1]
# All that is written to add each: package -> (name of the file, its text).
FILES = {
    "networks": (
        "waves",
        """
import flax.linen as nn
import jax.numpy as jnp

from kdiff_jax.arguments import Count
from kdiff_jax.networks.network import Network

REVISION = 1


class Waves(Network):
    channels: Count = 8
    channel_mult: tuple[Count, ...] = (1,)
    num_blocks: Count = 1
    attn_resolutions: tuple[Count, ...] = ()
    turns: float = 2.0

    @nn.compact
    def trunk(self, x, c_noise, cond, keys):
        h = jnp.concatenate([x[:, 0, 0], c_noise[:, None], cond.rows], axis=-1)
        h = nn.Dense(self.channels, dtype=self.dtype, name="waves")(h)
        h = jnp.sin(self.turns * h)
        out = nn.Dense(self.out_channels, dtype=self.dtype, name="out")(h)
        maps = [h[:, None, None]] * 2
        return out[:, None, None].astype(jnp.float32), maps, maps[:1]


make = Waves
""",
    ),
    "data": (
        "ring",
        """
import numpy as np

from kdiff_jax.arguments import Count
from kdiff_jax.data.images import from_array, refuse


def load(*, path: str | None, split: str, size: int | None, num_images: Count = 64):
    refuse("ring", path=path, split=split)
    labels = np.arange(num_images) % 8
    turn = 2 * np.pi * labels / 8
    rows = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    bytes_of = np.uint8(np.round(127.5 + 100 * rows))[:, None, None]
    return from_array(bytes_of, labels, num_classes=8, name="ring")
""",
    ),
    "features": (
        "sums",
        """
import jax.numpy as jnp
import numpy as np

from kdiff_jax.features import Extractor, WeightsFile

FILE = WeightsFile("sums.npz", "this test")


def load(path):
    return {"w": jnp.asarray(np.load(path)["w"])}


def extract(params, images, preprocessing):
    rows = images.reshape(len(images), -1).astype(jnp.float32) / 127.5 - 1
    return {"sums": rows @ params["w"]}


EXTRACTOR = Extractor({"sums": 3}, "sums", extract, channels=None)
""",
    ),
    "interop": (
        "wavy",
        """
from kdiff_jax.interop.source import Source

FOLDERS = False


def matches(content):
    return all(str(name).startswith("wavy.") for name in content)


def convert(content, facts):
    leaves = {k.removeprefix("wavy.").replace(".", "/"): v for k, v in content.items()}
    width = leaves["out/kernel"].shape[0]
    spec = dict(
        network=dict(name="mlp", channels=width, num_blocks=2),
        precondition=dict(name="v"),
        process=dict(name="cosine"),
        sampler=facts.choose_sampler("ddim", 4),
        image_shape=(1, 1, 2),
        num_classes=8,
    )
    return Source(spec, {k.replace("out", "dense_out"): v for k, v in leaves.items()})
""",
    ),
}


@pytest.fixture
def added(tmp_path, monkeypatch):
    """(package name) -> its one file is written, and the package looks there, too."""

    def add(package):
        name, text = FILES[package]
        folder = tmp_path / f"of_{package}"
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        full = f"kdiff_jax.{package}"
        paths = [*importlib.import_module(full).__path__, str(folder)]
        monkeypatch.setattr(sys.modules[full], "__path__", paths)
        importlib.invalidate_caches()
        made.append((package, name))
        return name

    made = []
    yield add
    for package, name in made:
        sys.modules.pop(f"kdiff_jax.{package}.{name}", None)
        vars(sys.modules[f"kdiff_jax.{package}"]).pop(name, None)


def config(stages, **sections):
    points.recipes.load("digits_student", "tiny")
    from configs import common

    found = points.sections()
    for name, section in sections.items():
        found[name] = found.get(name, {}) | section
    order = tuple(stages)
    found |= dict(stages=stages, order=order, train=common.tiny_train())
    return common.config("one_file", **found)


def rows(folder):
    return json.loads((folder / "report.json").read_text())["rows"]


TEACHER = dict(
    method=dict(name="denoise"),
    optim=points.OPTIM,
    train=dict(num_steps=2, batch_size=8),
)
EVALUATE = dict(kind="evaluate", models=("teacher",))


def test_a_network_a_source_and_a_feature_network_in_a_recipe(added, tmp_path):
    weights = tmp_path / "sums.npz"
    np.savez(weights, w=np.ones((2, 3), np.float32))
    network, data, features = map(added, ("networks", "data", "features"))
    found = config(
        dict(teacher=TEACHER, evaluate=EVALUATE),
        data=dict(name=data, num_images=32),
        model=dict(network=dict(name=network, turns=3.0)),
        evaluate=dict(num_images=16, features=features, weights=str(weights)),
    )
    recipe.run(found, tmp_path / "run", devices=ONE)
    (row,) = rows(tmp_path / "run")
    assert np.isfinite(row["metrics"]["fd_sums"])
    model = interop.load(tmp_path / "run/teacher")
    assert model.spec.network.name == network and model.spec.revision == 1
    assert model.params["waves"]["kernel"].shape[1] == 8
    assert model.spec.network.keywords["turns"] == 3
    x0_hat = model.apply(np.ones((2, 1, 1, 2), np.float32), 0.5, np.array([0, 7]))
    assert np.isfinite(x0_hat).all()


def test_a_family_of_checkpoints_as_teacher_and_converted(added, tmp_path):
    spec = interop.Spec.of(points.sections()["model"])
    net, _ = interop.build(spec)
    params = net.init(jax.random.key(0))
    names = {k.replace("dense_out", "out"): v for k, v in flatten(params).items()}
    file = tmp_path / "theirs.safetensors"
    arrays = {f"wavy.{k.replace('/', '.')}": np.asarray(v) for k, v in names.items()}
    save_file(arrays, file)
    with pytest.raises(CheckpointError, match="holds no network known here"):
        interop.load(file)

    added("interop")
    lines = convert.run(file, tmp_path / "ours")
    assert isinstance(lines, list)
    x_t, y = jnp.ones((3, 1, 1, 2)), jnp.array([0, 3, 7])
    expected = net.apply(params, x_t, jnp.full(3, 0.5), y)
    for path in (file, tmp_path / "ours"):
        model = interop.load(path)
        assert model.spec.source.family == "wavy"
        np.testing.assert_allclose(model.apply(x_t, 0.5, y), expected, atol=1e-6)
    # The family is one that the commands name.
    with pytest.raises(CheckpointError, match="of the family 'wavy'; leave it out"):
        interop.load(file, source="edm")

    found = config(
        dict(evaluate=EVALUATE), evaluate=dict(num_images=16, features="pixels")
    )
    found.init.teacher = str(file)
    recipe.run(found, tmp_path / "run", devices=ONE)
    assert [row["role"] for row in rows(tmp_path / "run")] == ["teacher"]
