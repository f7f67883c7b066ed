"""Flax checkpoints of score_sde and consistency_models_cifar10 become models.

`jcm_tiny`: openai/consistency_models_cifar10 at d086e77 (2023-06-27; MIT), CPU,
float32, random weights, other ones in each of three networks. What it does not have
(DDPM++, encoder and decoder "skip") is compared with `ncsnpp.py`.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from ncsnpp import NCSNpp
from tolerance import LOSS, UNET

from kdiff_jax import interop
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import containers, lazy, score_sde
from kdiff_jax.interop.source import Facts
from kdiff_jax.interop.trees import unflatten

DATA = pathlib.Path(__file__).parents[1] / "parity" / "data"
STATE, TEACHER = DATA / "jcm_tiny.msgpack", DATA / "jcm_tiny_teacher.msgpack"


@functools.cache
def arrays():
    with np.load(DATA / "jcm_tiny.npz") as file:
        return {k: jnp.asarray(v) for k, v in file.items()}


def converted(content, **facts):
    """(spec, params) of a checkpoint's tree."""
    source = score_sde.convert(content, Facts(**facts))
    params = unflatten({k: v.read() for k, v in source.leaves.items()})
    return source.spec, params


@functools.cache
def denoiser(which):
    """(spec, compiled (x_t, t) -> x0_hat)."""
    if which == "student":
        model = interop.load(STATE)
        return model.spec, jax.jit(model.apply)
    if which == "teacher":
        model = interop.load(TEACHER, facts=Facts(precondition="edm"))
        return model.spec, jax.jit(model.apply)
    content = containers.open(STATE).content
    spec, params = converted(
        content["params_ema" if which == "denoiser" else "target_params"],
        precondition="edm" if which == "denoiser" else "boundary",
    )
    net, _ = interop.build(spec)
    return spec, jax.jit(functools.partial(net.apply, params))


def test_the_denoiser_and_the_generator_are_the_reference_s():
    data = arrays()
    spec, generate = denoiser("student")
    found = generate(data["x_t"], data["t"])
    np.testing.assert_allclose(found, data["distiller"], **UNET)
    found = denoiser("denoiser")[1](data["x_t"], data["t"])
    np.testing.assert_allclose(found, data["denoiser"], **UNET)
    assert spec["sampler"] == {"name": "ddim", "num_steps": 1}
    assert spec["precondition"] == {"name": "boundary"}
    assert spec["image_shape"] == [8, 8, 3]
    network = spec["network"]
    assert (network["encoder"], network["decoder"]) == ("residual", "standard")
    assert network["attn_resolutions"] == [4]


@functools.cache
def pairs(kind):
    """(t, the student at t, the target network at the next time) of one batch.

    Source: Song et al. 2023, arXiv:2303.01469, Algorithms 2 and 3.
    """
    data = arrays()
    ramp = np.linspace(80.0 ** (1 / 7), 0.002 ** (1 / 7), 18) ** 7
    i = np.asarray(data["indices"])
    t, s = jnp.asarray(ramp[i], jnp.float32), jnp.asarray(ramp[i + 1], jnp.float32)
    x, z = data["x"], data["z"]
    column = lambda v: v[:, None, None, None]  # noqa: E731
    x_t = x + column(t) * z
    if kind == "ct":
        x_s = x + column(s) * z
    else:
        teacher = denoiser("teacher")[1]
        slope = (x_t - teacher(x_t, t)) / column(t)
        x_s = x_t + column(s - t) * slope
        if kind == "heun":
            slope += (x_s - teacher(x_s, s)) / column(s)
            x_s = x_t + column(s - t) * slope / 2
    return t, denoiser("student")[1](x_t, t), denoiser("target")[1](x_s, s)


LOSSES = [k for k in np.load(DATA / "jcm_tiny.npz") if k.endswith("/loss")]


@pytest.mark.parametrize("key", LOSSES)
def test_consistency_losses_of_three_networks_are_the_reference_s(key):
    training, solver, distance, weighting, _ = key.split("/")
    t, student, target = pairs("ct" if training == "ct" else solver)
    error = np.abs(student - target).reshape(4, -1)
    error = {"l1": error.mean(1), "l2": (error**2).mean(1), "linf": error.max(1)}
    snr = 1 / t**2
    weight = {
        "uniform": jnp.ones_like(t),
        "snrp1": snr + 1,
        "truncated_snr": jnp.maximum(snr, 1),
        "snr": snr,
    }
    loss = (error[distance] * weight[weighting]).mean()
    np.testing.assert_allclose(loss, arrays()[key], **LOSS)


