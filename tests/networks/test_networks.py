"""What holds for every network: sizes, labels, dropout, dtypes, features, errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_networks as tiny
from tolerance import REORDER

from kdiff_jax import networks
from kdiff_jax.errors import ConfigError

NCSNPP = dict(embedding="fourier", noise_mult=2, encoder="residual", taps=(1, 3, 3, 1))
PD_IMAGENET = dict(
    channels=192,
    emb_channels=768,
    channel_mult=(1, 2, 3, 4),
    attn_resolutions=(8, 16, 32),
    head_dim=64,
    num_classes=1000,
    out_channels=6,
)
PD_LSUN = dict(
    channels=64,
    emb_channels=768,
    channel_mult=(1, 2, 4, 6, 8),
    attn_resolutions=(8, 16, 32),
    head_dim=64,
    out_channels=6,
)
# The toy `mlp` is for points of the plane; others read texts.
OTHERS = ["mlp", "unet2d_condition"]
UNETS = ["adm_unet", "ddpm_unet", "iddpm_unet", "song_unet"]
each_network = pytest.mark.parametrize("name", sorted(tiny.FIELDS))
each_unet = pytest.mark.parametrize("name", UNETS)


def test_the_families_are_these():
    assert sorted(networks.names()) == sorted([*tiny.FIELDS, *OTHERS])


def slow(*values):
    """Of a family with other sizes here, or with this one in interop/test_edm.py."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name, size, fields, count, millions",
    [
        # Luhman & Luhman: CIFAR-10, CelebA 64, LSUN 256.
        ("ddpm_unet", 32, {}, 35_746_307, 35.75),
        slow("ddpm_unet", 64, dict(channel_mult=(1, 2, 2, 2, 4)), 78_700_803, 78.70),
        ("ddpm_unet", 256, dict(channel_mult=(1, 1, 2, 2, 4, 4)), 113_673_219, 113.67),
        # EDM as trained: unconditional with the augmentation's label, but ADM.
        slow("song_unet", 32, dict(augment_dim=9), 55_733_891, 55.73),
        slow("song_unet", 32, dict(augment_dim=9) | NCSNPP, 56_397_827, 56.40),
        (
            "song_unet",
            64,
            dict(augment_dim=9, channel_mult=(1, 2, 2, 2)),
            61_805_571,
            61.81,
        ),
        slow(
            "song_unet",
            64,
            dict(augment_dim=9, channel_mult=(1, 2, 2, 2)) | NCSNPP,
            62_761_091,
            62.76,
        ),
        slow("adm_unet", 64, {}, 295_899_267, 295.90),
        # Progressive Distillation: CIFAR-10, ImageNet 64, LSUN 128.
        ("iddpm_unet", 32, {}, 60_004_099, 60.00),
        ("iddpm_unet", 64, PD_IMAGENET, 295_905_222, 295.91),
        slow("iddpm_unet", 128, PD_LSUN, 139_578_502, 139.58),
    ],
)
def test_the_papers_networks_have_the_papers_sizes(name, size, fields, count, millions):
    params = tiny.shapes(networks.make(name, **fields), size)
    leaves = zip(
        jax.tree.leaves(params),
        jax.tree.leaves(networks.trainable(params)),
        strict=True,
    )
    found = sum(leaf.size for leaf, trained in leaves if trained)
    assert found == count
    assert round(found / 1e6, 2) == millions


@each_network
def test_the_label_minus_one_is_no_label(name):
    network = tiny.module(name)
    x, *_ = tiny.inputs()
    none = network.conditioning(x, None, None, None).rows
    minus_one = network.conditioning(x, jnp.full(4, -1), None, None).rows
    np.testing.assert_array_equal(none, minus_one)
    assert not none.any()


@each_network
def test_a_network_that_reads_guidance_begins_as_one_that_does_not(name):
    fields = dict(channel_mult=(1,), attn_resolutions=())
    plain = tiny.module(name, **fields)
    reading = tiny.module(name, **fields, reads_guidance=True)
    x, c_noise, y, *_ = tiny.inputs()
    x, c_noise, y = (jnp.repeat(a[:1], 4, axis=0) for a in (x, c_noise, y))
    w = jnp.array([1.0, 2.0, 3.5, 1.0])
    given = tiny.draw(plain)
    expected = jax.jit(plain.apply)({"params": given}, x, c_noise, y)
    run = jax.jit(lambda p: reading.apply({"params": p}, x, c_noise, y, guidance=w))
    params = networks.grown(given, tiny.shapes(reading))
    np.testing.assert_allclose(run(params), expected, atol=1e-6)
    kernel = params[networks.GUIDANCE]["kernel"]
    params[networks.GUIDANCE] = {"kernel": kernel + 0.1}
    none, some, more, again = run(params)
    np.testing.assert_allclose(again, none, atol=1e-6)
    assert min(np.abs(none - some).max(), np.abs(some - more).max()) > 1e-3
    assert networks.grown(params, tiny.shapes(reading)) is params


