"""Teacher score matching against NumPy, with features and without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from kdiff_jax import methods, rng
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import ConfigError
from kdiff_jax.losses import features
from kdiff_jax.method import Context, Net
from kdiff_jax.train.state import Optim, init_state
from kdiff_jax.train.step import make_train_step

COSINE = processes.cosine()
KEYS = rng.example_keys(jax.random.key(0), 0, jnp.arange(8))
BATCH = toy.batch(0)
WIDE = {"student": toy.denoiser(8), "teacher": toy.denoiser(16)}


def build(nets=WIDE, process=COSINE, **keywords):
    """(method, its loss, context with other numbers in student and teacher)."""
    method = methods.make("tsm", nets=nets, process=process, **keywords)
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        role: net.init(key)
        for (role, net), key in zip(method.nets.items(), keys, strict=False)
    }
    frozen = {"teacher": nets["teacher"].init(keys[2])}
    context = Context(params, {}, frozen, {}, BATCH, KEYS, toy.SHARE)
    return method, method.phases[0].loss, context


def features_of(net, params, x_t, t):
    return net.with_features(params, x_t, t, BATCH["y"])[1]


@pytest.mark.parametrize("task_weight", [0.0, 0.7])
@pytest.mark.parametrize("weight", ["snr", "edm"])
def test_loss_by_hand(weight, task_weight):
    half = Net(lambda key: {}, lambda p, x_t, t, y, **_: p["w"] * x_t)
    method = methods.make(
        "tsm",
        nets={"student": half, "teacher": half},
        process=COSINE,
        weight=weight,
        task_weight=task_weight,
    )
    frozen = {"teacher": {"w": jnp.float32(0.8)}}
    context = Context({}, {}, frozen, {}, BATCH, KEYS, toy.SHARE)
    found, aux = method.phases[0].loss({"student": {"w": jnp.float32(0.5)}}, context)
    x0 = np.asarray(BATCH["x0"], np.float64)
    eps = np.asarray(rng.normal(KEYS, "eps", toy.SHAPE), np.float64)
    t = np.asarray(rng.uniform(KEYS, "t"), np.float64)
    b = np.arctan(np.exp(-10.0))
    alpha, sigma = (f((np.pi / 2 - 2 * b) * t + b) for f in (np.cos, np.sin))
    x_t = alpha[:, None, None, None] * x0 + sigma[:, None, None, None] * eps
    teacher_error = (0.3 * x_t**2 * 0.3).mean((1, 2, 3))
    x0_error = ((0.5 * x_t - x0) ** 2).mean((1, 2, 3))
    factor = (alpha / sigma) ** 2 + (4 if weight == "edm" else 0)
    expected = (factor * (teacher_error + task_weight * x0_error)).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    metrics = aux.metrics
    np.testing.assert_allclose(
        metrics["teacher_error"], teacher_error.mean(), rtol=1e-4
    )
    np.testing.assert_allclose(metrics["x0_error"], x0_error.mean(), rtol=1e-4)


@pytest.mark.parametrize("name", ["none", "fitnet", "attention", "relational"])
def test_a_student_that_is_the_teacher_stands_still(name):
    nets = dict(WIDE, student=toy.denoiser(16))
    method, loss, context = build(nets, features=name, feature_weight=1.0)
    assert set(method.nets) == {"student"}  # equal widths need no adapters
    params = {"student": context.frozen["teacher"]}
    (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, context)
    # Differentiated and not, distances may differ in their last bit.
    assert value < 1e-12
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_allclose(leaf, np.zeros_like(leaf), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "weight"), [("fitnet", 0.01), ("attention", 10.0), ("relational", 0.3)]
)
def test_each_distance_has_a_weight_of_its_size(name, weight):
    """At one weight for all, that of attention would be a thousandth of the others."""
    values = {}
    for given in (None, 0.0, 1.0):
        _, loss, context = build(features=name, feature_weight=given)
        values[given], _ = loss(context.nets, context)
    part = (values[None] - values[0.0]) / (values[1.0] - values[0.0])
    np.testing.assert_allclose(part, weight, rtol=2e-3)


@pytest.mark.parametrize("name", ["fitnet", "attention", "relational"])
def test_features_of_every_level_are_compared(name):
    method, loss, context = build(features=name, feature_weight=3.0, weight="constant")
    params = context.nets
    value, aux = loss(params, context)
    t = rng.uniform(KEYS, "t")
    x_t = COSINE.add_noise(BATCH["x0"], rng.normal(KEYS, "eps", toy.SHAPE), t)
    ours = features_of(WIDE["student"], params["student"], x_t, t)
    theirs = features_of(WIDE["teacher"], context.frozen["teacher"], x_t, t)
    assert len(ours) == 4
    if name == "fitnet":
        # Widths differ in the two hidden maps alone; toy's first and last are images.
        assert sorted(params["adapters"]) == ["level_1", "level_2"]
        for i in (1, 2):
            leaf = params["adapters"][f"level_{i}"]
            leaf["bias"] = leaf["bias"] + 0.1
            ours[i] = np.asarray(ours[i]) @ np.asarray(leaf["kernel"]) + 0.1
        value, aux = loss(params, context)
    else:
        assert set(method.nets) == {"student"}
    distance = {"fitnet": features.mse}.get(name, getattr(features, name, None))
    parts = [
        distance(jnp.asarray(a), jnp.asarray(b)).mean()
        for a, b in zip(ours, theirs, strict=True)
    ]
    np.testing.assert_allclose(aux.metrics["features"], sum(parts), rtol=1e-4)
    expected = aux.metrics["teacher_error"] + 3.0 * sum(parts)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def with_maps(net, pixels):
    """The network, with features of so many pixels that depend on its parameters."""

    def with_features(params, *args, **keywords):
        x0_hat = net.apply(params, *args, **keywords)
        m = len(x0_hat)
        sizes = enumerate(pixels, 1)
        return x0_hat, [
            jnp.broadcast_to(k * params["w"].sum(), (m, n, n, 1)) for k, n in sizes
        ]

    return net._replace(with_features=with_features)


@pytest.mark.parametrize(
    ("pixels", "pairs"),
    [
        ([4, 2, 2, 4], [(1, 1), (2, 2), (3, 4), (4, 5)]),  # no bottleneck
        ([4, 4], [(1, 1), (2, 5)]),  # and no innermost level
        ([4, 2, 2, 2, 4], [(k, k) for k in range(1, 6)]),
    ],
)
def test_a_student_without_the_innermost_blocks_has_features_of_the_others(
    pixels, pairs
):
    nets = dict(
        student=with_maps(WIDE["student"], pixels),
        teacher=with_maps(WIDE["teacher"], [4, 2, 2, 2, 4]),
    )
    method, loss, context = build(nets, features="fitnet", feature_weight=1.0)
    assert set(method.nets) == {"student"}
    ours, theirs = (
        float(p["w"].sum())
        for p in (context.nets["student"], context.frozen["teacher"])
    )

    def features_alone(params, frozen):
        _, aux = loss(params, context._replace(frozen=frozen))
        return aux.metrics["features"]

    value, (of_student, of_teacher) = jax.value_and_grad(features_alone, (0, 1))(
        context.nets, context.frozen
    )
    expected = sum((i * ours - j * theirs) ** 2 for i, j in pairs)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert np.abs(of_student["student"]["w"]).max() > 0
    assert not np.any(of_teacher["teacher"]["w"])


def test_adapters_are_trained_with_the_student():
    method, _, context = build(features="fitnet")
    sgd = Optim(optax.identity(), lambda step, n: 0.1, toy.EMAS)
    optim = {role: sgd for role in method.nets}
    state = init_state(method, optim, context.frozen, jax.random.key(0))
    assert jax.tree.map(jnp.shape, state.nets["adapters"].params) == {
        "level_1": {"kernel": (1, 2, 4), "bias": (1, 4)},
        "level_2": {"kernel": (1, 8, 16), "bias": (1, 16)},
    }
    step = jax.jit(make_train_step(method, optim, method.phases))
    numbers = toy.numbers(method, 10)
    new, metrics = step(state, context.frozen, numbers, BATCH, KEYS)
    for role in ("student", "adapters"):
        moved = jax.tree.map(
            lambda a, b: bool((a != b).any()),
            new.nets[role].params,
            state.nets[role].params,
        )
        assert all(jax.tree.leaves(moved)), role
    later = step(new, context.frozen, numbers, BATCH, KEYS)[1]
    assert later["tsm/features"] < metrics["tsm/features"]


def test_a_student_has_a_network_of_its_own_size():
    method, _, context = build()
    sgd = Optim(optax.identity(), lambda step, n: 0.1, toy.EMAS)
    state = init_state(method, {"student": sgd}, context.frozen, jax.random.key(0))
    assert state.nets["student"].params["v"].shape == (1, 8, toy.DIM)


def test_times_are_those_that_the_student_owns():
    seen = []

    def spy(params, x_t, t, y, **_):
        seen.append(t)
        return params["w"] * x_t

    net = Net(lambda key: {}, spy)
    nets = {"student": net, "teacher": net}
    method = methods.make("tsm", nets=nets, process=COSINE)
    share = toy.SHARE._replace(t_range=jnp.float32([0.25, 0.5]))
    params = {"w": jnp.float32(1)}
    context = Context({}, {}, {"teacher": params}, {}, BATCH, KEYS, share)
    method.phases[0].loss({"student": params}, context)
    whole = np.asarray(rng.uniform(KEYS, "t"))
    for t in seen:
        np.testing.assert_allclose(t, 0.25 + 0.25 * whole, rtol=1e-6)


def test_other_structures_are_refused():
    def deeper(net):
        def with_features(*args, **keywords):
            x0_hat, found = net.with_features(*args, **keywords)
            return x0_hat, [*found, x0_hat]

        return net._replace(with_features=with_features)

    nets = dict(WIDE, student=deeper(WIDE["student"]))
    with pytest.raises(ConfigError, match=r"levels of \[4, 2, 1, 4, 4\].*\[4, 2, 1, 4"):
        build(nets, features="attention")
    plain = WIDE["teacher"]._replace(with_features=None)
    with pytest.raises(ConfigError, match="the teacher has none to compare"):
        build(dict(WIDE, teacher=plain), features="fitnet")
    with pytest.raises(ConfigError, match="features='hints': unknown; choose one of"):
        build(features="hints")
