"""A stage that begins with the roles of another: the two stages of DMD2."""

import jax
import numpy as np
import pytest
import recipes

from kdiff_jax import build, interop, recipe
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import training
from kdiff_jax.stages import train
from kdiff_jax.train import loop

pytestmark = pytest.mark.slow  # a minute of compiling


def two_stages(teacher):
    """digits_dmd2 with a student of two steps, without and then with a GAN."""
    config = build.plain(recipes.load("digits_dmd2", "tiny"))
    config["model"]["network"]["channel_mult"] = [1]
    net, _ = interop.build(config["model"])
    params = net.init(jax.random.key(0))
    interop.save(teacher, params=params, spec=config["model"])
    config["init"]["teacher"] = str(teacher)
    student = config["stages"]["student"]
    student["method"] |= dict(student_every=1, num_steps=2)
    student["sampler"] = dict(name="renoise", num_steps=2)
    alone = student | dict(method=student["method"] | dict(gan_weight=0.0))
    roles = dict(student="matching", fake_score="matching/fake_score")
    config["stages"] |= dict(matching=alone, student=student | dict(init=roles))
    config["order"] = ["matching", "student"]
    for name in config["order"]:
        stage = config["stages"][name]
        config["stages"][name] = stage | dict(
            train=dict(num_steps=2, batch_size=4, result="params"),
            optim=dict(lr=1e-3),
        )
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(config, workdir of a finished run, stage -> the nets it began with)."""
    workdir = tmp_path_factory.mktemp("run")
    config, begun, run = two_stages(workdir / "given"), [], loop.run

    def watched(programs, state, **keywords):
        begun.append(jax.device_get(state.nets))
        return run(programs, state, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run", watched)
        recipe.run(config, workdir, devices=jax.devices()[:1])
    return config, workdir, dict(zip(config["order"], begun, strict=True))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_roles_begin_where_the_stage_before_ended(finished):
    _, workdir, begun = finished
    for role in ("student", "fake_score"):
        last = training.role(workdir / "matching", role)
        assert_equal(begun["student"][role].params, last)
        before = begun["matching"][role].params
        moved = jax.tree.map(lambda a, b: (a != b).any(), last, before)
        assert any(jax.tree.leaves(moved)), role


def test_optimizers_begin_anew_and_the_discriminator_is_added(finished):
    _, _, begun = finished
    assert set(begun["student"]) - set(begun["matching"]) == {"disc"}
    for net in begun["student"].values():
        for leaf in jax.tree.leaves(net.opt_state):
            assert not np.any(leaf)


def test_a_student_of_two_steps_leaves_a_model_of_two_steps(finished):
    _, workdir, _ = finished
    sampler = interop.load(workdir / "student").sampler()
    assert (sampler.name, sampler.nfe) == ("renoise", 2)


def test_a_narrower_student_does_not_begin_as_its_teacher(tmp_path):
    config = two_stages(tmp_path / "given")
    config["order"] = ["matching"]
    channels = config["model"]["network"]["channels"]
    narrower = {"network": {"channels": channels // 2}}
    config["stages"]["matching"] |= {"model": narrower}
    job = recipe.make_job(config, tmp_path / "run", devices=jax.devices()[:1])
    (stage,) = job.stages
    text = (
        "init.student='teacher': is of another network than the student of stage"
        " 'matching'; make .* set init.student to .* 'random'"
    )
    with pytest.raises(CheckpointError, match=text) as caught:
        train.run(job, stage)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 4
    assert not job.folder("matching").exists()


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        (
            "matching/disc",
            CheckpointError,
            "matching/checkpoints/2: it has no nets/disc/params/",
        ),
        (
            "student/disc",
            ConfigError,
            "init.fake_score='student/disc': is no training stage before 'student'",
        ),
    ],
)
def test_what_a_role_cannot_begin_with_is_named(finished, source, error, text):
    config, workdir, _ = finished
    config = {**config, "order": [*config["order"], "evaluate"]}
    init = {"fake_score": source}
    student = {**config["stages"]["student"], "init": init}
    config["stages"] = {**config["stages"], "student": student}
    with pytest.raises(error, match=text):
        job = recipe.make_job(config, workdir, devices=jax.devices()[:1])
        train.run(job, next(s for s in job.stages if s.name == "student"))
