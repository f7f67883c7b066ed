"""The small feature networks, heads and generator of `gdd_tiny_*`, read into ours.

Data: Zyriix/GDD at e9267e8 with torch 2.13 on a CPU in float32: its projector, heads,
loss object and loop on two small feature networks (average pooling, 1x1 convolution,
tanh, four times), of which `gdd_tiny_*` holds weights and results; the generator is
tanh(conv3x3(v / sqrt(1 + t^2))). That code is non-commercial; none of it is here.
Arrays "every" are strided: `picked` says how. Tolerances of the tests are ten times
what float32 and float64 of that code differ by, or less.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from loaders import DATA, from_torch

from kdiff_jax import features, methods
from kdiff_jax.diffusion import process
from kdiff_jax.features import frozen
from kdiff_jax.method import Net
from kdiff_jax.methods import gdd

NAMES = ("vgg16_bn", "tf_efficientnet_lite0")  # theirs; ours says efficientnet_lite0
OURS = ("vgg16_bn", "efficientnet_lite0")
NORMS = ((frozen.IMAGENET_MEAN, frozen.IMAGENET_STD), ((0.5,) * 3, (0.5,) * 3))
BATCH, CLASSES = 4, {"uncond": 0, "cond": 10}
WIDTH = {"uncond": 8, "cond": 4}


def load(name):
    with np.load(DATA / f"{name}.npz") as file:
        return dict(file)


@functools.cache
def data(case):
    return load(f"gdd_tiny_{case}"), load(f"gdd_tiny_{case}_weights")


def picked(array, num, every=1):
    """Every so many entries of an array in NCHW, as the data has them."""
    flat = np.asarray(array).reshape(-1)
    return flat[:: max(1, flat.size // num)][:num][::every]


def nchw(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def nhwc(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


def close(found, wanted, rel, share=1.0, at=""):
    """At least a share of the entries within `rel` of the largest."""
    error = np.abs(np.asarray(found, np.float64) - wanted)
    bound = rel * max(np.abs(wanted).max(), 1e-30)
    assert (error <= bound).mean() >= share, (at, error.max() / bound * rel)


def conv(x, kernel, bias, pad):
    out = lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    return out + bias[None, None, None]


def feature_network(k):
    """(params, images in [-1, 1]) -> four maps."""

    def features(params, images, dtype="float32"):
        assert dtype == "float32"
        x, maps = frozen.normalise(images, *NORMS[k]), []
        for i in range(4):
            if i:
                x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1)
                x = x.mean((2, 4))
            x = jnp.tanh(conv(x, params[f"{i}.weight"], params[f"{i}.bias"], 0))
            maps.append(x)
        return maps

    return features


def features_of(weights, name):
    start = f"feature.feature_networks.{name}.pretrained.layer"
    return {
        f"{i}.{leaf}": jnp.asarray(from_torch(weights[f"{start}{i}.1.{leaf}"]))
        for i in range(4)
        for leaf in ("weight", "bias")
    }


def head_path(name):
    """(network, path in our tree) of "discriminators.NAME.mini_discs.I. ..."."""
    _, network, _, head, *parts = name.split(".")
    leaf = {"weight_orig": "kernel", "weight_u": "u"}.get(parts[-1], parts[-1])
    match parts[:-1]:
        case ["main", i, "main", "0"]:
            module = f"conv_{i}"
        case ["main", i, "main", "1"]:
            module, leaf = f"norm_{i}", {"weight": "scale"}.get(leaf, leaf)
        case ["main", _] | ["cls"]:
            module = "last"
        case ["embed"]:
            module, leaf = "embedding", "embedding"
        case ["embed_proj"]:
            module, leaf = "condition", {"weight": "kernel"}.get(leaf, leaf)
    return OURS[NAMES.index(network)], (f"head_{head}", module, leaf)


def placed(arrays):
    """{"discriminators. ...": array} as a tree of ours: {network: {head: ...}}."""
    tree = {}
    for name, array in arrays.items():
        network, path = head_path(name)
        node = tree.setdefault(network, {})
        for part in path[:-1]:
            node = node.setdefault(part, {})
        table = path[-1] == "embedding"
        node[path[-1]] = jnp.asarray(array if table else from_torch(array))
    return tree


def looked_up(tree, name):
    """A leaf of ours in PyTorch's layout."""
    network, path = head_path(name)
    node = tree[network]
    for part in path:
        node = node[part]
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(node.ndim)
    table = path[-1] == "embedding"
    return np.asarray(node if table or not axes else node.transpose(axes))


def of_theirs(tree, name):
    """`looked_up`, or of the generator's "c.weight" and "c.bias"."""
    if not name.startswith("c."):
        return looked_up(tree, name)
    leaf = np.asarray(tree["kernel" if name == "c.weight" else "bias"])
    return leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf


def disc_params(weights):
    heads = {
        k.removeprefix("d."): v
        for k, v in weights.items()
        if k.startswith("d.") and not k.endswith("_u")
    }
    params = placed(heads)
    for ours, name in zip(OURS, NAMES, strict=True):
        start, mixing = f"feature.feature_networks.{name}.scratch.layer", {}
        for i in range(4):
            for ours_name, theirs in {"ccm": "ccm", "csm": "csm.out_conv"}.items():
                mixing[f"{ours_name}_{i}"] = {
                    leaf: jnp.asarray(from_torch(weights[f"{start}{i}_{theirs}.{end}"]))
                    for leaf, end in {"kernel": "weight", "bias": "bias"}.items()
                }
        params[ours]["projection"] = mixing
    return params


def states(arrays, prefix):
    return placed(
        {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    )


def method(case, monkeypatch, tmp_path, loss="nonsaturating"):
    """The project's own method on the small feature networks."""
    _, weights = data(case)
    for k, name in enumerate(OURS):
        params = features_of(weights, NAMES[k])
        own = {
            "features": feature_network(k),
            "load": lambda path, p=params: p,
            "shapes": lambda p=params: jax.eval_shape(lambda: p),
        }
        classifier = features.network(name, features.CLASSIFIER)
        for fact, value in own.items():
            monkeypatch.setattr(classifier, fact, value)
    # The noise comes as the keys, and no stream is drawn from it.
    monkeypatch.setattr(gdd.rng, "normal", lambda keys, name, shape: keys)
    monkeypatch.setattr(gdd.rng, "stream", lambda keys, name: keys)

    def apply(params, x_t, t, y):
        x = x_t / jnp.sqrt(1 + t**2)[:, None, None, None]
        return jnp.tanh(conv(x, params["kernel"], params["bias"], 1))

    student = Net(lambda key: {}, apply, None, (32, 32, 3), CLASSES[case])
    more = {}
    if case == "cond":
        more = dict(class_embedding_dim=12)
    return methods.make(
        "gdd",
        nets={"student": student, "teacher": student},
        process=process.edm(),
        loss=loss,
        features=OURS,
        feature_files=("", ""),
        width=WIDTH[case],
        virtual_local_batch=BATCH,
        **more,
    )
