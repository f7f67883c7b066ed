"""The projected discriminator: the paper's shapes, small maps, its pieces by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import IDENTITY, REORDER

from kdiff_jax.discriminators import projected, spectral
from kdiff_jax.discriminators.projected import Discriminator
from kdiff_jax.errors import ConfigError
from kdiff_jax.features import deit_base_distilled as deit


def shapes(sizes, channels, *, num_classes=0, **fields):
    """(logits, params, state) of a discriminator of such maps, as shapes."""
    module = Discriminator(num_classes=num_classes, **fields)
    maps = [jnp.zeros((2, s, s, c)) for s, c in zip(sizes, channels, strict=True)]
    y = jnp.zeros(2, jnp.int32)

    def run():
        variables = module.init(jax.random.key(0), maps, y)
        return module.apply(variables, maps, y), variables

    logits, variables = jax.eval_shape(run)
    return logits, variables["params"], variables[spectral.STATE]


def kernels(head):
    return [
        head[name]["kernel"].shape for name in sorted(head) if name.startswith("conv_")
    ]


def test_the_papers_plan_on_efficientnet():
    logits, params, _ = shapes((56, 28, 14, 7), (24, 40, 112, 320))
    assert logits.shape == (2, 64)  # 16 logits of each of four heads
    mixing = params["projection"]
    assert [mixing[f"ccm_{i}"]["kernel"].shape for i in range(4)] == [
        (1, 1, 24, 64),
        (1, 1, 40, 128),
        (1, 1, 112, 256),
        (1, 1, 320, 512),
    ]
    assert [mixing[f"csm_{i}"]["kernel"].shape[2:] for i in range(4)] == [
        (64, 64),
        (128, 64),
        (256, 128),
        (512, 256),
    ]

    def four(*widths):
        return [(4, 4, a, b) for a, b in zip(widths, widths[1:], strict=False)]

    assert kernels(params["head_0"]) == four(64, 64, 128, 256, 512)
    assert kernels(params["head_1"]) == four(64, 128, 256, 512)
    assert kernels(params["head_2"]) == four(128, 256, 512)
    assert kernels(params["head_3"]) == four(256, 512)
    for i in range(4):
        assert params[f"head_{i}"]["last"]["kernel"].shape == (4, 4, 512, 1)
        assert list(params[f"head_{i}"]["last"]) == ["kernel"]


def test_the_papers_plan_on_vgg_and_labels():
    logits, params, _ = shapes((112, 56, 28, 14), (128, 256, 512, 512), num_classes=10)
    assert logits.shape == (2, 4 * 121)
    assert params["head_0"]["last"]["kernel"].shape == (4, 4, 512, 64)
    assert params["head_0"]["embedding"]["embedding"].shape == (10, 320)
    assert params["head_0"]["condition"]["kernel"].shape == (320, 64)


def test_the_papers_plan_on_deit():
    logits, params, _ = shapes((14,) * 4, (768,) * 4, pyramid=deit.PYRAMID)
    assert logits.shape == (2, 64)
    pyramid = params["projection_pyramid"]
    assert {name: conv["kernel"].shape for name, conv in pyramid.items()} == {
        "to_0": (1, 1, 768, 96),
        "to_1": (1, 1, 768, 192),
        "to_2": (1, 1, 768, 384),
        "to_3": (1, 1, 768, 768),
        "up_0": (4, 4, 96, 96),
        "up_1": (2, 2, 192, 192),
        "down_3": (3, 3, 768, 768),
    }
    mixing = params["projection"]
    assert [mixing[f"ccm_{i}"]["kernel"].shape[2:] for i in range(4)] == [
        (96, 64),
        (192, 128),
        (384, 256),
        (768, 512),
    ]


def test_a_pyramid_is_numpys():
    """Transposed convolutions without overlap, and windows of every second pixel."""
    module = projected.Pyramid((2, 3, 4, 5))
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(4, 2, 4, 4, 6)).astype(np.float32)
    given = [jnp.asarray(x) for x in maps]
    params = jax.jit(module.init)(jax.random.key(0), given)["params"]
    found = module.apply({"params": params}, given)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def to(i):
        return maps[i] @ params[f"to_{i}"]["kernel"][0, 0] + params[f"to_{i}"]["bias"]

    def larger(i, factor):
        # Flax slides its kernel, PyTorch stamps it: one is the other turned around.
        kernel = params[f"up_{i}"]["kernel"][::-1, ::-1]
        blocks = np.einsum("bhwc,ijcd->bhiwjd", to(i), kernel)
        shape = (2, 4 * factor, 4 * factor, -1)
        return blocks.reshape(shape) + params[f"up_{i}"]["bias"]

    padded = np.pad(to(3), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    half = np.einsum(
        "bhwcij,ijcd->bhwd", windows[:, ::2, ::2], params["down_3"]["kernel"]
    )
    wanted = [larger(0, 4), larger(1, 2), to(2), half + params["down_3"]["bias"]]
    assert [x.shape[1] for x in wanted] == [16, 8, 4, 2]
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, **REORDER)
    # PyTorch's bounds: the fan-in of a transposed convolution counts what comes out.
    for name, fan_in in {"up_0": 16 * 2, "up_1": 4 * 3, "down_3": 9 * 5}.items():
        largest = np.abs(params[name]["kernel"]).max() * np.sqrt(fan_in)
        assert 0.8 < largest < 1, name


@pytest.mark.parametrize(
    ("sizes", "num_logits"),
    [
        ((8, 4, 4), 2),  # digits: 16 and 8 pixels halve to 4, one logit each
        ((4, 2, 1), 3),  # 8 halves to 4; 4 and 2 stay: 4x4, 4x4 and 2x2 at last
        ((1,), 1),
    ],
)
def test_small_maps_keep_their_size(sizes, num_logits):
    logits, _, _ = shapes(sizes, [3] * len(sizes), width=4)
    assert logits.shape == (2, num_logits)


def test_maps_of_equal_size_are_one():
    a, b, c = jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 2, 2, 1))
    first, second = projected.by_size([b, a, c])
    assert first.shape == (1, 4, 4, 2)
    np.testing.assert_array_equal(second[0, 0, 0], [0, 0, 0, 1])


def test_enlarge_keeps_corners():
    x = jnp.array([0.0, 3.0])[None, None, :, None]
    got = projected.enlarge(jnp.tile(x, (1, 2, 1, 1)), (4, 4))
    np.testing.assert_allclose(got[0, 1, :, 0], [0, 1, 2, 3], **IDENTITY)
    one = projected.enlarge(jnp.full((1, 1, 1, 1), 7.0), (2, 2))
    np.testing.assert_array_equal(one, jnp.full((1, 2, 2, 1), 7.0))


def test_projection_by_hand():
    """y_1 = csm_1(up(c_1)), y_0 = csm_0(up(y_1 + c_0)); kernels 1, biases 0."""
    module = projected.Projection((1, 1))
    fine = jnp.arange(4.0).reshape(1, 2, 2, 1)
    coarse = jnp.full((1, 1, 1, 1), 10.0)
    params = module.init(jax.random.key(0), [fine, coarse])["params"]
    ones = jax.tree.map_with_path(
        lambda path, p: jnp.full(p.shape, float(path[-1].key == "kernel")), params
    )
    y_0, y_1 = module.apply({"params": ones}, [fine, coarse])
    np.testing.assert_allclose(y_1[0, :, :, 0], [[10, 10], [10, 10]], **IDENTITY)
    np.testing.assert_allclose(
        y_0[0, 0, :, 0], 10 + np.array([0, 1 / 3, 2 / 3, 1]), **IDENTITY
    )
    np.testing.assert_allclose(y_0[0, 3, 3, 0], 13, **IDENTITY)


def test_batch_norm_by_groups():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2)) * 5 + 2
    for group in (1, 2, 4):
        module = projected.GroupedBatchNorm(group)
        got = module.apply(module.init(jax.random.key(0), x), x)
        for start in range(0, 4, group):
            part = got[start : start + group]
            np.testing.assert_allclose(part.mean((0, 1, 2)), np.zeros(2), atol=1e-5)
            np.testing.assert_allclose(part.var((0, 1, 2)), np.ones(2), rtol=1e-4)


def test_a_group_must_divide_the_batch():
    module = Discriminator(width=4, group=4)
    with pytest.raises(
        ConfigError, match="virtual_local_batch=4: does not divide the 6"
    ):
        jax.eval_shape(module.init, jax.random.key(0), [jnp.zeros((6, 4, 4, 2))])


def test_power_iteration_finds_the_largest_singular_value():
    module = spectral.SpectralConv(5, 3, padding=1, use_bias=False)
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 2))
    variables = module.init(jax.random.key(0), x)
    params = variables["params"]
    state = variables[spectral.STATE]
    for _ in range(200):
        y, changed = module.apply(
            {"params": params, spectral.STATE: state}, x, mutable=[spectral.STATE]
        )
        state = changed[spectral.STATE]
    matrix = np.asarray(params["kernel"]).reshape(-1, 5)
    sigma = np.linalg.svd(matrix, compute_uv=False)[0]
    plain = jax.lax.conv_general_dilated(
        x,
        params["kernel"],
        (1, 1),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(y, plain / sigma, **REORDER)


def test_the_state_depends_on_no_key_and_moves_only_when_asked():
    module = spectral.SpectralConv(5, 3)
    x = jnp.ones((1, 4, 4, 2))
    one, two = (module.init(jax.random.key(i), x) for i in range(2))
    np.testing.assert_array_equal(one[spectral.STATE]["u"], two[spectral.STATE]["u"])
    assert module.apply(one, x).shape == (1, 2, 2, 5)  # no state comes back


def test_the_gradient_sees_sigma_as_linear_in_the_kernel():
    """W and 2 W give the same output, and so nothing pulls along W."""
    module = spectral.SpectralConv(3, 2, use_bias=False)
    x = jax.random.normal(jax.random.key(1), (1, 3, 3, 2))
    variables = module.init(jax.random.key(0), x)
    kernel, state = variables["params"]["kernel"], variables[spectral.STATE]

    def value(factor):
        params = {"kernel": factor * kernel}
        return (module.apply({"params": params, spectral.STATE: state}, x) ** 2).sum()

    np.testing.assert_allclose(value(2.0), value(1.0), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(value)(1.0), 0, atol=1e-5)


def test_labels_change_the_logits():
    module = Discriminator(width=4, num_classes=3)
    maps = [jax.random.normal(jax.random.key(0), (3, 4, 4, 2))]
    y = jnp.array([0, 1, 1])
    variables = jax.jit(module.init)(jax.random.key(1), maps, y)
    first = module.apply(variables, maps, y)
    second = module.apply(variables, maps, jnp.array([0, 2, 1]))
    same = np.isclose(first, second).all(axis=1)
    np.testing.assert_array_equal(same, [True, False, True])


def test_only_the_random_projection_is_frozen():
    _, params, _ = shapes((8,) * 4, (2,) * 4, width=4, pyramid=(2, 2, 2, 2))
    for path, _ in jax.tree.leaves_with_path({"teacher_0": params}):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert projected.trainable(name) == ("head_" in name)
