"""Checkpoints of google-research/diffusion_distillation become the models they are.

Data: that code by the mirror of devzhk at cfffd04c (2023-03-27), JAX 0.10.2, Flax
0.12.8, CPU, float32, random weights.
"""

import functools
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util
from tolerance import UNET

from kdiff_jax import interop, samplers
from kdiff_jax.diffusion import predict
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import containers, lazy
from kdiff_jax.interop import google
from kdiff_jax.interop.source import Facts

DATA = pathlib.Path(__file__).parents[1] / "parity" / "data"


def file(output):
    return f"gr_dd_tiny_{'both' if output == 'both' else 'uncond'}"


@functools.cache
def loaded(output):
    """(arrays of the reference, our model)."""
    said = {} if output == "both" else {"precondition": output}
    with np.load(DATA / f"{file(output)}.npz") as arrays:
        data = dict(arrays)
    path = DATA / f"{file(output)}.msgpack"
    return data, interop.load(path, facts=Facts(image_size=8, **said))


def assert_close(got, expected, output):
    """x0_hat = (x_t - sigma eps) / alpha reaches 1e5: relative to the largest value."""
    scale = max(1.0, np.abs(expected).max()) if output == "eps" else 1.0
    # The reference's float32 weight of eps, 1 - sigma^2, is 0 at t = 1; ours is alpha.
    bound = dict(UNET, atol=5e-4) if output == "both" else UNET
    np.testing.assert_allclose(got / scale, expected / scale, **bound)


@pytest.mark.parametrize("output", ["x", "eps", "v", "both"])
def test_predictions_are_the_reference_s(output):
    data, model = loaded(output)
    p, t = model.process, jnp.asarray(data["u"])
    x_t = p.add_noise(jnp.asarray(data["x"]), jnp.asarray(data["eps"]), t)
    x0_hat = model.apply(x_t, t)
    assert_close(x0_hat, data[f"{output}/model_x"], output)
    factors = {"alpha": p.alpha(t), "sigma": p.sigma(t)}
    eps = predict.eps_from_x0(x_t, x0_hat, **factors)
    scale = np.abs(data[f"{output}/model_eps"]).max()
    bound = dict(UNET, atol=5e-4) if output == "both" else UNET
    np.testing.assert_allclose(
        eps / scale, data[f"{output}/model_eps"] / scale, **bound
    )


@pytest.mark.parametrize("num_steps, clip", [(1, 1), (2, 1), (4, 0), (8, 1)])
@pytest.mark.parametrize("output", ["v", "both"])
def test_ddim_is_the_reference_s(output, num_steps, clip):
    data, model = loaded(output)
    expected = data[f"{output}/ddim{num_steps}/clip{clip}"]
    sampler = model.sampler(num_steps=num_steps)
    if not clip:
        sampler = samplers.make("ddim", process=model.process, num_steps=num_steps)
    got = sampler.sample(model.apply, jnp.asarray(data["init_x"]))
    assert_close(got, expected, output)


def content(name="gr_dd_tiny_uncond"):
    return containers.open(DATA / f"{name}.msgpack").content


def test_the_spec_says_what_the_file_says():
    source = google.convert(content(), Facts(image_size=8, precondition="v"))
    assert source.spec["network"]["channels"] == 32
    assert source.spec["network"]["emb_channels"] == 64
    assert source.spec["network"]["channel_mult"] == [1, 1]
    assert source.spec["network"]["num_blocks"] == 1
    assert source.spec["network"]["attn_resolutions"] == [8]
    assert source.spec["num_classes"] == 0
    expected = {"name": "ddim", "num_steps": 1024, "clip": True}
    assert source.spec["sampler"] == expected
    # without the facts: 8 at the last of two levels, and x
    source = google.convert(content(), Facts())
    assert source.spec["image_shape"] == [16, 16, 3]
    assert source.spec["precondition"] == {"name": "x"}
    assert [line.split(":")[0] for line in source.assumed][-2:] == [
        "image_size=16",
        "precondition='x'",
    ]
    assert google.convert(content("gr_dd_tiny_both"), Facts()).spec["precondition"] == {
        "name": "both"
    }


def test_old_shapes_of_norms_and_bare_parameters_are_read(tmp_path):
    """In old Flax, norms have the shape (1, 1, 1, C)."""
    state = serialization.msgpack_restore(
        (DATA / "gr_dd_tiny_uncond.msgpack").read_bytes()
    )
    flat = traverse_util.flatten_dict(state["ema_params"])
    old = {
        path: leaf.reshape(1, 1, 1, -1) if "norm" in path[-2] else leaf
        for path, leaf in flat.items()
    }
    assert old[("norm_out", "scale")].shape == (1, 1, 1, 32)
    path = tmp_path / "checkpoint"
    path.write_bytes(serialization.msgpack_serialize(traverse_util.unflatten_dict(old)))
    source = google.convert(containers.open(path).content, Facts())
    new = google.convert(content(), Facts())
    assert source.leaves.keys() == new.leaves.keys()
    for name, leaf in source.leaves.items():
        np.testing.assert_array_equal(leaf.read(), new.leaves[name].read())
    assert source.assumed[-1] == "num_steps=1024: the file does not say"


@pytest.mark.parametrize(
    "heads, expected",
    [
        # (channels, heads, dim) of two attentions -> fields
        ([(32, 2, 16), (64, 2, 32)], dict(num_heads=2, head_dim=None)),
        ([(32, 2, 16), (64, 4, 16)], dict(num_heads=1, head_dim=16)),
        ([(32, 2, 16), (64, 4, 8)], None),
    ],
)
def test_heads_are_told_by_shapes(heads, expected):
    params = dict(content()["ema_params"])
    for name, shape in zip(("down_0.attn_0", "mid.attn_1"), heads, strict=True):
        query = {"kernel": lazy.of(np.zeros(shape, np.float32))}
        params[name] = params[name] | {"q": query}
    for name in ("up_0.attn_0", "up_0.attn_1"):
        params[name] = params["down_0.attn_0"]
    if expected is None:
        with pytest.raises(CheckpointError, match=r"\[2, 4\] heads of \[8, 16\]"):
            google.convert(params, Facts())
    else:
        network = google.convert(params, Facts()).spec["network"]
        assert {k: network[k] for k in expected} == expected


@pytest.mark.parametrize(
    "name, facts, message",
    [
        (
            "both",
            dict(precondition="eps"),
            "with 6 output channels for images of 3 it can be both",
        ),
        (
            "uncond",
            dict(precondition="both"),
            "with 3 output channels for images of 3 it can be x or",
        ),
        ("uncond", dict(precondition="edm"), "'edm': with 3 output channels"),
    ],
)
def test_a_prediction_that_does_not_fit_is_refused(name, facts, message):
    with pytest.raises(CheckpointError, match=message):
        google.convert(content(f"gr_dd_tiny_{name}"), Facts(**facts))


def test_other_networks_are_refused_by_name():
    params = dict(content()["ema_params"])
    whole = params["down_0.downsample"]
    params["down_0.downsample"] = {"Conv_0": whole["conv1"]}
    with pytest.raises(CheckpointError, match="resblock_resample=False: its network"):
        google.convert(params, Facts())
    del params["conv_out"]
    assert google.matches(params)
    params["down_0.downsample"] = whole
    with pytest.raises(CheckpointError, match="no conv_out/kernel; it is not whole"):
        google.convert(params, Facts())
    assert not google.matches({"conv_in": 0}) and not google.matches([1])
