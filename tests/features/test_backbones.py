"""Frozen networks against definitions in torch's functions; sizes and files.

Data: `frozen_features` is what definitions of the same networks, written with nothing
but `torch.nn.functional`, give for the images and the weights that are made here (torch
2.13.0, float64; LPIPS float32). Weights are functions of their names, so that a wrong
name is a wrong value. `torch_wrapped.pth` is {"model": {"head.weight": 0 .. 5}}.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import named_weights
import numpy as np
import pytest
from flax import traverse_util
from tolerance import LOSS, REORDER

from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.features import alex, efficientnet_lite0, frozen, lpips, vgg, vgg16_bn
from kdiff_jax.features import deit_base_distilled as deit
from kdiff_jax.features.squeeze import SqueezeNet

DATA = pathlib.Path(__file__).parents[1] / "parity/data"
PLAIN = vgg.VGG16(taps=(29,))
NETWORKS = {
    "vgg16_bn": (vgg16_bn, vgg16_bn.BN),
    "efficientnet": (efficientnet_lite0, efficientnet_lite0.LITE0),
    "deit": (deit, deit.BASE),
}


def torch_shapes(module):
    """{name: shape} of PyTorch's, spelled out here once more."""
    images = jnp.zeros((1, 224, 224, 3))
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), images))["params"]
    shapes = {}
    for (*modules, leaf), x in traverse_util.flatten_dict(params).items():
        shape = x.shape
        if leaf == "kernel":
            axes = (3, 2, 0, 1) if len(shape) == 4 else (1, 0)
            shape = tuple(shape[axis] for axis in axes)
        if leaf in ("kernel", "scale"):
            leaf = "weight"
        elif leaf in ("mean", "var"):
            leaf = f"running_{leaf}"
        shapes[".".join([*modules, leaf])] = shape
    return shapes


def arrays(module):
    return {k: named_weights.tensor(k, s) for k, s in torch_shapes(module).items()}


@pytest.fixture(scope="module")
def data():
    with np.load(DATA / "frozen_features.npz") as file:
        return dict(file)


def linear(*widths):
    return sum((n + 1) * m for n, m in zip(widths, widths[1:], strict=False))


