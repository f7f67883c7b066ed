"""The shared pieces against closed forms, and how networks start."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import IDENTITY, REORDER

from kdiff_jax.networks import edm_layers, layers


def images(*shape):
    return jax.random.normal(jax.random.key(1), shape)


def test_the_sinusoid_is_sines_then_cosines_of_falling_frequencies():
    t = np.array([0.0, 3.0, 250.0])
    found = layers.sinusoid(jnp.asarray(t, jnp.float32), 6)
    # dim 6, shift 1: frequencies 1, 1/100, 1/10000.
    angle = t[:, None] * np.array([1.0, 1e-2, 1e-4])
    expected = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)


def test_the_sinusoid_without_a_shift_ends_before_one_ten_thousandth():
    found = layers.sinusoid(jnp.array([1.0]), 4, freq_shift=0.0)
    angle = np.array([1.0, 1e-2])  # 10000^(-i/2)
    np.testing.assert_allclose(found[0], [*np.sin(angle), *np.cos(angle)], **IDENTITY)


def test_fourier_features_read_their_frequencies_from_the_parameters():
    t = jnp.array([0.25, 1.5])
    variables = {"params": {"freqs": jnp.array([1.0, 2.5])}}
    found = layers.Fourier(4).apply(variables, t)
    angle = 2 * np.pi * np.outer(t, [1.0, 2.5])
    expected = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


def test_no_gradient_reaches_fourier_frequencies():
    module = layers.Fourier(8)
    t = jnp.array([0.3, -1.0])
    variables = module.init(jax.random.key(0), t)
    gradient = jax.grad(lambda v: module.apply(v, t).sum())(variables)
    assert not gradient["params"]["freqs"].any()


def test_the_default_filter_averages_and_repeats():
    x = images(2, 6, 4, 3)
    down, up = layers.downsample(x), layers.upsample(x)
    np.testing.assert_allclose(down[:, 1, 0], x[:, 2:4, :2].mean((1, 2)), **IDENTITY)
    np.testing.assert_array_equal(up, x.repeat(2, axis=1).repeat(2, axis=2))
    # The same by the general formula.
    by_filter = layers.depthwise(x, (1, 1), stride=2)
    np.testing.assert_allclose(down, by_filter, **IDENTITY)


def test_the_binomial_filter_by_hand():
    # One row of 1s and a single 8: columns weighted (1, 3, 3, 1)/8, rows likewise.
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(64.0)
    down = layers.downsample(x, (1, 3, 3, 1))[0, :, :, 0]
    # Output i reads inputs 2i-1 .. 2i+2 with 1, 3, 3, 1: input 1 is weighted 3, then 1.
    np.testing.assert_allclose(down, [[9.0, 3.0], [3.0, 1.0]], **IDENTITY)
    up = layers.upsample(x, (1, 3, 3, 1))[0, :, :, 0]
    row = np.array([0, 1, 3, 3, 1, 0, 0, 0])  # the transpose, times 4
    np.testing.assert_allclose(up, 4 * np.outer(row, row), **IDENTITY)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_upsampling_is_four_times_the_transpose_of_downsampling(taps):
    x, z = images(1, 8, 8, 2), images(1, 4, 4, 2)
    left = jnp.sum(layers.downsample(x, taps) * z)
    right = jnp.sum(x * layers.upsample(z, taps)) / 4
    np.testing.assert_allclose(left, right, **REORDER)


def test_attention_is_softmax_of_scaled_products_over_all_places():
    q, k, v = images(3, 2, 2, 3, 2, 5)  # each B H W N D
    found = layers.attend(q, k, v)
    flat = [np.asarray(a).reshape(2, 6, 2, 5) for a in (q, k, v)]
    logits = np.einsum("btnd,bsnd->bnts", flat[0], flat[1]) / math.sqrt(5)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.einsum("bnts,bsnd->btnd", weights, flat[2]).reshape(v.shape)
    np.testing.assert_allclose(found, expected, **REORDER)


def test_dropout_keeps_the_share_it_should_and_its_mean():
    keys = jax.random.split(jax.random.key(0), 4)
    x = jnp.ones((4, 100, 100))
    y = layers.Dropout(0.2).apply({}, x, keys)
    np.testing.assert_allclose(np.unique(y), [0.0, 1.25], **IDENTITY)
    np.testing.assert_allclose(y.mean((1, 2)), np.ones(4), atol=0.02)
    np.testing.assert_array_equal(layers.Dropout(0.2).apply({}, x, None), x)


@pytest.mark.parametrize(
    "channels, groups", [(64, 32), (32, 32), (48, 4), (24, 2), (16, 4), (27, 1)]
)
def test_a_norm_has_fewer_groups_where_they_do_not_divide_its_channels(
    channels, groups
):
    assert layers.group_norm(channels, name="norm").num_groups == groups


def test_a_label_of_minus_one_is_a_row_of_zeros():
    rows = layers.one_hot(jnp.array([1, -1]), num_classes=3, batch=2)
    np.testing.assert_array_equal(rows, [[0, 1, 0], [0, 0, 0]])


def block(family, **fields):
    """Fresh parameters of one block: 64 -> 64 channels, with attention."""
    module = edm_layers.UNetBlock(64, family, 0.0, attention=True, **fields)
    x, emb = jnp.zeros((1, 4, 4, 64)), jnp.zeros((1, 32))
    return jax.jit(module.init)(jax.random.key(0), x, emb, None)["params"]


def test_song_unet_starts_from_xavier_with_small_ends():
    params = block(edm_layers.SONG)
    bound = math.sqrt(6 / (64 * 9 + 64 * 9))
    peak = {
        name: float(jnp.abs(p["kernel"]).max())
        for name, p in params.items()
        if "kernel" in p
    }
    assert 0.99 < peak["conv0"] / bound <= 1
    assert 0.99 < peak["conv1"] / (1e-5 * bound) <= 1
    assert 0.99 < peak["qkv"] / math.sqrt(0.2 * 6 / (64 + 192)) <= 1
    assert 0.99 < peak["proj"] / (1e-5 * math.sqrt(6 / 128)) <= 1
    assert not any(p["bias"].any() for p in params.values())


def test_adm_starts_from_kaiming_over_three_with_zero_ends():
    params = block(edm_layers.ADM)
    bound = math.sqrt(1 / (64 * 9))  # sqrt(3 / fan_in) sqrt(1/3)
    for leaf in ("kernel", "bias"):
        assert 0.9 < float(jnp.abs(params["conv0"][leaf]).max()) / bound <= 1
        assert not params["conv1"][leaf].any()
        assert not params["proj"][leaf].any()
    assert 0.9 < float(jnp.abs(params["affine"]["bias"]).max()) * math.sqrt(32) <= 1
    assert 0.99 < float(jnp.abs(params["qkv"]["kernel"]).max()) * math.sqrt(64) <= 1


def test_attention_by_parts_of_its_queries_is_the_same(monkeypatch):
    """With logits of a part at a time, in both directions."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (
        jax.random.normal(key, (2, n, 2, 4))
        for key, n in zip(keys, (96, 7, 7), strict=True)
    )

    def run(q, k, v):
        out = layers.attend_to(q, k, v)
        return jnp.sum(out**2), out

    gradient = jax.value_and_grad(run, (0, 1, 2), has_aux=True)

    def has_all_logits():
        text = jax.jit(lambda *args: gradient(*args)).lower(q, k, v).as_text()
        return "2x2x96x7xf32>" in text

    assert has_all_logits()
    whole = jax.jit(lambda *args: gradient(*args))(q, k, v)
    for name, value in (("MANY_LOGITS", 1), ("QUERIES", 32), ("SHORT", 8)):
        monkeypatch.setattr(layers, name, value)
    assert not has_all_logits()
    parts = jax.jit(lambda *args: gradient(*args))(q, k, v)
    chex.assert_trees_all_close(parts, whole, **REORDER)
