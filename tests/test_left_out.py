"""Figures without their public weights are left out, and measured once these come."""

import json

import jax
import points
import pytest

from kdiff_jax import recipe
from kdiff_jax.errors import CheckpointError
from kdiff_jax.features import WeightsFile, pixels, weights_files
from kdiff_jax.metrics import features
from kdiff_jax.stages import is_done


@pytest.fixture
def public(monkeypatch, tmp_path):
    """Pixels as features of a public file, which is not there."""
    file = WeightsFile("pixels.npz", "a page", url="http://localhost:9/pixels.npz")
    monkeypatch.setenv(weights_files.FOLDER, str(tmp_path / "weights"))
    monkeypatch.setattr(pixels, "FILE", file)
    monkeypatch.setattr(pixels, "load", lambda path: {}, raising=False)
    return weights_files.place(file)


def config():
    points.recipes.load("digits_student", "tiny")
    from configs import common

    train = dict(num_steps=2, batch_size=8)
    teacher = dict(method=dict(name="denoise"), optim=dict(lr=1e-2), train=train)
    return common.config(
        "left_out",
        order=("teacher", "evaluate"),
        stages=dict(
            teacher=teacher,
            evaluate=dict(kind="evaluate", models=("teacher",), num_images=20),
        ),
        init={},
        **points.sections(),
    )


def run(workdir, **evaluate):
    about = config()
    about.evaluate.update(evaluate)
    recipe.run(about, workdir, devices=jax.devices()[:1])
    (row,) = json.loads((workdir / "report.json").read_text())["rows"]
    return row


def test_a_run_ends_without_them_and_measures_them_when_they_are_there(
    public, tmp_path, caplog
):
    workdir = tmp_path / "run"
    with caplog.at_level("INFO"):
        row = run(workdir)
    assert row["metrics"] == {} and row["features"] is None
    assert row["images_per_second"] > 0 and is_done(workdir / "evaluate")
    wanted = "--config.evaluate.features=pixels is left out: pixels needs pixels.npz"
    said = [m for m in caplog.messages if m.startswith(wanted)]
    assert len(said) == 1  # before the first stage
    assert str(public) in said[0]
    row_said = "no figure of 20 images (the weights of pixels are missing); "
    assert [m for m in caplog.messages if row_said in m]
    caplog.clear()
    assert run(workdir) == row and not caplog.messages
    public.parent.mkdir()
    public.write_bytes(b"weights")
    assert not is_done(workdir / "evaluate")
    row = run(workdir)
    assert row["metrics"]["fd_pixels"] > 0 and row["features"]["weights_sha256"]
    assert is_done(workdir / "evaluate")


def test_a_file_that_was_named_must_be_there(public):
    with pytest.raises(CheckpointError, match=r"weights=None: pixels needs pixels.npz"):
        features.make("pixels")
    assert features.missing("pixels", "mine.npz") is None
    assert features.missing("pixels", fetch=True) is None
    assert str(public) in (features.missing("pixels") or "")


def test_a_file_that_is_named_later_is_measured_with(public, tmp_path):
    workdir, mine = tmp_path / "run", tmp_path / "mine.npz"
    assert run(workdir)["metrics"] == {}
    mine.write_bytes(b"weights")
    assert run(workdir, weights=str(mine))["metrics"]["fd_pixels"] > 0
    assert not public.exists()


@pytest.mark.parametrize("name", ["resnet56", "dinov2", "clip_g"])
def test_any_network_s_figures_are_left_out(name, tmp_path, monkeypatch, caplog):
    """Also where metrics read what other networks do not have."""
    monkeypatch.setenv(weights_files.FOLDER, str(tmp_path / "weights"))
    about = config()
    metrics = ("fd", "class_accuracy")
    about.evaluate.update(features=name, metrics=metrics)
    job = recipe.make_job(about, tmp_path / "run")
    for _ in range(2):
        recipe.check_inputs(job)
    (line,) = [m for m in caplog.messages if "is left out" in m]
    assert line.startswith(f"--config.evaluate.features={name} is left out: {name} nee")
    caplog.clear()
    # What --dryrun prints is not logged beside it.
    line = recipe.missing(recipe.make_job(about, tmp_path / "run"))
    assert line.startswith(f"evaluate.features={name!r}: {name} needs ")
    assert not [m for m in caplog.messages if "left out" in m]
