"""Flax checkpoints of score_sde and consistency_models_cifar10 become models.

`jcm_tiny`: openai/consistency_models_cifar10 at d086e77 (2023-06-27; Apache-2.0), CPU,
float32, random weights, other ones in each of three networks. What it does not have
(DDPM++, encoder and decoder "skip") is compared with `ncsnpp.py`.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from ncsnpp import NCSNpp
from tolerance import GRADIENT, LOSS, UNET

from kdiff_jax import interop
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import containers, lazy
from kdiff_jax.interop import score_sde
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
def network(which):
    """(spec, params) of one of four networks: a preconditioning has two of them."""
    if which == "student":
        model = interop.load(STATE)
        return model.spec.plain(), model.params
    if which == "teacher":
        model = interop.load(TEACHER, facts=Facts(precondition="edm"))
        return model.spec.plain(), model.params
    content = containers.open(STATE).content
    name = "params_ema" if which == "denoiser" else "target_params"
    precondition = "boundary" if which == "target" else "edm"
    return converted(content[name], precondition=precondition)


@functools.cache
def programs(precondition):
    """Compiled functions of (params, x_t, t, ...), one set for all networks.

    x0_hat; (x0_hat, its tangent) along a tangent of (x_t, t); and the L2 norm of the
    gradient of all parameters, from the gradient of x0_hat.
    """
    spec, _ = network("student" if precondition == "boundary" else "teacher")
    net, _ = interop.build(spec)

    def tangent(params, x_t, t, *tangents):
        return jax.jvp(functools.partial(net.apply, params), (x_t, t), tangents)

    def gradient_norm(params, x_t, t, cotangent):
        _, pull_back = jax.vjp(lambda params: net.apply(params, x_t, t), params)
        return optax.tree.norm(pull_back(cotangent))

    return jax.jit(net.apply), jax.jit(tangent), jax.jit(gradient_norm)


def denoiser(which, precondition=None):
    """The function (x_t, t) -> x0_hat."""
    spec, params = network(which)
    apply, _, _ = programs(precondition or spec["precondition"]["name"])
    return functools.partial(apply, params)


def column(t):
    return t[:, None, None, None]


def test_the_denoiser_and_the_generator_are_the_reference_s():
    data = arrays()
    x_t, t = data["x_t"], data["t"]
    np.testing.assert_allclose(denoiser("student")(x_t, t), data["distiller"], **UNET)
    found = denoiser("denoiser")(x_t, t)
    np.testing.assert_allclose(found, data["denoiser"], **UNET)
    variance = column(t**2 + 0.25)
    output = (found - 0.25 / variance * x_t) * 2 * jnp.sqrt(variance) / column(t)
    np.testing.assert_allclose(output, data["F"], **UNET)
    spec, _ = network("student")
    assert spec["sampler"] == {"name": "ddim", "num_steps": 1}
    assert spec["precondition"] == {"name": "boundary"}
    assert spec["image_shape"] == [8, 8, 3]
    fields = spec["network"]
    assert (fields["encoder"], fields["decoder"]) == ("residual", "standard")
    assert fields["attn_resolutions"] == [4]


def level(place):
    """Karras' levels, 80 at place 0 and 0.002 at 1."""
    first, last = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    return jnp.asarray((first + place * (last - first)) ** 7, jnp.float32)


def euler(which, x_t, t, s):
    """x_s by one step from t, and the slope (x_t - x0_hat) / t."""
    slope = (x_t - denoiser(which, "edm")(x_t, t)) / column(t)
    return x_t + column(s - t) * slope, slope


@functools.cache
def pairs(kind):
    """(network that learns, its x_t, t, and target) of one batch.

    Sources: Song et al. 2023, arXiv:2303.01469, Algorithms 2 and 3; for "pd", Salimans
    & Ho 2022, arXiv:2202.00512, Algorithm 2, with Euler's steps in sigma.
    """
    data = arrays()
    x, z = data["x"], data["z"]
    if kind == "pd":
        i = np.asarray(data["indices_pd"])
        t, middle, s = (level((i + part) / 9) for part in (0, 0.5, 1))
        x_t = x + column(t) * z
        x_middle, _ = euler("target", x_t, t, middle)
        x_s, _ = euler("target", x_middle, middle, s)
        return "denoiser", x_t, t, x_t - column(t / (s - t)) * (x_s - x_t)
    i = np.asarray(data["indices"])
    t, s = level(i / 17), level((i + 1) / 17)
    x_t = x + column(t) * z
    if kind == "ct":
        x_s = x + column(s) * z
    else:
        x_s, slope = euler("teacher", x_t, t, s)
        if kind == "heun":
            _, second = euler("teacher", x_s, s, s)
            x_s = x_t + column(s - t) * (slope + second) / 2
    return "student", x_t, t, denoiser("target")(x_s, s)


