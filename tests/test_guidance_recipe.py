"""Guidance through a recipe: training, grids, pairs, evaluation, refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import points
import pytest
import recipes

from kdiff_jax import build, interop, recipe, samplers
from kdiff_jax.data import pairs
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop import built
from kdiff_jax.pixels import truncate_to_uint8
from kdiff_jax.stages import grids, record, rehearsal
from kdiff_jax.train import generate, measure

W, INTERVAL = 4.0, (0.2, 5.0)


def config(null_prob=0.3):
    from configs import common

    train = dict(num_steps=4, batch_size=8)
    optim = dict(lr=1e-2)
    stages = dict(
        teacher=dict(
            method=dict(name="denoise", null_prob=null_prob), optim=optim, train=train
        ),
        pairs=dict(
            kind="pairs", num_pairs=16, num_held_out=0, shard_size=16, batch_size=16
        ),
        student=dict(
            method=dict(name="denoising_student"),
            optim=optim,
            train=train,
            pairs="pairs",
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "student")),
    )
    sections = points.sections()
    sections["model"]["sampler"] |= dict(guidance=W, guidance_interval=INTERVAL)
    return common.config(
        "guided",
        order=("teacher", "pairs", "student", "evaluate"),
        stages=stages,
        train=common.tiny_train(),
        **sections,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, evaluations of every picture while the student trained)."""
    workdir, seen = tmp_path_factory.mktemp("run"), []
    of_model, patch = generate.of_model, pytest.MonkeyPatch()

    def watched(model, sampler, **keywords):
        seen.append(sampler.nfe)
        return of_model(model, sampler, **keywords)

    patch.setattr(measure, "SECONDS", 0.01)
    patch.setattr(grids.generate, "of_model", watched)
    try:
        recipe.run(config(), workdir, devices=jax.devices()[:1])
    finally:
        patch.undo()
    return workdir, seen


def test_a_model_says_whether_it_knows_no_label(run):
    workdir, _ = run
    teacher, student = (interop.load(workdir / s) for s in ("teacher", "student"))
    assert teacher.spec.null_prob == 0.3
    assert teacher.spec.guidance == W
    # The student learnt guided images by label alone: it is sampled as it is.
    assert student.spec.null_prob is None
    assert student.spec.guidance == 1


def test_pairs_are_of_the_guided_teacher(run):
    workdir, _ = run
    teacher = interop.load(workdir / "teacher")
    made = pairs.open_pairs(workdir / "pairs" / "train")
    z = np.asarray(made.batch(np.arange(16))["z"], np.float32)
    y = jnp.asarray(generate.cycled_labels(16, 8))

    def guided(x_t, t, y):
        free = teacher.net.apply(teacher.params, x_t, t, jnp.full_like(y, -1))
        labelled = teacher.net.apply(teacher.params, x_t, t, y)
        level = teacher.process.sigma(t) / teacher.process.alpha(t)
        inside = ((level > INTERVAL[0]) & (level <= INTERVAL[1]))[:, None, None, None]
        return jnp.where(inside, free + W * (labelled - free), labelled)

    plain = samplers.make("ddim", process=teacher.process, num_steps=4)
    expected = truncate_to_uint8(plain.sample(guided, z, y)).astype(int)
    found = np.asarray(made.batch(np.arange(16))["x0"]).astype(int)
    # z is kept in half precision: a level of 255 or two.
    assert np.abs(found - expected).max() <= 2
    unguided = plain.sample(
        lambda *inputs: teacher.net.apply(teacher.params, *inputs), z, y
    )
    assert np.abs(found - truncate_to_uint8(unguided).astype(int)).max() > 4


def test_rows_and_pictures_tell_of_guidance(run):
    workdir, seen = run
    rows = json.loads((workdir / "report.json").read_text())["rows"]
    teacher, student = rows
    own = interop.load(workdir / "teacher").sampler()
    assert teacher["sampler_options"]["guidance"] == W
    assert teacher["sampler_options"]["guidance_interval"] == list(INTERVAL)
    assert 4 < teacher["nfe"] == own.nfe < 8
    assert student["nfe"] == 4 and "guidance" not in student["sampler_options"]
    # Beside the two models that were measured: the teacher above its student.
    assert own.nfe in seen


def job(tmp_path, found):
    return recipe.make_job(found, tmp_path, devices=jax.devices()[:1])


def test_guidance_without_labels_is_refused_before_anything_starts(tmp_path):
    found = config(null_prob=0.0)
    found.model.num_classes = 0
    with pytest.raises(ConfigError, match="--config.model.sampler.guidance=4.0: this"):
        rehearsal.check(job(tmp_path, found))
    found.model.sampler.guidance = 1.0
    rehearsal.check(job(tmp_path, found))
    found.stages.teacher.method.null_prob = 0.1
    with pytest.raises(ConfigError, match="teacher.method.null_prob=0.1: a network"):
        rehearsal.check(job(tmp_path, found))


def test_a_teacher_that_always_had_labels_is_warned_of_once(tmp_path, caplog):
    built._warn_once.cache_clear()
    found = config(null_prob=0.0)
    for _ in range(2):
        rehearsal.check(job(tmp_path, found))
    assert [x.message[:14] for x in caplog.records] == ["guidance=4.0: "]


def test_of_rounds_the_first_has_the_guided_teacher():
    found = build.plain(recipes.load("digits_progressive", "tiny"))
    found["stages"]["progressive"]["method"]["guidance"] = 3.0
    rounds = [s for s in build.expand(found) if s.name.startswith("progressive")]
    assert [s.method.keywords["guidance"] for s in rounds] == [3.0, 1.0]


def test_a_workdir_of_a_version_without_guidance_goes_on(tmp_path):
    now = build.plain(recipes.load("digits_progressive", "tiny"))
    before = json.loads(json.dumps(now))
    for name in ("teacher", "progressive"):
        for key in ("guidance", "guidance_interval", "null_prob"):
            before["stages"][name]["method"].pop(key, None)
    assert before != now
    assert record.differences(record._with_later_options(before, now), now) == []
