"""`precision` in a config: what it reaches and leaves alone, and its older name."""

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import points
import pytest
import recipes

from kdiff_jax import build, domain, interop, recipe
from kdiff_jax.errors import ConfigError
from kdiff_jax.features import lpips
from kdiff_jax.method import Context
from kdiff_jax.methods import dmd
from kdiff_jax.stages import roles


def make_config():
    """Points, with a stage of every kind but the last."""
    stages = recipes.load("digits_progressive", "tiny").to_dict()["stages"]
    stages |= recipes.load("digits_student", "tiny").to_dict()["stages"]
    from configs import common

    order = ("teacher", "progressive", "pairs", "student")
    sections = points.sections() | dict(train=common.tiny_train())
    return common.config("precision", order=order, stages=stages, **sections)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model folder of another run, whose spec names no precision."""
    spec = build.plain(make_config())["model"]
    net, _ = interop.build(spec)
    params = drawn.params(net)
    return interop.save(tmp_path_factory.mktemp("t"), params=params, spec=spec)


def job_of(teacher, workdir, **values):
    config = make_config()
    config.init.teacher = str(teacher)
    with config.unlocked():
        config.update_from_flattened_dict(values)
    return recipe.make_job(config, workdir, devices=jax.devices()[:1])


def stage_of(job, name):
    return next(stage for stage in job.stages if stage.name == name)


def found(job, name):
    return roles.find(job, stage_of(job, name))


def test_it_is_in_every_config_and_refused_if_it_is_none(tmp_path):
    config = make_config()
    assert config.precision is None and config.stages.student.precision is None
    config.precision = "float16"
    with pytest.raises(ConfigError, match="--config.precision=float16: .*bfloat16"):
        build.check(build.plain(config))


@pytest.mark.parametrize(
    ("values", "rounds", "student"),
    [
        ({}, "float32", "float32"),
        ({"precision": "bfloat16"}, "bfloat16", "bfloat16"),
        ({"stages.student.precision": "bfloat16"}, "float32", "bfloat16"),
        (
            {"precision": "bfloat16", "stages.student.precision": "float32"},
            "bfloat16",
            "float32",
        ),
        # The older name, and the new one over it.
        ({"model.network.dtype": "bfloat16"}, "bfloat16", "bfloat16"),
        (
            {"model.network.dtype": "bfloat16", "precision": "float32"},
            "float32",
            "float32",
        ),
    ],
)
def test_a_stage_hands_it_to_its_networks_and_to_no_model(
    values, rounds, student, teacher, tmp_path
):
    job = job_of(teacher, tmp_path, **values)
    for name, expected in (("progressive_2", rounds), ("student", student)):
        given = found(job, name)
        assert {net.precision for net in given.nets.values()} == {expected}
        assert given.teacher.net.precision == expected  # its pictures
        assert given.spec.plain()["network"]["dtype"] == "float32"
        leaves = jax.tree.leaves(given.params)
        assert {leaf.dtype.name for leaf in leaves} == {"float32"}
    pairs = job.model(str(teacher), stage_of(job, "pairs").precision)
    assert pairs.net.precision == rounds


def test_stages_of_another_precision_share_no_program(teacher, tmp_path):
    """And those of one do, whoever says it."""
    held = {}

    def program(name="progressive_2", **values):
        job = job_of(teacher, tmp_path, **values)
        stage, given = stage_of(job, name), found(job, name)
        specs = (given.spec.defining(),)
        networks = build.Networks(given.nets, given.process, specs)
        return build.program(held, job.recipe, stage, networks, mesh=job.mesh).steps

    narrow = program(precision="bfloat16")
    assert program() is not narrow and program() is program()
    assert program(**{"stages.progressive.precision": "bfloat16"}) is narrow


def test_a_model_is_loaded_as_it_is_asked_for(teacher):
    """The same parameters; outputs that differ by bfloat16's rounding, and no more."""
    x, t, y = jnp.ones((2, 1, 1, 2)), 0.5, jnp.arange(2)
    exact, rough = (interop.load(teacher, precision=p) for p in (None, "bfloat16"))
    assert (exact.net.precision, rough.net.precision) == ("float32", "bfloat16")
    jax.tree.map(np.testing.assert_array_equal, exact.params, rough.params)
    found = [np.asarray(model.apply(x, t, y)) for model in (exact, rough)]
    assert found[1].dtype == np.float32
    assert 0 < np.abs(found[1] - found[0]).max() < 0.02


def test_lpips_computes_in_the_precision_of_the_student(monkeypatch):
    seen = []

    def distance(params, x, target, *, dtype):
        seen.append(dtype)
        return (x - target).mean(axis=(1, 2, 3))

    monkeypatch.setattr(lpips, "distance", distance)
    net, process = interop.build(build.plain(make_config())["model"], "bfloat16")
    nets = dict.fromkeys(("student", "teacher"), net)
    files = dict(lpips_weights="vgg.pth", lpips_heads="lin.pth")
    method = dmd.make(nets=nets, process=process, distance="lpips", **files)
    root = jax.random.key(0)
    images, labels = jnp.zeros((2, *net.image_shape)), jnp.zeros(2, jnp.int32)
    batch = {"x0": images, "z": images, "y": labels}

    def loss(params):
        frozen = {"teacher": params, "lpips": ()}
        roles = {"student": params, "fake_score": params}
        share = domain.whole(net.num_classes, (process.t_min, process.t_max))
        keys = jax.random.split(root, 2)
        ctx = Context(roles, {}, frozen, {}, batch, keys, share)
        ctx = ctx._replace(batch=method.prepare(ctx))
        return method.phases[0].loss({"student": params}, ctx)[0]

    jax.eval_shape(loss, jax.eval_shape(net.init, root))
    assert seen == ["bfloat16"]
