"""What a small run leaves: averages of its checkpoints, and figures of many metrics."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import points
import pytest

from kdiff_jax import interop, recipe
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import convert, training
from kdiff_jax.metrics import features, figure_name, frechet_distance, stats
from kdiff_jax.metrics.moments import Moments
from kdiff_jax.report import summary
from kdiff_jax.stages import measured
from kdiff_jax.train import generate, label_protocols, parallel, snapshots


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A stage of 60 steps that keeps six checkpoints of three averages; its figures."""
    points.recipes.load("digits_student", "tiny")
    from configs import common

    powers = {name: dict(power=width) for name, width in WIDTHS.items()}
    section = dict(
        kind="train",
        method=dict(name="denoise"),
        optim=dict(name="adam", lr=0.01, averages=powers),
        train=dict(num_steps=60, batch_size=8, save_every=10, keep=6, result="wide"),
    )
    measured = dict(metrics=METRICS, per="class", bootstrap=3, num_images=80)
    measured |= dict(labels="random", seeds=2)
    config = common.config(
        "averages",
        order=("teacher", "evaluate"),
        stages=dict(
            teacher=section,
            evaluate=dict(kind="evaluate", models=("teacher",), **measured),
        ),
        init={},
        **points.sections(),
    )
    workdir = tmp_path_factory.mktemp("run")
    recipe.run(config, workdir, devices=jax.devices()[:1])
    return workdir


@pytest.fixture
def stage(workdir):
    return workdir / "teacher"


METRICS = ("fd", "prdc", "memorisation")
BEST = ("best", "fd_pixels")
WIDTHS = {"narrow": 0.05, "wide": 0.1, "other": 0.08}


def flat(model):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(model.params)])


def test_every_metric_is_in_the_report_with_its_provenance(workdir):
    (row,) = json.loads((workdir / "report.json").read_text())["rows"]
    names = (
        "fd fd_low fd_high precision recall density coverage precision_low"
        " precision_high density_low density_high memorised nearest memorised_low"
        " memorised_high nearest_low nearest_high"
    )
    wanted = [figure_name("pixels", name) for name in names.split()]
    assert list(row["metrics"]) == wanted
    assert row["features"]["name"] == "pixels"
    reference = stats.load_stats(workdir / "evaluate" / "reference_pixels.npz")
    assert row["compared_with"] == reference.provenance
    assert reference.seen.rows.shape == (256, 2) and len(reference.data) == 64
    drawn = np.bincount(label_protocols.labels("random", 80, 8, row["seed"]))
    assert [one["num_images"] for one in row["groups"].values()] == drawn.tolist()
    assert row["per"] == "class"
    assert set(row["groups"]["0"]) == {
        "num_images",
        *(name for name in row["metrics"] if "low" not in name and "high" not in name),
    }


def test_all_seeds_are_in_the_report_and_the_row_is_that_of_the_best(workdir):
    """Its images are those of the model, asked for one by one."""
    (row,) = json.loads((workdir / "report.json").read_text())["rows"]
    about, each = row["seeds"], row["seeds"]["each"]
    assert row["labels"] == "random" and (about["headline"], about["by"]) == BEST
    values = [one["metrics"]["fd_pixels"] for one in each]
    assert [one["seed"] for one in each] == [1, 2] and values[0] != values[1]
    assert row["metrics"] == each[np.argmin(values)]["metrics"]
    assert row["seed"] == each[np.argmin(values)]["seed"]
    model, found = interop.load(workdir / "teacher"), Moments()
    make = generate.of_model(model, model.sampler(), mesh=parallel.make_mesh())
    labels = label_protocols.labels("random", 80, 8, 2)
    images = make.images(model.students, seed=2, labels=labels, batch_size=80)
    found = found.update(images.reshape(80, -1) / 127.5 - 1)
    reference = stats.load_stats(workdir / "evaluate" / "reference_pixels.npz")
    fd = frechet_distance(found.mu, found.sigma, reference.mu, reference.sigma)
    np.testing.assert_allclose(values[1], fd, rtol=1e-5)
    page = (workdir / "report.html").read_text()
    assert f"best of {', '.join(map(summary.number_text, values))}" in page


def test_averages_are_taken_by_name(stage):
    found = {name: flat(snapshots.load(stage, average=name)) for name in WIDTHS}
    raw = flat(snapshots.load(stage, average="params"))
    np.testing.assert_array_equal(flat(interop.load(stage)), found["wide"])
    step = stage / "checkpoints" / "60"
    np.testing.assert_array_equal(flat(snapshots.load(step, average="params")), raw)
    assert all((raw != one).any() for one in found.values())