def distance(x0_hat, target, t, kind, weighting):
    """Mean over the batch of weight times distance."""
    error = jnp.abs(x0_hat - target).reshape(len(t), -1)
    error = {"l1": error.mean(1), "l2": (error**2).mean(1), "linf": error.max(1)}
    snr = 1 / t**2
    weight = {
        "uniform": jnp.ones_like(t),
        "snrp1": snr + 1,
        "truncated_snr": jnp.maximum(snr, 1),
        "snr": snr,
    }
    return (error[kind] * weight[weighting]).mean()


GRADNORMS = [k for k in np.load(DATA / "jcm_tiny.npz") if k.endswith("/gradnorm")]


@pytest.mark.parametrize("name", [key.removesuffix("/gradnorm") for key in GRADNORMS])
def test_distillation_losses_and_their_gradients_are_the_reference_s(name):
    training, *more, weighting = name.split("/")
    solver, kind = more or ("pd", "l2")
    which, x_t, t, target = pairs("ct" if training == "ct" else solver)
    x0_hat = denoiser(which)(x_t, t)
    loss, cotangent = jax.value_and_grad(distance)(x0_hat, target, t, kind, weighting)
    np.testing.assert_allclose(loss, arrays()[f"{name}/loss"], **LOSS)
    spec, params = network(which)
    _, _, gradient_norm = programs(spec["precondition"]["name"])
    norm = gradient_norm(params, x_t, t, cotangent)
    np.testing.assert_allclose(norm, arrays()[f"{name}/gradnorm"], **GRADIENT)


def test_continuous_consistency_losses_are_the_reference_s():
    """Losses of d f(x_t, t) along the teacher's trajectory, towards the data.

    Source: Song et al. 2023, arXiv:2303.01469, Theorems 3 to 5 and Remark 10.
    """
    data = arrays()
    t = data["cont_uniform_tinvrho"] ** 7  # 2187, beyond 80, to 0.0037
    x_t = data["x"] + column(t) * data["z"]
    _, slope = euler("teacher", x_t, t, t)
    _, params = network("student")
    _, tangent, _ = programs("boundary")
    x0_hat, change = tangent(params, x_t, t, -slope, -jnp.ones_like(t))
    losses = {
        "l1/stopgrad0": jnp.abs(change).mean(),
        "l2/stopgrad0": jnp.sqrt((change**2).sum((1, 2, 3))).mean(),
        "l2/stopgrad1": -(change * x0_hat).sum((1, 2, 3)).mean(),
    }
    for name, loss in losses.items():
        expected = data[f"continuous/{name}/loss"]
        np.testing.assert_allclose(loss, expected, **LOSS, err_msg=name)


def test_the_teacher_s_loss_is_the_reference_s():
    """EDM's loss, summed over an image; Karras et al. 2022, arXiv:2206.00364."""
    data = arrays()
    t = jnp.exp(1.2 * data["dsm_normal_for_t"] - 1.2)
    error = denoiser("denoiser")(data["x"] + column(t) * data["z"], t) - data["x"]
    loss = ((t**2 + 0.25) / (0.5 * t) ** 2 * (error**2).sum((1, 2, 3))).mean()
    np.testing.assert_allclose(loss, data["dsm/loss"], **LOSS)


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
    attends = model.spec.plain()["network"]["attn_resolutions"]
    assert attends == list(FORMS[name]["attn_resolutions"])
    x = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    sigma = jnp.array([50.0, 0.3])
    column = sigma[:, None, None, None]
    run = lambda x, t: jax.jit(module.apply)({"params": params}, x, t)  # noqa: E731
    if name == "ddpmpp":
        assert model.spec.plain()["precondition"] == {"name": "vp"}
        time = (jnp.sqrt(0.01 + 39.8 * jnp.log1p(sigma**2)) - 0.1) / 19.9
        expected = x - column * run(x / jnp.sqrt(1 + column**2), 999 * time)
    else:
        assert model.spec.plain()["precondition"] == {"name": "ve"}
        expected = x + column * run(x, jnp.log(sigma / 2))
    got = model.apply(x, sigma)
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
