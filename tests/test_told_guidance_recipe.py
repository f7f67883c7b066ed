"""Guided distillation through a recipe: a network that is told its guidance."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import points
import pytest
import recipes

from kdiff_jax import build, interop, recipe
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import convert
from kdiff_jax.stages import before, rehearsal
from kdiff_jax.train import generate, measure, parallel

LEVELS = (1, 4.0)  # a whole number is one, too
ONE = jax.devices()[:1]


def config():
    from configs import common

    train = dict(num_steps=4, batch_size=8)
    stages = dict(
        teacher=dict(
            method=dict(name="denoise", null_prob=0.3), optim=points.OPTIM, train=train
        ),
        matching=dict(
            method=dict(name="tsm", weight="constant"),
            init=dict(student="teacher"),
            model=dict(guidance_range=LEVELS),
            optim=points.OPTIM,
            train=train,
        ),
        rounds=dict(
            method=dict(name="progressive"),
            init=dict(teacher="matching"),
            optim=points.OPTIM,
            sampler=dict(name="ddim"),
            rounds=dict(start_steps=4, end_steps=2),
            train=train,
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "matching", "rounds")),
    )
    sections = points.sections()
    sections["model"]["sampler"] |= dict(guidance=2.0)
    return common.config(
        "told",
        order=tuple(stages),
        stages=stages,
        train=common.tiny_train(),
        **sections,
    ).unlock()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder, patch = tmp_path_factory.mktemp("run"), pytest.MonkeyPatch()
    patch.setattr(measure, "SECONDS", 0.01)
    try:
        recipe.run(config(), folder, devices=ONE)
    finally:
        patch.undo()
    return folder


def test_a_model_says_which_guidance_it_reads(workdir):
    for stage in ("matching", "rounds_2"):
        model = interop.load(workdir / stage)
        assert model.spec.guidance_range == LEVELS
        assert model.spec.guidance == 2.0  # the teacher's, stated
        assert "guidance_embedding" in model.params
    assert interop.load(workdir / "teacher").spec.guidance_range is None


def test_a_call_of_the_network_is_one_evaluation(workdir):
    rows = json.loads((workdir / "report.json").read_text())["rows"]
    evaluations = {row["stage"]: row["nfe"] for row in rows}
    assert evaluations == {"teacher": 8, "matching": 4, "rounds_2": 2}
    assert all(row["sampler_options"]["guidance"] == 2.0 for row in rows)


def images(model, **options):
    sampler = model.sampler(**options)
    make = generate.of_model(
        model, sampler, mesh=parallel.make_mesh(ONE), leave=lambda x0: x0
    )
    (made,) = make.batches(
        model.students, seed=0, labels=np.arange(8, dtype=np.int32), batch_size=8
    )
    return made.x0


def test_images_follow_the_guidance_that_is_asked_for(workdir):
    model = interop.load(workdir / "rounds_2")
    weak, strong = (images(model, guidance=w) for w in (1.0, 4.0))
    assert np.abs(weak - strong).max() > 1e-3
    np.testing.assert_array_equal(images(model), images(model, guidance=2.0))
    x_t, t, y = np.ones((2, 1, 1, 2), np.float32), 0.5, np.array([0, 3])
    usual, same, other = (model.apply(x_t, t, y, guidance=w) for w in (None, 2.0, 4.0))
    np.testing.assert_array_equal(usual, same)
    each = model.apply(x_t, t, y, guidance=np.array([2.0, 4.0]))
    np.testing.assert_allclose(each, np.stack([same[0], other[1]]), atol=1e-6)
    assert np.abs(same - other).max() > 0


def test_a_student_begins_as_its_teacher(workdir):
    """Whatever it is told: what reads it begins at zero."""
    found = config()
    job = recipe.make_job(found, workdir, devices=ONE)
    (stage,) = (s for s in job.stages if s.name == "matching")
    teacher = interop.load(workdir / "teacher")
    from kdiff_jax.stages import training_plan
    from kdiff_jax.train.state import init_state, without_axis

    made = training_plan.prepare(job, stage)
    given = made.roles.params
    state = without_axis(init_state(made.method, made.optim, given, jax.random.key(0)))
    x_t, t, y = jnp.ones((2, 1, 1, 2)), jnp.full(2, 0.5), jnp.array([0, 3])
    for w in (1.0, 4.0):
        student = made.roles.nets["student"].apply(
            state.nets["student"].params, x_t, t, y, guidance=jnp.full(2, w)
        )
        np.testing.assert_allclose(student, teacher.apply(x_t, t, y), atol=1e-6)


def test_guidance_out_of_range_is_refused_in_a_line(workdir):
    model = interop.load(workdir / "rounds_2")
    with pytest.raises(ConfigError, match="guidance=9: this network .* for 1 to 4"):
        model.sampler(guidance=9)
    with pytest.raises(ConfigError, match="guidance_interval=.* leave it out"):
        model.sampler(guidance_interval=(0.1, 1.0))
    with pytest.raises(ConfigError, match="guidance=0.5: this network"):
        model.apply(np.ones((1, 1, 1, 2)), 0.5, np.array([0]), guidance=0.5)
    with pytest.raises(ConfigError, match="guidance=2: this model does not read it"):
        teacher = interop.load(workdir / "teacher")
        teacher.apply(np.ones((1, 1, 1, 2)), 0.5, np.array([0]), guidance=2)


def test_no_other_project_has_a_place_for_it(workdir, tmp_path):
    convert.run(workdir / "rounds_2", tmp_path / "own")
    again, model = interop.load(tmp_path / "own"), interop.load(workdir / "rounds_2")
    np.testing.assert_array_equal(images(again), images(model))
    with pytest.raises(CheckpointError, match="target=diffusers: has no place for the"):
        convert.run(workdir / "rounds_2", tmp_path / "other", "diffusers")


@pytest.mark.parametrize(
    "levels, why",
    [
        ((4.0, 1.0), r"guidance_range=\(?\[?4.0, 1.0.* must be \(low, high\)"),
        ((2.0,), "guidance_range="),
        ("2", "guidance_range="),
    ],
)
def test_a_range_that_is_none_is_refused(levels, why, tmp_path):
    found = config()
    found.stages.matching.model = dict(guidance_range=levels)
    with pytest.raises(ConfigError, match=f"--config.stages.matching.model.{why}"):
        recipe.make_job(found, tmp_path, devices=ONE)


def test_what_trains_one_guidance_alone_is_refused(tmp_path):
    found = config()
    found.stages.rounds.method = dict(name="sid")
    del found.stages.rounds.rounds, found.stages.rounds.sampler
    found.stages.evaluate.models = ("teacher",)
    job = recipe.make_job(found, tmp_path, devices=ONE)
    with pytest.raises(ConfigError, match="method 'sid' trains for one guidance alone"):
        rehearsal.check(job)
    found = config()
    found.stages.matching.method.guidance = 2.0
    with pytest.raises(ConfigError, match="guidance=2.0: the student reads its guidan"):
        rehearsal.check(recipe.make_job(found, tmp_path, devices=ONE))


def test_of_rounds_the_first_has_the_interval_alone():
    found = build.plain(config())
    method = dict(name="progressive", guidance_interval=(0.1, 3.0))
    found["stages"]["rounds"] |= dict(
        method=method, rounds=dict(start_steps=4, end_steps=1)
    )
    rounds = [s for s in build.expand(found) if s.name.startswith("rounds")]
    intervals = [s.method.keywords["guidance_interval"] for s in rounds]
    assert intervals == [(0.1, 3.0), None]


def test_the_digits_have_a_recipe_of_it(tmp_path):
    found = build.plain(recipes.load("digits_progressive", "guided"))
    build.check(found)
    job = recipe.make_job(found, tmp_path, devices=ONE)
    trained = [s for s in job.stages if s.kind == "train"]
    assert [s.name for s in trained[1:3]] == ["matching", "progressive_32"]
    for stage in trained[1:]:
        spec = before.spec(job, stage)
        assert spec.guidance_range == (1.0, 4.0), stage.name
        assert spec.guidance == 2.5  # the middle: the teacher has none


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoising_student", "dmd", "dmd2"])
def test_methods_of_one_guidance_take_such_a_teacher(name, tmp_path):
    """As the message of the refusal says: with a student that reads none."""
    found = config().to_dict()
    from configs import common

    stages = {key: found["stages"][key] for key in ("teacher", "matching")}
    stages["pairs"] = common.tiny_pairs() | dict(init=dict(teacher="matching"))
    own = dict(head_groups=1, gan_weight=0.0) if name == "dmd2" else {}
    begin = dict(teacher="matching", student="teacher")
    if name != "denoising_student":
        begin["fake_score"] = "teacher"
    stages["student"] = dict(
        method=dict(name=name, **own),
        init=begin,
        model=dict(guidance_range=None),
        optim=points.OPTIM,
        sampler=dict(name="ddim", num_steps=1),
        pairs="" if name == "dmd2" else "pairs",
        train=dict(num_steps=2, batch_size=8),
    )
    found |= dict(stages=stages, order=tuple(stages))
    recipe.run(common.config(**found), tmp_path, devices=ONE)
    assert interop.load(tmp_path / "student").spec.guidance_range is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [dict(partition=dict(num_groups=2)), dict(precision="bfloat16")]
)
def test_rounds_of_it_in_parts_and_in_bfloat16(more, tmp_path):
    found = config().to_dict()
    from configs import common

    stages = {key: found["stages"][key] for key in ("teacher", "matching", "rounds")}
    stages["rounds"]["partition"] = "partition" in more
    found |= dict(stages=stages, order=tuple(stages), **more)
    recipe.run(common.config(**found), tmp_path, devices=ONE)
    model = interop.load(tmp_path / "rounds_2")
    assert model.spec.guidance_range == LEVELS
    assert model.num_students == (2 if "partition" in more else 1)
