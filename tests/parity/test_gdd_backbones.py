"""VGG16-BN, EfficientNet-Lite0 and DeiT-B as GDD's code reads them, at full size.

Data: torchvision 0.28 and timm 0.5.4 in the wrapper of Zyriix/GDD at e9267e8, on a CPU:
images of 32 or 64 pixels to 224, features as its projector reads them: 600 strided
entries of each (NCHW; DeiT's also as tokens) in float64, mean and deviation. For the
first two networks also what the projector makes of them (float32), and the logits
(float64). Weights are functions of their names.
"""

import functools

import jax
import jax.numpy as jnp
import named_weights
import numpy as np
import pytest
from flax import traverse_util
from gdd_tiny import close, nchw, nhwc, picked
from loaders import DATA

from kdiff_jax.discriminators import projected, spectral
from kdiff_jax.features import deit_base_distilled as deit
from kdiff_jax.features import efficientnet_lite0, frozen, vgg16_bn

NETWORKS = {
    "vgg16_bn": (vgg16_bn, vgg16_bn.BN),
    "tf_efficientnet_lite0": (efficientnet_lite0, efficientnet_lite0.LITE0),
    "deit_base_distilled_patch16_224": (deit, deit.BASE),
}
# Ten times what float32 and float64 of the reference differ by, of the largest entry.
MAPS = {
    "vgg16_bn": (5e-5,) * 4,
    "tf_efficientnet_lite0": (7e-5, 7e-5, 3e-4, 2e-3),
    "deit_base_distilled_patch16_224": (5e-5,) * 4,
}
LOGITS, STATE = 2e-3, 3e-6


def load(name):
    with np.load(DATA / f"gdd_full_{name}.npz") as file:
        return dict(file)


def features(name, images):
    source, module = NETWORKS[name]
    blank = jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), blank))["params"]
    params = {}
    for leaf, shape in traverse_util.flatten_dict(shapes).items():
        theirs = frozen._torch_shape(leaf, shape.shape)
        array = named_weights.tensor(frozen.torch_name(leaf), theirs)
        if leaf[-1] == "kernel":
            array = array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))
        params[leaf] = jnp.asarray(array)
    params = traverse_util.unflatten_dict(params)
    return jax.jit(source.features)(params, images)


def check(found, data, key, rel):
    wanted = data[f"{key}_f64" if f"{key}_f64" in data else key]
    close(picked(found, 600), wanted, rel, at=key)
    mean, std = data[f"{key}_moments"]
    found = np.asarray(found, np.float64)
    moments = [found.mean(), found.std()]
    np.testing.assert_allclose(moments, [mean, std], rtol=0, atol=10 * rel * std)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "name"), list(enumerate(NETWORKS)))
def test_features_of_64_pixels(k, name):
    data = load("features_64")
    maps = features(name, nhwc(data["images"]))
    if name.startswith("deit"):
        for i, x in enumerate(maps):
            tokens = np.asarray(x).reshape(1, 196, -1)
            check(tokens, data, f"tokens/{k}/{i}", MAPS[name][i])
        params = {"params": pyramid_params(name, maps)}
        maps = projected.Pyramid(deit.PYRAMID).apply(params, maps)
    for i, x in enumerate(maps):
        check(nchw(x), data, f"maps/{k}/{i}", 2 * MAPS[name][i])


def pyramid_params(network, maps):
    """The neck by the names of the authors' modules, which count from 1 here."""

    def leaf_of(path, leaf):
        module, end = (step.key for step in path)
        kind, number = module.split("_")
        name = f"{network}.pretrained.layer{int(number) + 1}.{3 if kind == 'to' else 4}"
        if end == "bias":
            return jnp.asarray(named_weights.tensor(f"{name}.bias", leaf.shape))
        high, wide, inside, outside = leaf.shape
        if kind != "up":
            shape = (outside, inside, high, wide)
            array = named_weights.tensor(f"{name}.weight", shape).transpose(2, 3, 1, 0)
        else:  # PyTorch's transposed ones have the inputs first and count backwards
            shape = (inside, outside, high, wide)
            array = named_weights.tensor(f"{name}.weight", shape)
            array = array.transpose(2, 3, 0, 1)[::-1, ::-1]
        return jnp.asarray(array)

    module = projected.Pyramid(deit.PYRAMID)
    shapes = jax.eval_shape(module.init, jax.random.key(0), maps)
    return jax.tree_util.tree_map_with_path(leaf_of, shapes["params"])


def full_params(shapes, network):
    """Heads and mixing by the names of the authors' modules."""

    def leaf_of(path, leaf):
        part, module, end = (step.key for step in path)
        kind, number = module.rsplit("_", 1) if "_" in module else (module, "")
        last = {"kernel": "weight_orig", "scale": "weight"}.get(end, end)
        if part == "projection":
            inside = {"ccm": "layer{}_ccm", "csm": "layer{}_csm.out_conv"}[kind]
            end = {"kernel": "weight"}.get(end, end)
            name = f"{network}.scratch.{inside.format(number)}.{end}"
        else:
            head = int(part.split("_")[1])
            if module == "last":
                inside = f"main.{4 - head}"
            else:
                inside = f"main.{number}.main.{int(kind == 'norm')}"
            name = f"{network}.mini_discs.{head}.{inside}.{last}"
        shape = leaf.shape
        if len(shape) == 4:
            shape = (shape[3], shape[2], *shape[:2])
        if end == "u":
            name = name.replace(".u", ".weight_u")
        array = named_weights.tensor(name, shape)
        if end == "u":
            array = array / np.linalg.norm(array)
        return jnp.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)

    return jax.tree_util.tree_map_with_path(leaf_of, shapes)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "name"), list(enumerate(NETWORKS))[:2])
def test_discriminator_at_full_size(k, name):
    data = load("vgg_effnet_uncond")
    maps = features(name, nhwc(data["images"][0]))
    for i, x in enumerate(maps):
        check(nchw(x), data, f"maps/{k}/{i}", MAPS[name][i])
    module = projected.Discriminator(group=2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), maps)
    params = full_params(shapes["params"], name)
    state = full_params(shapes[spectral.STATE], name)
    mixed = projected.Projection((64, 128, 256, 512)).apply(
        {"params": params["projection"]}, maps
    )
    for i, x in enumerate(mixed):
        check(nchw(x), data, f"proj/{k}/{i}", 10 * 6e-5)
    variables = {"params": params, spectral.STATE: state}
    judge = jax.jit(functools.partial(module.apply, mutable=[spectral.STATE]))
    logits, changed = judge(variables, maps)
    close(logits, data[f"logits/{k}_f64"], LOGITS, at=f"logits/{k}")
    for key, wanted in data.items():
        if key.startswith("u1/") and f".{name}." in key:
            head, _, inside, *_ = key.split("mini_discs.")[1].split(".")
            place = "last" if int(inside) == 4 - int(head) else f"conv_{inside}"
            found = changed[spectral.STATE][f"head_{head}"][place]["u"]
            close(picked(found, wanted.size), wanted, STATE, at=key)
