"""What a stage leaves: asked for in vain, it is refused before anything runs."""

import json
import shutil

import jax
import numpy as np
import points
import pytest
import recipes
from safetensors import numpy as safetensors

from configs import common, digits
from kdiff_jax import build, interop, methods, plan, recipe, sealed
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop.trees import flatten
from kdiff_jax.report import metrics_log
from kdiff_jax.stages import results

PAIRS = dict(kind="pairs", num_pairs=32, num_held_out=8, shard_size=8, batch_size=8)
# Beside the pairs, which all of them train on.
STUDENTS = dict(
    denoise=dict(method=dict(name="denoise")),
    denoising_student=dict(method=dict(name="denoising_student")),
    progressive=dict(method=dict(name="progressive"), settings=dict(num_steps=2)),
    tsm=dict(method=dict(name="tsm")),
)

FIGURES = {"train.figure_every": 2, "stages.dmd.train.result": "ema"}
BY_FD = FIGURES | {"train.best_by": "fd", "stages.dmd.train.result": "best"}


def config(*names):
    """A teacher, pairs, and a student by each of these methods, the best of each."""
    sections = points.sections()
    stages = dict(teacher=digits.teacher(tiny=True), pairs=PAIRS)
    for name in names:
        stages[name] = STUDENTS.get(name, dict(method=dict(name=name))) | dict(
            pairs="pairs",
            optim=dict(lr=1e-2, ema_decay=0.5),
            sampler=dict(name="ddim", num_steps=1),
            train=dict(num_steps=6, batch_size=8, result="best", validate_every=2),
        )
    stages["teacher"]["train"] = dict(num_steps=1, batch_size=8)
    sections["train"] = dict(log_every=2, save_every=100, sample_every=100)
    order = ("teacher", "pairs", *names)
    return build.plain(common.config("results", order=order, stages=stages, **sections))


def check(found, tmp_path):
    results.check(recipe.make_job(found, tmp_path, devices=jax.devices()[:1]))


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("dmd", {}, "stages.dmd.train.result='best': the loss of the method 'dmd'"),
        ("gdd", {}, "'gdd' needs more than pairs.*; choose params or ema"),
        ("tsm", {"stages.tsm.pairs": ""}, "the stage has none; name a stage of pairs"),
        ("tsm", {"stages.tsm.pairs": "pears"}, "is no stage of pairs; the config has"),
        ("tsm", {"stages.pairs.num_held_out": 0}, "stages.pairs.num_held_out=0: "),
        ("tsm", {"stages.tsm.optim": dict(lr=1e-2)}, "keeps no moving average; set"),
        ("dmd", BY_FD | {"train.figure_every": 0}, "set --config.train.figure_every=N"),
        ("dmd", BY_FD | {"evaluate.features": ""}, "names nothing to measure on; name"),
        ("dmd", BY_FD | {"train.figure_images": 1}, "figure_images=1: a figure needs"),
        (
            "dmd",
            BY_FD | {"train.best_by": "kd"},
            "choose one of fd_pixels, held_out_lo",
        ),
        (
            "dmd",
            BY_FD | {"train.figure_metrics": ["fid"]},
            "figure_metrics: .*fid.*; choose one of class_accuracy, clip_score, fd, ",
        ),
        (
            "dmd",
            BY_FD | {"train.figure_average": "slow"},
            "figure_average='slow': .* of stage 'teacher', which has ema; choose",
        ),
        (
            "dmd",
            BY_FD | {"stages.dmd.train.figure_average": "slow"},
            "stages.dmd.train.result='best': is no moving .* has ema; choose",
        ),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_runs(name, changes, text, tmp_path):
    found = config(name)
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = found
        for part in sections:
            section = section[part]
        section[key] = value
    for act in (
        lambda: recipe.run(found, tmp_path / "run", devices=jax.devices()[:1]),
        lambda: plan.text(recipe.make_job(found, tmp_path, devices=jax.devices()[:1])),
    ):
        with pytest.raises(ConfigError, match=text) as caught:
            act()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "teacher").exists()


def test_an_average_that_nobody_keeps_is_no_result(tmp_path):
    found = config("denoise")
    found["stages"]["denoise"]["train"]["result"] = "ema"
    check(found, tmp_path)
    found["stages"]["denoise"]["optim"] = dict(lr=1e-2)
    with pytest.raises(ConfigError, match="result='ema': the student keeps no moving"):
        check(found, tmp_path)
    # The ways out that it names.
    found["stages"]["denoise"]["optim"] = dict(lr=1e-2, ema_half_life=100.0)
    check(found, tmp_path)
    found["stages"]["denoise"]["optim"] = dict(lr=1e-2)
    found["stages"]["denoise"]["train"]["result"] = "params"
    check(found, tmp_path)


# One of each of these stands for the others, whose networks take seconds to trace.
ALIKE = {
    *("sd15_dmd2", "sd15_msd", "sd15_student", "sd15_o2mkd"),
    *("dit256_gdd", "dit256_progressive", "cifar10_latent"),
    *("cifar10_text", "cifar10_text_o2mkd"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ())
        for name in recipes.names()
    ],
)
def test_every_recipe_has_the_results_that_it_asks_for(name, tmp_path):
    for size in ((), ("tiny",)):
        check(build.plain(recipes.load(name, *size)), tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("progressive",),
        pytest.param(("denoise", "denoising_student", "tsm"), marks=pytest.mark.slow),
    ],
)
def test_the_best_is_the_average_with_the_lowest_score(names, tmp_path):
    """Of each method whose loss needs nothing but pairs; its own, on those held out."""
    recipe.run(config(*names), tmp_path, devices=jax.devices()[:1])
    for name in names:
        lines = metrics_log.read(tmp_path / name / "metrics.jsonl")
        scores = {line["step"]: line["held_out_loss"] for line in lines}
        assert list(scores) == [2, 4, 6] and np.isfinite(list(scores.values())).all()
        blob = (tmp_path / name / "best.safetensors").read_bytes()
        best = safetensors.load(blob)
        model = flatten(interop.load(tmp_path / name).params)
        assert best.keys() == model.keys()
        for path, leaf in best.items():
            np.testing.assert_array_equal(leaf, model[path])

    # A stage that begins anew does not take the best of the attempt before.
    for left in ("checkpoints", "model", "done.json", "metrics.jsonl"):
        path = tmp_path / name / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    better = sealed.seal({"step": 2, "loss": -1.0, "leaves": sealed.digest_of(best)})
    other = safetensors.save(best, {"best": json.dumps(better)})
    (tmp_path / name / "best.safetensors").write_bytes(other)
    recipe.run(config(*names), tmp_path, devices=jax.devices()[:1])
    assert (tmp_path / name / "best.safetensors").read_bytes() == blob


def test_the_methods_that_score_pairs_are_those_of_one_loss():
    assert [n for n in methods.names() if methods.scores_pairs(n)] == sorted(STUDENTS)
