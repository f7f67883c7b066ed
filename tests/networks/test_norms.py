"""Norms against float64, where a variance as E[x^2] - E[x]^2 would be wrong."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_networks as tiny

from kdiff_jax.discriminators import gan_head, projected
from kdiff_jax.features import deit_base_distilled as deit
from kdiff_jax.features import frozen
from kdiff_jax.networks import layers, norms

PLATFORMS = "cpu", "tpu", "cuda"
MEANS = (0.0, 30.0, 1000.0)  # in standard deviations
X = np.random.default_rng(0).standard_normal((2, 8, 8, 16)).astype(np.float32)


def expected(x, axes, eps):
    """(x - mean) / sqrt(var + eps) in float64."""
    x = x.astype(np.float64)
    x = x - x.mean(axes, keepdims=True)
    return x / np.sqrt((x**2).mean(axes, keepdims=True) + eps)


def applied(module, x, **leaves):
    return jax.jit(lambda x: module.apply({"params": leaves}, x))(jnp.asarray(x))


def check(found, wanted, x):
    """An error of the input's own rounding is no error of the norm."""
    rounding = np.abs(x).max() * np.finfo(np.float32).eps
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-6 + 8 * rounding)


@pytest.mark.parametrize("mean", MEANS)
def test_group_norm(mean):
    x = X + np.float32(mean)
    module = layers.group_norm(16, name="norm", num_groups=4)
    found = applied(module, x, scale=jnp.ones(16), bias=jnp.zeros(16))
    grouped = x.reshape(2, 8, 8, 4, 4)
    check(found, expected(grouped, (1, 2, 4), 1e-6).reshape(x.shape), x)


@pytest.mark.parametrize("size", [8, 64, 256])
@pytest.mark.parametrize("every", ["row", "place"])
def test_group_norm_where_what_deviates_most_is_on_its_grid(size, every):
    x = np.random.default_rng(0).standard_normal((1, size, size, 8)).astype("f4")
    first = max(1, size // norms.POINTS) // 2
    x[:, first, slice(None) if every == "row" else first] += 1e4
    module = norms.GroupNorm(2)
    found = applied(module, x, scale=jnp.ones(8), bias=jnp.zeros(8))
    wanted = expected(x.reshape(1, size, size, 2, 4), (1, 2, 4), 1e-6).reshape(x.shape)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("shape", [(2, 8, 8, 16), (2, 5, 16), (1, 1, 1, 16)])
def test_group_norm_is_flax_s_exact_one_and_so_is_its_gradient(shape):
    x = jax.random.normal(jax.random.key(0), shape) + 3
    leaves = {"scale": jnp.linspace(0.5, 2, 16), "bias": jnp.linspace(-1, 1, 16)}
    weight = jax.random.normal(jax.random.key(1), shape)

    def loss(module):
        def weighted(leaves, x):
            return (module.apply({"params": leaves}, x) * weight).sum()

        return jax.jit(jax.value_and_grad(weighted, argnums=(0, 1)))(leaves, x)

    flax = nn.GroupNorm(4, epsilon=1e-6, use_fast_variance=False)
    found, wanted = loss(norms.GroupNorm(4)), loss(flax)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
        *(found, wanted),
    )


@pytest.mark.parametrize("mean", MEANS)
def test_layer_norm(mean):
    x = X + np.float32(mean)
    module = deit._norm("norm")
    found = applied(module, x, scale=jnp.ones(16), bias=jnp.zeros(16))
    check(found, expected(x, (-1,), deit.NORM_EPS), x)


@pytest.mark.parametrize("mean", MEANS)
def test_batch_norms(mean):
    x = X + np.float32(mean)
    ones, zeros = jnp.ones(16), jnp.zeros(16)
    found = applied(projected.GroupedBatchNorm(1), x, scale=ones, bias=zeros)
    check(found, expected(x, (1, 2), 1e-5), x)
    fixed = frozen.FixedBatchNorm()
    leaves = dict(scale=ones, bias=zeros, mean=jnp.full(16, mean), var=ones)
    wanted = (x.astype(np.float64) - mean) / np.sqrt(1 + 1e-5)
    check(applied(fixed, x, **leaves), wanted, x)


def test_groups_of_two_nearly_equal_values():
    """What the head's second norm sees: its gradient is as large as it is true."""
    x = np.float32([[0.7, 0.7002, -0.3, 0.5]])
    norm = nn.GroupNorm(2, epsilon=1e-5, use_fast_variance=False)
    found = applied(norm, x, scale=jnp.ones(4), bias=jnp.zeros(4))
    wanted = expected(x.reshape(1, 2, 2), (2,), 1e-5).reshape(1, 4)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize("name", [*tiny.FIELDS, "gan_head", "deit"])
def test_no_network_takes_the_fast_variance(name):
    found = []

    def spy(call, args, kwargs, context):
        if isinstance(context.module, nn.GroupNorm | nn.LayerNorm | norms.GroupNorm):
            found.append(context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(spy):
        if name == "gan_head":
            module, inputs = gan_head.GanHead(), (jnp.zeros((1, 4, 4, 8)),)
        elif name == "deit":
            module, inputs = deit.Block(), (jnp.zeros((1, 3, deit.WIDTH)),)
        else:
            module, inputs = tiny.module(name), tiny.inputs()[:2]
        jax.eval_shape(module.init, jax.random.key(0), *inputs)
    flax = [norm for norm in found if not isinstance(norm, norms.GroupNorm)]
    assert found and not any(norm.use_fast_variance for norm in flax)


@pytest.mark.parametrize(
    ("channels", "asked", "groups"),
    [
        (96, 32, 32),  # legal, three channels each
        (64, 32, 32),
        (768, 32, 32),
        (32, 32, 16),  # a group of one channel would cancel it
        (48, 32, 8),  # 32 does not divide them
        (6, 4, 1),
    ],
)
def test_the_heads_groups_are_those_asked_for_where_they_are_legal(
    channels, asked, groups
):
    found = []

    def spy(call, args, kwargs, context):
        if isinstance(context.module, nn.GroupNorm):
            found.append(context.module.num_groups)
        return call(*args, **kwargs)

    head = gan_head.GanHead(num_groups=asked)
    with nn.intercept_methods(spy):
        x = jnp.zeros((1, 4, 4, channels))
        jax.eval_shape(head.init, jax.random.key(0), x)
    assert found == [groups, groups]
    if channels == 96:
        assert layers.group_norm(96, name="norm").num_groups == 32


@pytest.mark.parametrize("barriers", [True, False])
def test_a_barrier_stands_where_the_program_is_for_cpus_alone(barriers):
    """What ONNX is made of has no primitive for it, nor for the platform."""
    module, x = norms.GroupNorm(2), jnp.zeros((1, 2, 2, 4))
    traced = jax.jit(lambda x: module.init_with_output(jax.random.key(0), x)[0])
    traced.trace(x)  # with one: what is kept must not serve
    with norms.barriers(barriers):
        lowered = {p: traced.trace(x).lower(lowering_platforms=(p,)) for p in PLATFORMS}
        jaxpr = str(jax.make_jaxpr(traced)(x))
    found = {p: "optimization_barrier" in text.as_text() for p, text in lowered.items()}
    assert found == {"cpu": barriers, "tpu": False, "cuda": False}
    assert ("platform_index" in jaxpr) == barriers