FORMS = {
    "ddpmpp": dict(
        nf=8,
        ch_mult=(1, 2, 2),
        num_res_blocks=2,
        attn_resolutions=(16,),
        fourier=False,
        fir=False,
        input_skip=False,
        output_skip=False,
    ),
    "ncsnpp": dict(
        nf=8,
        ch_mult=(1, 2),
        num_res_blocks=1,
        attn_resolutions=(8, 4),
        fourier=True,
        fir=True,
        input_skip=True,
        output_skip=True,
    ),
}


@functools.cache
def form(name):
    """(network of `ncsnpp.py`, random parameters with random biases and scales)."""
    module = NCSNpp(**FORMS[name])
    size = 32 if name == "ddpmpp" else 8
    x, t = jnp.zeros((2, size, size, 3)), jnp.zeros(2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, t)["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        value = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key == "scale":
            return 1 + np.float32(0.2) * value
        fan = max(1, np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 100
        return value / np.sqrt(fan, dtype=np.float32)

    return module, jax.tree_util.tree_map_with_path(draw, shapes), size


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_the_network_of_the_definition(name, tmp_path):
    module, params, size = form(name)
    path = tmp_path / "checkpoint_8"
    path.write_bytes(serialization.msgpack_serialize({"params_ema": params, "step": 8}))
    content = containers.open(path).content
    assert score_sde.matches(content)
    model = interop.load(path, facts=Facts(image_size=size))
    # DDPM++: of two levels of one width, that of 16 pixels attends, as in its config.
    attends = model.spec["network"]["attn_resolutions"]
    assert attends == list(FORMS[name]["attn_resolutions"])
    x = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    sigma = jnp.array([50.0, 0.3])
    column = sigma[:, None, None, None]
    run = lambda x, t: jax.jit(module.apply)({"params": params}, x, t)  # noqa: E731
    if name == "ddpmpp":
        assert model.spec["precondition"] == {"name": "vp"}
        time = (jnp.sqrt(0.01 + 39.8 * jnp.log1p(sigma**2)) - 0.1) / 19.9
        expected = x - column * run(x / jnp.sqrt(1 + column**2), 999 * time)
    else:
        assert model.spec["precondition"] == {"name": "ve"}
        expected = x + column * run(x, jnp.log(sigma / 2))
    got = jax.jit(model.apply)(x, sigma)
    np.testing.assert_allclose(got, expected, rtol=0, atol=50 * 1e-4)


def params(name="ncsnpp"):
    _, found, _ = form(name)
    return jax.tree.map(lazy.of, found)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ResnetBlockDDPMpp_0": {}}, "has ResnetBlockDDPMpp, which ours does not"),
        ({"Upsample_0": {}}, "its network has Upsample, which ours does not have"),
        ({"ResnetBlockBigGANpp_3": None}, "residual blocks are not those of one known"),
        ({"AttnBlockpp_1": None}, "attentions are not those of a known network"),
        ({"Conv_1": None}, "its network has 2 convolutions outside of its blocks"),
        ({"Dense_0": None, "Dense_1": None}, "no Dense; it is not whole"),
        ({"Combine_0": {"Conv_1": {}}}, "no Conv_0; it is not whole"),
    ],
)
def test_other_networks_are_refused_by_name(changes, message):
    content = {k: v for k, v in (params() | changes).items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        score_sde.convert(content, Facts())


def test_facts_and_guesses():
    with pytest.raises(CheckpointError, match="precondition='eps': networks of this"):
        score_sde.convert(params(), Facts(precondition="eps"))
    source = score_sde.convert(params(), Facts(num_steps=25))
    assert source.spec["sampler"] == {"name": "heun", "num_steps": 25}
    process = {"name": "edm", "sigma_min": 0.02, "sigma_max": 100.0}
    assert source.spec["process"] == process
    said = [line.split(":")[0] for line in source.assumed]
    assert "precondition='ve'" in said and "image_size=8" in said
    # every network of three levels or fewer has other sizes than 16 here
    with pytest.raises(
        CheckpointError, match="could be at several image sizes, and 16"
    ):
        score_sde.convert(params("ddpmpp"), Facts(image_size=8))
    assert not score_sde.matches({"params_ema": {"Dense_0": {}}})
    assert not score_sde.matches([])