@each_network
def test_each_label_and_each_noise_level_and_each_augmentation_counts(name):
    x, c_noise, y, augment, keys = tiny.inputs()
    run = tiny.compiled(name)
    base = run(tiny.params(name), x, c_noise, y, augment, keys)
    for other in (
        (x, c_noise + 1, y, augment),
        (x, c_noise, (y + 1) % 3, augment),
        (x, c_noise, jnp.full(4, -1), augment),
        (x, c_noise, y, augment + 1),
    ):
        F = run(tiny.params(name), *other, keys)
        assert np.abs(F - base).max(axis=(1, 2, 3)).min() > 1e-3


@each_network
def test_a_network_is_traced_once(name):
    x, c_noise, y, augment, keys = tiny.inputs()
    run = tiny.compiled(name)
    run(tiny.params(name), x, c_noise, y, augment, keys)
    before = tiny.TRACES[name]
    run(tiny.params(name), x + 1, c_noise + 1, (y + 1) % 3, augment + 1, keys)
    assert tiny.TRACES[name] == before


@each_network
def test_dropout_is_a_matter_of_each_example_s_key(name):
    x, c_noise, y, augment, keys = tiny.inputs()
    run = tiny.compiled(name, dropout=True)
    params = tiny.params(name)
    whole = run(params, x, c_noise, y, augment, keys)
    # Other neighbours, other places in the batch: nothing changes.
    order = jnp.array([3, 1, 1, 0])
    moved = run(params, x[order], c_noise[order], y[order], augment[order], keys[order])
    np.testing.assert_allclose(moved, whole[order], **REORDER)
    other = run(params, x, c_noise, y, augment, keys[::-1])
    assert np.abs(other - whole).max(axis=(1, 2, 3)).min() > 1e-2


@each_network
def test_without_keys_there_is_no_dropout(name):
    x, c_noise, y, augment, keys = tiny.inputs()
    params = tiny.params(name)
    off = tiny.compiled(name)(params, x, c_noise, y, augment, keys)
    on = tiny.compiled(name, dropout=True)(params, x, c_noise, y, augment, keys)
    again = tiny.compiled(name)(params, x, c_noise, y, augment, keys[::-1])
    np.testing.assert_array_equal(off, again)
    assert np.abs(on - off).max(axis=(1, 2, 3)).min() > 1e-2


@each_network
def test_bfloat16_computes_what_float32_does_to_its_precision(name):
    x, c_noise, y, augment, keys = tiny.inputs()
    params = tiny.params(name)
    exact = tiny.compiled(name)(params, x, c_noise, y, augment, keys)
    rough = tiny.compiled(name, "bfloat16")(params, x, c_noise, y, augment, keys)
    assert exact.dtype == rough.dtype == jnp.float32
    error = np.sqrt(np.mean((rough - exact) ** 2) / np.mean(exact**2))
    # Measured: 0.006 to 0.012. bfloat16's own step is 2^-8 = 0.004.
    assert 1e-4 < error < 0.02


@each_network
def test_parameters_are_float32_whatever_the_computation(name):
    float32 = tiny.shapes(tiny.module(name))
    chex.assert_trees_all_equal_dtypes(
        float32, jax.tree.map(jnp.float32, tiny.params(name))
    )
    assert float32 == tiny.shapes(tiny.module(name, dtype="bfloat16"))
    assert float32 == tiny.shapes(tiny.module(name, remat=True))


def test_recomputing_in_the_backward_pass_changes_no_gradient():
    x, c_noise, *_, keys = tiny.inputs()
    one_level = dict(channel_mult=(1,), attn_resolutions=())
    params = tiny.draw(tiny.module("iddpm_unet", **one_level))

    def loss(params, remat):
        network = tiny.module("iddpm_unet", remat=remat, **one_level)
        F = network.apply({"params": params}, x, c_noise, dropout_keys=keys)
        return jnp.mean(F**2)

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    chex.assert_trees_all_close(
        gradient(params, False), gradient(params, True), rtol=1e-4, atol=1e-6
    )


