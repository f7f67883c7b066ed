"""What a small run leaves: averages of its checkpoints, and figures of many metrics."""

import functools
import json

import jax
import numpy as np
import points
import pytest

from kdiff_jax import interop, recipe
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import convert, training
from kdiff_jax.metrics import figure_name, stats
from kdiff_jax.train import snapshots


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
WIDTHS = {"narrow": 0.05, "wide": 0.1, "other": 0.08}


def flat(model):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(model.params)])


def test_every_metric_is_in_the_report_with_its_provenance(workdir):
    (row,) = json.loads((workdir / "report.json").read_text())["rows"]
    names = "fd fd_low fd_high precision recall density coverage memorised nearest"
    wanted = [figure_name("pixels", name) for name in names.split()]
    assert list(row["metrics"]) == wanted
    assert row["features"]["name"] == "pixels"
    reference = stats.load_stats(workdir / "evaluate" / "reference_pixels.npz")
    assert row["compared_with"] == reference.provenance
    assert reference.seen.rows.shape == (256, 2) and len(reference.data) == 64
    assert [group["num_images"] for group in row["groups"].values()] == [10] * 8
    assert set(row["groups"]["0"]) == {
        "num_images",
        *(name for name in row["metrics"] if "low" not in name and "high" not in name),
    }


def test_averages_are_taken_by_name(stage):
    found = {name: flat(snapshots.load(stage, average=name)) for name in WIDTHS}
    raw = flat(snapshots.load(stage, average="params"))
    np.testing.assert_array_equal(flat(interop.load(stage)), found["wide"])
    step = stage / "checkpoints" / "60"
    np.testing.assert_array_equal(flat(snapshots.load(step, average="params")), raw)
    assert all((raw != one).any() for one in found.values())


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
