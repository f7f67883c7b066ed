"""For every method: the best step of a stage, chosen while it trains, kept on resume.

What a figure is stands in test_quick, on one method; here figures and losses are given
numbers, so that it is known which step is the best.
"""

import jax
import numpy as np
import points
import pytest
from safetensors import numpy as safetensors

from configs import common, digits
from kdiff_jax import build, interop, methods, recipe
from kdiff_jax.errors import Interrupted
from kdiff_jax.interop.trees import flatten
from kdiff_jax.metrics import table
from kdiff_jax.networks import mlp
from kdiff_jax.report import metrics_log
from kdiff_jax.stages import facts, held_out
from kdiff_jax.train import generate, label_protocols, measure, parallel, signals

NUM_IMAGES = 12
VALUES = {2: 0.9, 4: 0.5, 6: 0.7, 8: 0.6}  # of the steps; the run stops at the third
STOP = 3
PAIRS = dict(kind="pairs", num_pairs=16, num_held_out=8, shard_size=8, batch_size=8)
# The other settings of each method are its own.
SETTINGS = dict(
    dmd2=dict(student_every=2, head_groups=1),
    gdd=dict(noise_levels=(0.5,), width=2, virtual_local_batch=4),
)
FAST = ("dmd", "progressive", "tsm")  # one has a fake score, two score pairs


def some(names):
    """All methods, the others with --all."""
    slow = pytest.mark.slow
    return [pytest.param(n, marks=() if n in FAST else slow) for n in names]


def config(name, **train):
    """A teacher of one step, pairs, and a student by this method."""
    teacher, sections = digits.teacher(tiny=True), points.sections()
    teacher["train"] = dict(num_steps=1, batch_size=8)
    if name in ("gdd", "dmd2"):  # of eight, a discriminator's norms would see two
        sections["model"]["network"]["channels"] = 32
    student = dict(
        method=dict(name=name, **SETTINGS.get(name, {})),
        optim=points.OPTIM,
        pairs="pairs",
        train=dict(num_steps=8, batch_size=8, result="best", **train),
    )
    if name != "sid":  # which names its own
        student["sampler"] = dict(name="ddim", num_steps=1)
    if name == "progressive":
        student["settings"] = dict(num_steps=2)
    sections["train"] = dict(log_every=2, sample_every=100, save_every=2)
    stages = dict(teacher=teacher, pairs=PAIRS, student=student)
    order = ("teacher", "pairs", "student")
    return build.plain(common.config("best", order=order, stages=stages, **sections))


def run(found, workdir):
    recipe.run(found, workdir, devices=jax.devices()[:1])
    return workdir / "student"


def stopped_and_resumed(found, workdir):
    """(folder, the file of the best when the run was stopped)."""
    with pytest.raises(Interrupted):
        run(found, workdir)
    blob = (workdir / "student" / "best.safetensors").read_bytes()
    return run(found, workdir), blob


def check(folder, blob, figure, of_log):
    """The best is that of step 4, before the stop, and it is what the stage leaves."""
    best = facts(folder)["best"]
    assert (best["step"], best["value"], best["figure"]) == (4, VALUES[4], figure)
    assert (folder / "best.safetensors").read_bytes() == blob
    lines = metrics_log.read(folder / "metrics.jsonl")
    assert {x["step"]: x[of_log] for x in lines if of_log in x} == VALUES
    leaves, model = safetensors.load(blob), flatten(interop.load(folder).params)
    assert leaves.keys() == model.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, model[path])


def looked_at(folder):
    """The features of the images that the stage's model makes."""
    model = interop.load(folder)
    mesh = parallel.make_mesh(jax.devices()[:1])
    make = generate.of_model(model, model.sampler(), mesh=mesh)
    labels = label_protocols.labels("arange", NUM_IMAGES, 8, 1)
    return make.images(model.students, seed=1, labels=labels, batch_size=NUM_IMAGES)


@pytest.mark.parametrize("name", some(methods.names()))
def test_the_best_by_a_figure_is_kept_by_a_run_that_is_resumed(
    name, tmp_path, monkeypatch
):
    """It is the average that made the images of that step."""
    if name in ("gdd", "dmd2"):
        monkeypatch.setattr(mlp, "make", points.Features2x2)
    values, seen, calls = [*VALUES.values()], [], []
    look = measure.looked_at

    def stops(*args, **keywords):
        calls.append(args)
        if len(calls) == STOP:
            raise Interrupted("stopped while sampling")
        return look(*args, **keywords | dict(places=np.arange(NUM_IMAGES)))

    def told(names, features, found, reference):
        seen.append(found.main.mu)
        return {"fd_pixels": values[len(seen) - 1]}

    monkeypatch.setattr(measure, "looked_at", stops)
    monkeypatch.setattr(table, "measure", told)
    about = dict(figure_every=2, figure_images=NUM_IMAGES, figure_average="ema")
    found = config(name, best_by="fd", **about)
    folder, blob = stopped_and_resumed(found, tmp_path)
    check(folder, blob, "fd_pixels", f"fd_pixels_n{NUM_IMAGES}_ema")
    assert len(seen) == len(VALUES)
    made = looked_at(folder).reshape(NUM_IMAGES, -1) / 127.5 - 1
    np.testing.assert_allclose(made.mean(axis=0), seen[1], atol=1e-6)
    others = [np.abs(one - seen[1]).max() for i, one in enumerate(seen) if i != 1]
    assert min(others) > 1e-4


@pytest.mark.parametrize(
    "name", some([n for n in methods.names() if methods.scores_pairs(n)])
)
def test_the_best_by_the_held_out_loss_is_kept_by_a_run_that_is_resumed(
    name, tmp_path, monkeypatch
):
    """A signal is heard of when the score is there."""
    values, scores, stop = [*VALUES.values()], [], []
    score = held_out.HeldOut.score

    def told(self, params):
        scores.append(score(self, params))
        stop.extend([True] * (len(scores) == STOP))
        return values[len(scores) - 1]

    monkeypatch.setattr(held_out.HeldOut, "score", told)
    monkeypatch.setattr(signals, "asked", lambda: bool(stop and stop.pop()))
    found = config(name, validate_every=2)
    folder, blob = stopped_and_resumed(found, tmp_path)
    check(folder, blob, "held_out_loss", "held_out_loss")
    assert len(set(scores)) == len(VALUES) and np.isfinite(scores).all()
