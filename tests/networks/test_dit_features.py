"""What is a transformer's own: features, positions, the two definitions' sizes."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_networks as tiny
from tolerance import REORDER

from kdiff_jax import denoiser, methods
from kdiff_jax.diffusion import process
from kdiff_jax.errors import ConfigError
from kdiff_jax.networks.dit import positions


def test_features_are_the_quarters_of_its_depth():
    x, c_noise, y, augment, keys = tiny.inputs()
    network, params = tiny.module("dit"), tiny.params("dit")

    def run(params):
        more = dict(augment=augment, dropout_keys=keys)
        args = ({"params": params}, x, c_noise, y)
        features = network.apply(*args, **more, method="encode")
        return network.apply(*args, **more, method="with_features"), features

    (F, features), encoded = jax.jit(run)(params)
    expected = tiny.compiled("dit", dropout=True)(params, x, c_noise, y, augment, keys)
    chex.assert_trees_all_close(F, expected, **REORDER)
    chex.assert_trees_all_close(features[:2], encoded, **REORDER)
    assert [f.shape for f in features] == [(4, 4, 4, 8)] * 4
    # Of three blocks: one, two, three, and three again.
    moved = [float(np.abs(features[i + 1] - features[i]).max()) for i in range(3)]
    assert moved[0] > 0.1 and moved[1] > 0.1 and moved[2] == 0


def test_a_map_of_tokens_has_the_place_of_its_patch():
    network = tiny.module("dit", num_blocks=1)
    params = tiny.draw(network)
    x = jnp.zeros((1, 4, 8, 3)).at[0, 3, 5].set(1.0)
    dark = jnp.zeros_like(x)
    # Without attention a token sees its own patch alone.
    params["blocks_0"]["modulation"]["kernel"] *= 0
    params["blocks_0"]["modulation"]["bias"] *= 0

    @jax.jit
    def run(x):
        given = {"params": params}, x, jnp.ones(1)
        out, features = network.apply(*given, method="with_features")
        return out, features[0]

    changed = jax.tree.map(lambda a, b: np.abs(a - b)[0].max(-1), run(x), run(dark))
    out, tokens = (np.nonzero(c) for c in changed)
    assert [axis.tolist() for axis in tokens] == [[1], [2]]
    assert {*out[0].tolist()} == {2, 3} and {*out[1].tolist()} == {4, 5}


def test_the_norms_have_the_epsilons_of_their_definition():
    """On inputs of tiny_networks and the fixtures they do not show."""
    found = []

    def spy(call, args, kwargs, context):
        if isinstance(context.module, nn.LayerNorm):
            found.append(context.module.epsilon)
        return call(*args, **kwargs)

    with nn.intercept_methods(spy):
        tiny.shapes(tiny.module("dit", num_blocks=2, mlp_norm_eps=1e-5))
    assert found == [1e-6, 1e-5, 1e-6, 1e-5, 1e-6]


def test_dmd2_s_head_reads_the_tokens_of_the_first_quarter():
    flow = process.flow()
    net = denoiser.make(
        tiny.module("dit", augment_dim=0),
        flow,
        precondition="velocity",
        image_shape=(8, 8, 3),
        num_classes=3,
    )
    nets = {"student": net, "teacher": net}
    method = methods.make("dmd2", nets=nets, process=flow, gan_weight=0.1)
    head = jax.eval_shape(method.nets["disc"].init, jax.random.key(0))
    assert head["conv_0"]["kernel"].shape == (4, 4, 8, 8)


def test_positions_are_the_column_s_waves_and_then_the_row_s():
    grid = positions(2, 3, 8)
    # frequencies 1 and 10000^(-1/2) = 0.01
    waves = [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)]
    np.testing.assert_allclose(grid[1, 2, :4], waves, rtol=1e-6)
    waves = [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)]
    np.testing.assert_allclose(grid[1, 2, 4:], waves, rtol=1e-6)


def test_vectors_take_the_place_of_the_table():
    network = tiny.module("dit", cond_dim=5, num_blocks=1)
    params = tiny.draw(network)
    assert params["class_table"]["kernel"].shape == (5, 8)
    x, c_noise, *_ = tiny.inputs()
    run = jax.jit(lambda y: network.apply({"params": params}, x, c_noise, y))
    zeros = run(jnp.zeros((4, 5)))
    np.testing.assert_allclose(zeros, run(None), **REORDER)
    assert np.abs(run(jnp.ones((4, 5))) - zeros).max() > 1e-3


@pytest.mark.parametrize(
    "fields, rule",
    [
        (dict(patch_size=3), "images of 8x8: patch_size=3 needs multiples"),
        (dict(channels=6), "channels=6: must be a multiple of 4 and of num_heads=2"),
        (dict(num_heads=3), "channels=8: must be a multiple of 4 and of num_heads=3"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(fields, rule):
    with pytest.raises(ConfigError, match=rule):
        tiny.shapes(tiny.module("dit", **fields))
