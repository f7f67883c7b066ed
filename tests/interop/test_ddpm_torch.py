"""DDPM's state dicts in PyTorch become the models that they are.

Data: a small network with random weights, computed in PyTorch 2.13.0 by a functional
definition of our own after Ho et al. 2020, appendix B, under the public names; each
weight is drawn from a seed that is its name.
"""

import functools
import json
import pathlib
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
import streams
from tolerance import UNET

from kdiff_jax import interop
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import containers, lazy
from kdiff_jax.interop import ddpm_torch
from kdiff_jax.interop.source import Facts

DATA = pathlib.Path(__file__).parents[1] / "parity" / "data"


@functools.cache
def reference():
    """(arrays, state dict) of the definition in torch."""
    with np.load(DATA / "ddpm_torch.npz") as file:
        data = dict(file)
    state = {}
    for name, shape in json.loads(str(data["shapes"])).items():
        value = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
        if len(shape) > 1:
            value /= np.sqrt(np.prod(shape[1:]))
        elif "norm" in name and name.endswith("weight"):
            value = 1 + 0.2 * value
        else:
            value *= 0.1
        state[name] = value.astype(np.float32)
    return data, state


def write(path, wrap):
    tensors = streams.Tensors()
    path.write_bytes(streams.torch_zip(wrap(tensors), tensors))
    return path


def test_the_network_is_that_of_the_definition(tmp_path):
    data, state = reference()
    path = write(
        tmp_path / "model.ckpt", lambda tensor: {k: tensor(v) for k, v in state.items()}
    )
    model = interop.load(path, facts=Facts(image_size=16))
    t = jnp.asarray(data["t"])
    x_t = jnp.moveaxis(jnp.asarray(data["x"]), 1, -1)
    x0_hat = model.apply(x_t, t)
    alpha, sigma = (f(t)[:, None, None, None] for f in model.process[1:3])
    eps = (x_t - alpha * x0_hat) / sigma
    np.testing.assert_allclose(eps, np.moveaxis(data["eps"], 1, -1), **UNET)


def test_the_average_of_ermongroup_s_list_is_taken(tmp_path):
    """[model, optimizer, epoch, step, average]; the model's names have "module."."""
    _, state = reference()

    def wrap(tensor):
        raw = {f"module.{k}": tensor(v + 1) for k, v in state.items()}
        average = {k: tensor(v) for k, v in state.items()}
        return [raw, {"state": {}, "param_groups": []}, 3, 100, average]

    content = containers.open(write(tmp_path / "ckpt.pth", wrap)).content
    assert ddpm_torch.matches(content)
    found = ddpm_torch.convert(content, Facts(image_size=16)).leaves
    kernel = state["down.0.block.0.conv1.weight"].transpose(2, 3, 1, 0)
    path = "down_blocks_0_resnets_0/conv1/kernel"
    np.testing.assert_array_equal(found[path].read(), kernel)
    # without the average: the network itself
    found = ddpm_torch.convert(content[:4], Facts(image_size=16)).leaves
    np.testing.assert_array_equal(found[path].read(), kernel + 1)


def tree(**changes):
    _, state = reference()
    state = {k: lazy.of(v) for k, v in state.items()} | changes
    return {k: v for k, v in state.items() if v is not None}


def test_the_spec_says_what_names_and_shapes_say():
    source = ddpm_torch.convert(tree(), Facts())
    # attention is on the second level: at 16 pixels of 32, as on CIFAR-10
    assert source.spec["image_shape"] == [32, 32, 3]
    assert source.assumed[-1] == "image_size=32: attention is at 16 pixels"
    network = source.spec["network"]
    assert network["attn_resolutions"] == [16]
    assert (network["channels"], network["channel_mult"]) == (32, [1, 2])
    assert network["num_blocks"] == 1
    expected = {"name": "ddim", "num_steps": 50, "spacing": "quadratic"}
    assert source.spec["sampler"] == expected
    small = ddpm_torch.convert(tree(), Facts(image_size=16, num_steps=7)).spec
    assert small["network"]["attn_resolutions"] == [8]
    assert small["sampler"] == expected | {"num_steps": 7}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"down.0.block.0.conv_shortcut2.extra.weight": 1}, "conv_shortcut2.extra"),
        ({"class_emb.weight": 1}, "class_emb.weight, which ours does not have"),
        ({"conv_out.weight": None}, "no conv_out.weight; it is not whole"),
        ({"down.0.downsample.conv.weight": None}, "resamp_with_conv=False: its"),
    ],
)
def test_other_networks_are_refused_by_name(changes, message):
    array = lazy.of(np.zeros((2, 2), np.float32))
    changes = {k: v and array for k, v in changes.items()}
    with pytest.raises(CheckpointError, match=message):
        ddpm_torch.convert(tree(**changes), Facts())


def test_facts_that_cannot_be_are_refused():
    with pytest.raises(CheckpointError, match="precondition='v': the checkpoint says"):
        ddpm_torch.convert(tree(), Facts(precondition="v"))
    assert not ddpm_torch.matches({"model": {"a": 1}}) and not ddpm_torch.matches(3)
