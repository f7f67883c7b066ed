"""Methods whose teacher has guidance: its score is that, and no other network's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kdiff_jax import denoiser, methods, rng
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Context

COSINE = processes.cosine()
KEYS = rng.example_keys(jax.random.key(0), 0, jnp.arange(8))
NET = toy.NETS["teacher"]
OPTIONS = {
    "dmd": {},
    "dmd2": dict(gan_weight=0.0),
    "progressive": {},
    "sid": {},
    "tsm": dict(features="attention"),
}


def by_hand():
    """The teacher with a scale among its parameters: that of the score is 2.5."""

    def apply(params, x_t, t, y, **keywords):
        free = NET.apply(params["net"], x_t, t, jnp.full_like(y, -1), **keywords)
        labelled = NET.apply(params["net"], x_t, t, y, **keywords)
        return free + params["scale"] * (labelled - free)

    def with_features(params, *inputs, **keywords):
        features = NET.with_features(params["net"], *inputs, **keywords)[1]
        return apply(params, *inputs, **keywords), features

    init = lambda key: {"net": NET.init(key), "scale": 1.0}  # noqa: E731
    return NET._replace(init=init, apply=apply, with_features=with_features)


def student_update(name, teacher, wrap, **keywords):
    """(loss, gradient) of the student; `wrap` makes a network's parameters."""
    nets = {**toy.NETS, "teacher": teacher}
    keywords = OPTIONS[name] | keywords
    method = methods.make(name, nets=nets, process=COSINE, **keywords)
    keys = dict(zip(("student", "fake_score", "teacher"), range(3), strict=True))
    made = {role: NET.init(jax.random.key(i)) for role, i in keys.items()}
    params = {"student": made["student"], "fake_score": wrap(made["fake_score"], 1.0)}
    params = {role: params[role] for role in method.nets}
    ctx = Context(
        nets=params,
        ema={},
        frozen={"teacher": wrap(made["teacher"], 2.5)},
        carry=method.carry,
        batch=toy.batch(0),
        keys=KEYS,
        share=toy.SHARE,
        settings=method.settings,
    )
    ctx = ctx._replace(batch=method.prepare(ctx))
    (phase,) = (p for p in method.phases if p.trains == ("student",))

    def loss(student):
        return phase.loss({"student": student}, ctx)[0]

    return jax.value_and_grad(loss)(params["student"])


@pytest.mark.parametrize("name", OPTIONS)
def test_the_teacher_of_a_method_is_guided(name):
    bare = lambda params, scale: params  # noqa: E731
    found = student_update(name, NET, bare, guidance=2.5)
    wrapped = lambda params, scale: {"net": params, "scale": scale}  # noqa: E731
    expected = student_update(name, by_hand(), wrapped)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6),
        found,
        expected,
    )
    value, plain = found[0], student_update(name, NET, bare)[0]
    assert abs(value - plain) > 1e-3 * abs(plain)
    outside = dict(guidance=2.5, guidance_interval=(1e8, 1e9))  # at no level
    np.testing.assert_allclose(
        student_update(name, NET, bare, **outside)[0], plain, rtol=1e-5
    )


def test_a_network_of_one_is_itself_and_one_without_classes_is_refused():
    assert denoiser.guided(NET, COSINE, 1.0) is NET
    nets = {**toy.NETS, "teacher": NET._replace(num_classes=0)}
    with pytest.raises(ConfigError, match="guidance=2.0: a network without classes"):
        methods.make("dmd", nets=nets, process=COSINE, guidance=2.0)


@pytest.mark.parametrize("name", ["denoise", "tsm"])
def test_labels_are_dropped_while_a_network_learns(name):
    seen = []

    def apply(params, x_t, t, y, **keywords):
        seen.append(np.asarray(y))
        return NET.apply(params, x_t, t, y, **keywords)

    nets = {role: NET._replace(apply=apply) for role in ("student", "teacher")}
    params = NET.init(jax.random.key(0))

    def loss(**keywords):
        seen.clear()
        method = methods.make(name, nets=nets, process=COSINE, **keywords)
        ctx = Context(
            nets={"student": params},
            ema={},
            frozen={"teacher": params},
            carry={},
            batch=toy.batch(0),
            keys=KEYS,
            share=toy.SHARE,
            settings=method.settings,
        )
        return method.phases[0].loss({"student": params}, ctx)[0]

    plain = loss()
    assert all((y >= 0).all() for y in seen)
    dropped = loss(null_prob=0.5)
    share = [(y < 0).mean() for y in seen]
    assert 0 < share[0] < 1 and len(set(share)) == 1
    if name == "denoise":
        assert dropped != plain
    unlabelled = {role: net._replace(num_classes=0) for role, net in nets.items()}
    with pytest.raises(ConfigError, match="null_prob=0.5: a network without classes"):
        methods.make(name, nets=unlabelled, process=COSINE, null_prob=0.5)