def test_a_stage_says_of_which_weights_its_model_is(stage, tmp_path):
    of_stage = stage, stage / "model", stage / "checkpoints" / "60"
    assert [training.result_of(place) for place in of_stage] == ["wide"] * 3
    for place in (stage.parent, tmp_path, stage / "samples", stage / "model" / "x"):
        assert training.result_of(place) is None


@pytest.mark.parametrize("average", ["params", "posthoc:0.08", None])
def test_rows_of_a_converted_model_say_which_average_it_is(stage, tmp_path, average):
    read = average and functools.partial(snapshots.load, average=average)
    model = tmp_path / "model of mine"
    convert.run(stage, model, read=read)
    assert interop.load(model).spec.average == (average or "wide")
    settings = dict.fromkeys(
        (field.name for field in dataclasses.fields(measured.Settings)), None
    )
    settings |= dict(mesh=parallel.make_mesh(jax.devices()[:1]), num_images=4)
    reference = stage.parent / "evaluate" / "reference_pixels.npz"
    settings |= dict(features=features.make("pixels"), metrics=("fd",))
    settings |= dict(reference=str(reference), reference_path=reference)
    settings |= dict(labels="arange", seed=1, seeds=1, headline="best", bootstrap=0)
    told = measured.Settings(**settings | dict(batch_size=4))
    row = measured.model(str(model), told, lambda model: model.sampler())
    assert row["average"] == (average or "wide")
    brought = evaluated(model, tmp_path / "run")
    assert (brought["role"], brought["average"]) == ("teacher", average or "wide")


def test_the_row_of_a_brought_stage_says_which_average_it_is(stage, tmp_path):
    """Also one of before, whose model's file does not say it."""
    shutil.copytree(stage, tmp_path / "teacher")
    model = interop.load(stage)
    spec = model.spec.replace(average=None)
    interop.save(tmp_path / "teacher" / "model", params=model.params, spec=spec)
    row = evaluated(tmp_path / "teacher", tmp_path / "run")
    assert row["average"] == "wide"


def evaluated(teacher, workdir):
    """The row of a brought teacher in the report of a recipe."""
    from configs import common

    sections = points.sections()
    config = common.config(
        "brought",
        order=("evaluate",),
        stages=dict(evaluate=dict(kind="evaluate", models=("teacher",), num_images=4)),
        init=dict(teacher=str(teacher)),
        **sections,
    )
    recipe.run(config, workdir, devices=jax.devices()[:1])
    (row,) = json.loads((workdir / "report.json").read_text())["rows"]
    return row


def test_an_average_that_was_never_kept_is_built(stage, tmp_path, monkeypatch):
    """Told of two, it finds the third, nearer than any of them."""
    exact = flat(snapshots.load(stage, average="other"))
    about = training.description(stage)
    assert about.powers == WIDTHS
    powers = {name: width for name, width in WIDTHS.items() if name != "other"}
    about = about._replace(powers=powers)
    monkeypatch.setattr(training, "description", lambda stage: about)
    built = flat(snapshots.load(stage, average="posthoc:0.08"))
    nearest = min(
        np.abs(flat(snapshots.load(stage, average=name)) - exact).mean()
        for name in powers
    )
    assert np.abs(built - exact).mean() < nearest / 5
    read = functools.partial(snapshots.load, average="posthoc:0.08")
    convert.run(stage, tmp_path / "out", read=read)
    np.testing.assert_array_equal(flat(interop.load(tmp_path / "out")), built)
    same = flat(snapshots.load(stage, average="posthoc:0.1"))
    np.testing.assert_allclose(
        same, flat(snapshots.load(stage, average="wide")), atol=1e-5
    )


def test_what_is_no_average_is_refused(stage, tmp_path, monkeypatch):
    def refused(kind, words, average, path=stage):
        with pytest.raises(kind, match=words):
            snapshots.load(path, average=average)

    refused(CheckpointError, "has no nets/student/ema/slow/", "slow")
    for width in ("0.3", "0", "x", ""):
        words = f"average=posthoc:{width}: a relative width above 0 and below 0.288"
        refused(ConfigError, words, f"posthoc:{width}")
    refused(CheckpointError, "has no checkpoints of a stage", "ema", tmp_path)
    monkeypatch.setattr(training, "find", lambda path: (stage, [0]))
    refused(CheckpointError, "0 snapshots of power averages are too few", "posthoc:.1")
    about = training.description(stage)._replace(powers={})
    monkeypatch.setattr(training, "description", lambda stage: about)
    refused(CheckpointError, "names no power averages; train", "posthoc:0.1")