@each_unet
def test_features_are_one_per_level_and_the_middle(name):
    x, c_noise, *_ = tiny.inputs()
    network, params = tiny.module(name), tiny.params(name)
    features = jax.eval_shape(
        lambda: network.apply({"params": params}, x, c_noise, method="encode")
    )
    wide = 8 * network.channel_mult[1]
    assert [f.shape for f in features] == [
        (4, 8, 8, 8),
        (4, 4, 4, wide),
        (4, 4, 4, wide),
    ]


@each_unet
def test_one_pass_gives_output_and_features_of_the_way_up_too(name):
    x, c_noise, y, augment, keys = tiny.inputs()
    network, params = tiny.module(name), tiny.params(name)

    @jax.jit
    def run(params, x):
        more = dict(augment=augment, dropout_keys=keys)
        args = ({"params": params}, x, c_noise, y)
        features = network.apply(*args, **more, method="encode")
        return network.apply(*args, **more, method="with_features"), features

    (F, features), encoded = run(params, x)
    expected = tiny.compiled(name, dropout=True)(params, x, c_noise, y, augment, keys)
    chex.assert_trees_all_close(F, expected, **REORDER)
    chex.assert_trees_all_close(features[:3], encoded, **REORDER)
    wide = 8 * network.channel_mult[1]
    assert [f.shape for f in features[3:]] == [(4, 4, 4, wide), (4, 8, 8, 8)]
    assert all(f.std() > 0.1 for f in features)


@each_network
def test_networks_of_other_widths_and_blocks_have_as_many_features(name):
    def shapes(**fields):
        network = tiny.module(name, **fields)
        x, c_noise, *_ = tiny.inputs()
        run = lambda: network.init_with_output(  # noqa: E731
            jax.random.key(0), x, c_noise, method="with_features"
        )
        return [h.shape[:-1] for h in jax.eval_shape(run)[0][1]]

    assert shapes() == shapes(channels=16, num_blocks=2)


def test_the_encoder_costs_no_decoder():
    x, c_noise, y, augment, keys = tiny.inputs()
    network = tiny.module("iddpm_unet")
    variables = {"params": tiny.params("iddpm_unet")}

    def flops(method):
        run = jax.jit(lambda x: network.apply(variables, x, c_noise, method=method))
        return run.lower(x).compile().cost_analysis()["flops"]

    assert flops("encode") < 0.6 * flops("__call__")


def test_buffers_are_the_only_parameters_that_are_not_trained():
    params = tiny.params("song_unet")
    mask = networks.trainable(params)
    assert mask["map_noise"] == {"freqs": False}
    assert sum(not trained for trained in jax.tree.leaves(mask)) == 1


@pytest.mark.parametrize("variant", ["skip", "standard"])
def test_song_unet_with_skips_of_the_image_starts_as_the_sum_of_its_outputs(variant):
    network = tiny.module("song_unet", encoder="skip", decoder=variant)
    params = tiny.shapes(network)
    assert ("dec_4x4_aux_conv" in params) == (variant == "skip")
    assert params["enc_4x4_aux_skip"]["kernel"].shape == (1, 1, 3, 8)
    x, c_noise, *_ = tiny.inputs()
    out = jax.eval_shape(lambda p: network.apply({"params": p}, x, c_noise), params)
    assert out.shape == x.shape


def test_a_tiny_one_channel_network_for_digits_is_possible():
    network = networks.make(
        "iddpm_unet", channels=24, emb_channels=32, channel_mult=(1, 2), out_channels=1
    )
    x = jnp.zeros((2, 8, 8, 1))
    out = jax.eval_shape(network.init_with_output, jax.random.key(0), x, jnp.zeros(2))
    assert out[0].shape == x.shape


def test_errors_say_what_there_is():
    with pytest.raises(
        ConfigError, match="network='unet': unknown; choose one of .*ddpm_unet"
    ):
        networks.make("unet")
    with pytest.raises(ConfigError, match="no keyword 'chanels'; it has: .*channels"):
        networks.make("ddpm_unet", chanels=3)
    with pytest.raises(ConfigError, match="encoder='residue': must be one of standard"):
        networks.make("song_unet", encoder="residue")
    with pytest.raises(
        ConfigError, match="6x6: a network of 3 levels needs multiples of 4"
    ):
        tiny.shapes(tiny.module("ddpm_unet", channel_mult=(1, 1, 1)), size=6)