@pytest.mark.parametrize(
    ("module", "published", "rest"),
    [  # what the whole network has, and what of it is no feature
        (PLAIN, 138_357_544, linear(7 * 7 * 512, 4096, 4096, 1000)),
        (vgg16_bn.BN, 138_365_992, linear(7 * 7 * 512, 4096, 4096, 1000)),
        (alex.AlexNet(), 61_100_840, linear(6 * 6 * 256, 4096, 4096, 1000)),
        (SqueezeNet(), 1_235_496, linear(512, 1000)),
        # A convolution with a norm, and the classifier.
        (
            efficientnet_lite0.LITE0,
            4_652_008,
            320 * 1280 + 2 * 1280 + linear(1280, 1000),
        ),
        # The last norm and two classifiers.
        (deit.BASE, 87_338_192, 2 * 768 + 2 * linear(768, 1000)),
    ],
    ids="vgg16 vgg16_bn alexnet squeezenet efficientnet deit".split(),
)
def test_sizes_are_the_published_ones(module, published, rest):
    shapes = torch_shapes(module)
    trained = [shape for name, shape in shapes.items() if "running" not in name]
    assert sum(int(np.prod(shape)) for shape in trained) + rest == published


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_those_of_torch(name, data, tmp_path):
    source, module = NETWORKS[name]
    path = tmp_path / "w.npz"
    np.savez(path, **arrays(module), **{"features.1.num_batches_tracked": np.array(7)})
    params = source.load(path)
    path.unlink()
    images = np.random.default_rng(0).uniform(-1, 1, (1, 24, 20, 3))
    found = jax.jit(source.features)(params, jnp.asarray(images, jnp.float32))
    shapes = {
        "vgg16_bn": [(112, 128), (56, 256), (28, 512), (14, 512)],
        "efficientnet": [(56, 24), (28, 40), (14, 112), (7, 320)],
        "deit": [(14, 768)] * 4,
    }[name]
    assert [x.shape for x in found] == [(1, size, size, c) for size, c in shapes]
    # Float32 against float64: torch's own is 2.5e-4 away in the last of EfficientNet,
    # whose products of 26 layers cancel, and 3e-5 elsewhere; ours 1.4e-4 and 1e-5.
    noise = 5e-4 if name == "efficientnet" else 3e-5
    for i, x in enumerate(found):
        x = np.asarray(x, np.float64).reshape(-1)
        mean, std = data[f"{name}/moments{i}"]
        atol = noise * std
        np.testing.assert_allclose([x.mean(), x.std()], [mean, std], rtol=0, atol=atol)
        wanted = data[f"{name}/{i}"]
        np.testing.assert_allclose(
            x[:: x.size // 199], wanted, rtol=0, atol=atol, err_msg=f"feature {i}"
        )


@pytest.mark.parametrize(
    ("net", "module"), [("alex", alex.AlexNet()), ("squeeze", SqueezeNet())]
)
def test_lpips_of_the_other_backbones_is_torchs(net, module, data, tmp_path):
    weights, heads = tmp_path / "w.npz", tmp_path / "heads.npz"
    np.savez(weights, **arrays(module))
    channels = lpips.backbone(net).channels
    names = [f"lin{i}.model.1.weight" for i in range(len(channels))]
    np.savez(
        heads,
        **{
            name: named_weights.lpips_head(name, (1, c, 1, 1))
            for name, c in zip(names, channels, strict=True)
        },
    )
    params = lpips.load(net, weights, heads)
    distance = functools.partial(lpips.distance, net=net, resize=None)
    # Poolings of both kinds meet sizes that they do not divide.
    x, target = (
        jnp.asarray(
            np.random.default_rng(seed).uniform(-1, 1, (2, 66, 53, 3)), jnp.float32
        )
        for seed in (1, 2)
    )
    wanted = data[f"lpips_{net}"]
    by_layer = jax.jit(lpips.layers, static_argnums=(0, 4))(
        net, params, x, target, None
    )
    np.testing.assert_allclose(by_layer, wanted, **LOSS)
    np.testing.assert_allclose(
        jax.jit(distance)(params, x, target), wanted.sum(axis=1), **LOSS
    )


def test_state_dicts_inside_of_checkpoints_are_found(tmp_path):
    found = frozen.read("weights", DATA / "torch_wrapped.pth", "another")
    assert list(found) == ["head.weight"]
    np.testing.assert_array_equal(found["head.weight"].read(), [[0, 1, 2], [3, 4, 5]])


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "w.pth"

    def refused(source, match):
        with pytest.raises(CheckpointError, match=match) as caught:
            source.load(path)
        assert "\n" not in str(caught.value) and caught.value.exit_code == 4

    refused(
        vgg16_bn, "weights=.*w.pth: no such file; give torchvision's vgg16_bn-6c64b313"
    )
    refused(efficientnet_lite0, "no such file; give timm's tf_efficientnet_lite0")
    refused(deit, "no such file; give timm's deit_base_distilled_patch16_224")
    path.write_bytes((DATA / "torch_wrapped.pth").read_bytes())
    refused(
        deit,
        r"not DeiT-B distilled: blocks.0.attn.proj.bias missing.* and 146 more;",
    )
    refused(vgg16_bn, r"not VGG16-BN: features\.0\.bias missing")
    path.write_bytes(b"<html>")
    refused(vgg16_bn, "w.pth: it is a web page")
    path = tmp_path / "w.npz"
    wrong = arrays(efficientnet_lite0.LITE0)
    # The plain EfficientNet has squeeze-and-excitation; the width of another one.
    wrong["blocks.1.0.se.conv_reduce.bias"] = np.zeros(3)
    wrong["conv_stem.weight"] = np.zeros((40, 3, 3, 3))
    np.savez(path, **wrong)
    refused(
        efficientnet_lite0,
        r"blocks\.1\.0\.se\.conv_reduce\.bias unknown, conv_stem\.weight has shape"
        r" \(40, 3, 3, 3\); give",
    )


def test_large_images_are_resized_without_antialiasing():
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 1)).astype(np.float32)
    blocks = x.reshape(1, 2, 2, 2, 2, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(frozen.resize(jnp.asarray(x), 2), blocks, **REORDER)


@pytest.mark.parametrize("name", NETWORKS)
def test_grey_images_are_refused(name):
    with pytest.raises(ConfigError, match=r"images=\(1, 8, 8, 1\): .* reads RGB"):
        NETWORKS[name][0].features({}, jnp.zeros((1, 8, 8, 1)))
