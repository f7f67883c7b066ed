"""The CIFAR ResNet against an independent numpy forward, and its counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_resnet
from tolerance import REORDER, UNET

from kdiff_jax.errors import ConfigError
from kdiff_jax.features import resnet56
from kdiff_jax.features.resnet56 import ResNet


def _params(arrays):
    """Flax's tree of PyTorch's arrays, spelled out here once more."""
    params = {}
    for name, array in arrays.items():
        *modules, leaf = name.split(".")
        if modules[0].startswith("layer"):
            modules = [".".join(modules[:2]), *modules[2:]]
        node = params
        for module in modules:
            node = node.setdefault(module, {})
        if leaf == "weight":
            leaf = "scale" if array.ndim == 1 else "kernel"
        axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim]
        node[leaf.removeprefix("running_")] = jnp.asarray(array.transpose(axes))
    return params


def test_forward_is_numpys():
    rng = np.random.default_rng(0)
    arrays = torch_resnet.random_weights(rng, num_blocks=1, num_classes=7)
    # An odd size: "SAME" padding would sample other pixels at stride 2.
    x = rng.normal(size=(2, 10, 10, 3)).astype(np.float32)
    features, logits, maps = ResNet(num_blocks=1, num_classes=7).apply(
        {"params": _params(arrays)}, jnp.asarray(x)
    )
    wanted = torch_resnet.forward(arrays, x.transpose(0, 3, 1, 2), num_blocks=1)
    np.testing.assert_allclose(features, wanted[0], **REORDER)
    np.testing.assert_allclose(logits, wanted[1], **REORDER)
    stages = torch_resnet.stages(arrays, x.transpose(0, 3, 1, 2), num_blocks=1)
    for found, stage in zip(maps, stages, strict=True):
        np.testing.assert_allclose(found, stage.transpose(0, 2, 3, 1), **REORDER)


def test_features_of_a_file_are_numpys(tmp_path):
    rng = np.random.default_rng(1)
    arrays = torch_resnet.random_weights(rng, num_blocks=9)
    np.savez(tmp_path / "w.npz", **arrays)
    params = resnet56.load(tmp_path / "w.npz")
    images = rng.uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((images + 1) / 2 - mean) / std
    wanted = torch_resnet.stages(arrays, x.transpose(0, 3, 1, 2), num_blocks=9)
    found = jax.jit(resnet56.features)(params, jnp.asarray(images))
    assert [x.shape for x in found] == [(1, 32, 32, 16), (1, 16, 16, 32), (1, 8, 8, 64)]
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), **UNET)
    # Constant images are the same at any size: others are resized.
    small, large = (
        jax.jit(resnet56.features)(params, jnp.full((1, size, size, 3), 0.3))
        for size in (8, 32)
    )
    for one, two in zip(small, large, strict=True):
        np.testing.assert_allclose(one, two, **UNET)
    with pytest.raises(ConfigError, match="ResNet-56 reads RGB"):
        resnet56.features(params, jnp.zeros((1, 8, 8, 1)))


def test_resnet56_has_its_published_size():
    shapes = jax.eval_shape(
        lambda: ResNet().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    )
    leaves = jax.tree.leaves_with_path(shapes)
    trained = [leaf for path, leaf in leaves if path[-1].key not in ("mean", "var")]
    # He et al. 2016, Table 6: 0.85 M.
    assert sum(leaf.size for leaf in trained) == 853_018
    assert sum(leaf.ndim == 4 for leaf in trained) + 1 == 56
