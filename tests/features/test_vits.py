"""DINOv2 and CLIP's image towers against their reference implementations.

Data: `vits` has tiny networks of each kind with random weights, under the names of
DINOv2's hub and timm (1.0.31), open_clip (3.3) and transformers (5.24), and what they
give in float64. The stored positions of DINOv2 are of 5x5 patches.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax import metrics
from kdiff_jax.errors import CheckpointError
from kdiff_jax.features import frozen, names, network, vit_features
from kdiff_jax.features.vit import VisionTransformer

DATA = pathlib.Path(__file__).parents[1] / "parity/data"
TOWER = dict(rtol=0, atol=1e-5)  # of features of size 1; float32 against float64: 1e-6
DINO = VisionTransformer(48, 3, 4, 192, grid=5, scales=True)
CLIP = dict(grid=3, eps=1e-5)
L14 = VisionTransformer(32, 3, 4, 128, **CLIP, gelu="quick", out=24)
HF = VisionTransformer(32, 3, 4, 64, **CLIP, gelu="quick", out=24)
G14 = VisionTransformer(44, 3, 2, 192, **CLIP, out=20)
POSITIONS = {
    "hub_offset": "torch_bicubic_offset",
    "size": "torch_bicubic",
    "size_antialias": "bicubic",
}


@pytest.fixture(scope="module")
def data():
    with np.load(DATA / "vits.npz") as file:
        return dict(file)


def params(module, name, data, tmp_path, **more):
    start = f"{name}/params/"
    found = {k.removeprefix(start): v for k, v in data.items() if k.startswith(start)}
    np.savez(tmp_path / "w.npz", **found, **more)
    return vit_features.load(
        module, "a tower", network("clip").FILE, tmp_path / "w.npz"
    )


def apply(module, params, x):
    return module.apply({"params": params}, jnp.asarray(x.transpose(0, 2, 3, 1), "f4"))


@pytest.mark.parametrize(("how", "name"), POSITIONS.items())
def test_dinov2_with_positions_resized(how, name, data, tmp_path):
    module = DINO.clone(positions=name)
    weights = params(module, "dinov2_hub_names", data, tmp_path)
    for size in (56, 112):
        found = module.placed(weights["pos_embed"], (size // 14, size // 14))
        wanted = data[f"dinov2_{size}_{how}/pos_embed"]
        np.testing.assert_allclose(found, wanted, **TOWER)
    found = apply(module, weights, data["dinov2_56_hub_offset/x"])
    np.testing.assert_allclose(found, data[f"dinov2_56_{how}/cls"], **TOWER)


def test_transformers_dinov2_is_the_same_network(data, tmp_path):
    weights = params(DINO, "dinov2_hf", data, tmp_path)
    found = apply(DINO, weights, data["dinov2_56_hub_offset/x"])
    np.testing.assert_allclose(found, data["dinov2_hf_56/cls"], **TOWER)


@pytest.mark.parametrize(
    ("module", "name", "key"),
    [
        (L14, "clip_l14", "features"),
        (G14, "clip_g14", "features"),
        (HF, "clip_hf", "image_embeds"),
    ],
)
def test_clip(module, name, key, data, tmp_path):
    weights = params(module, name, data, tmp_path)
    found = apply(module, weights, data[f"{name}/x"])
    np.testing.assert_allclose(found, data[f"{name}/{key}"], **TOWER)


def test_only_the_image_tower_of_a_whole_clip_is_read(data, tmp_path):
    start = "clip_l14/params/"
    whole = {k.replace(start, "whole/params/visual."): v for k, v in data.items()}
    weights = params(L14, "whole", whole, tmp_path, logit_scale=np.ones((), "f4"))
    found = apply(L14, weights, data["clip_l14/x"])
    np.testing.assert_allclose(found, data["clip_l14/features"], **TOWER)
    with pytest.raises(CheckpointError, match=r"blocks\.2\..* missing"):
        less = {k: v for k, v in data.items() if "resblocks.2" not in k}
        params(L14, "clip_l14", less, tmp_path)


def test_extractors_prepare_images_as_their_networks_do(data, monkeypatch):
    with np.load(DATA / "resizes.npz") as file:
        resized = dict(file)
    seen = []

    def spied(self, variables, x):
        seen.append(np.asarray(x))
        return jnp.ones((len(x), self.out or self.width))

    monkeypatch.setattr(VisionTransformer, "apply", spied)
    images = jnp.asarray(resized["96x64/image"])[None]
    found = vit_features.clip(L14).extract({}, images, "clip")
    np.testing.assert_allclose(found["unit"], 24**-0.5, rtol=1e-5)
    every = seen[-1][0, ::7, ::7]
    # A level of 255 is 0.015 here.
    wanted = resized["96x64/clip_normalised_every7"]
    np.testing.assert_allclose(every, wanted, rtol=0, atol=0.016)
    mean, std = np.array(frozen.IMAGENET_MEAN), np.array(frozen.IMAGENET_STD)
    for name, key in (
        ("edm2", "torch_bicubic_antialias_224_every7"),
        ("dgm-eval", "pil_224_square_every7"),
    ):
        vit_features.dinov2(DINO).extract({}, images, name)
        every = seen[-1][0, ::7, ::7] * std + mean
        wanted = resized[f"96x64/{key}"]
        wanted = wanted / 255 if wanted.max() > 2 else wanted
        np.testing.assert_allclose(every, wanted, rtol=0, atol=1.01 / 255)


@pytest.mark.parametrize(
    ("name", "published"),
    [  # of the image tower alone
        ("dinov2", 304_368_640),
        ("dinov2_base", 86_580_480),
        ("clip", 303_966_208),
        ("clip_g", 1_012_650_000),
    ],
)
def test_sizes_are_the_published_ones(name, published):
    shapes = frozen.shapes(network(name).NETWORK)
    num = sum(np.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert num == pytest.approx(published, rel=1e-3)
    assert name in names() and metrics.figure_name(name, "fd") == f"fd_{name}"
