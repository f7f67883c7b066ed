"""A recipe that begins from another project's checkpoint, read as it is."""

import json
import pathlib

import drawn
import jax
import numpy as np
import pytest
import recipes

from kdiff_jax import interop, recipe
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import diffusers_export
from kdiff_jax.interop.trees import flatten

TEACHER = (
    pathlib.Path(__file__).parent / "parity/data/edm_tiny_ncsnpp_edm_cond.safetensors"
)


def config(teacher, name="cifar10_edm"):
    found = recipes.load(name, "tiny")
    found.init.teacher = str(teacher)
    found.stages.pairs.num_pairs = 8
    found.stages.evaluate.models = ("teacher", "student")
    return found


def diffusers_folder(folder):
    """A network of random parameters, small and so cheap to compile, as their folder.

    Its scheduler has a thousand steps.
    """
    spec = dict(recipes.load("cifar10_student", "tiny").model.to_dict())
    spec["sampler"] = dict(name="ddim", num_steps=1000)
    spec = interop.Spec.of(spec)
    net, process = interop.build(spec)
    model = interop.Model(net, drawn.params(net), process, spec)
    return diffusers_export.save(folder, model)


@pytest.fixture(
    scope="module",
    params=["diffusers", pytest.param("edm", marks=pytest.mark.slow)],
)
def run(request, tmp_path_factory):
    """(teacher, workdir, evaluations of the recipe's sampler: not the file's own)."""
    folder, teacher = tmp_path_factory.mktemp("run"), TEACHER
    name, nfe = "cifar10_edm", [5, 1]
    if request.param == "diffusers":
        teacher = diffusers_folder(tmp_path_factory.mktemp("teacher"))
        name, nfe = "cifar10_student", [4, 1]
    recipe.run(config(teacher, name), folder, devices=jax.devices()[:1])
    return teacher, folder, nfe


def test_no_teacher_is_trained_and_all_are_measured(run):
    _, workdir, nfe = run
    assert not (workdir / "teacher").exists()
    rows = json.loads((workdir / "report.json").read_text())["rows"]
    roles = [row["role"] for row in rows]
    assert roles == ["teacher"] * (len(nfe) - 1) + ["student"]
    assert [row["nfe"] for row in rows] == nfe


def test_the_student_is_the_teacher_s_network_without_dropout(run):
    path, workdir, _ = run
    teacher, student = interop.load(path), interop.load(workdir / "student")
    assert student.spec.network == teacher.spec.network.changed(dropout=0.0)
    kind = student.spec.precondition.name
    # Of a DDPM's student, F(x) = x - eps(x, 999).
    assert kind in ("residual", teacher.spec.precondition.name)
    before, after = flatten(teacher.params), flatten(student.params)
    assert before.keys() == after.keys()
    # It began from the teacher: four steps do not carry it far, nor leave it there.
    moved = [float(np.abs(after[k] - before[k]).max()) for k in before]
    assert 0 < max(moved) < 1e-2


def test_a_teacher_of_other_images_is_refused(tmp_path):
    found = config(TEACHER)
    found.model.num_classes = 0
    with pytest.raises(ConfigError, match="num_classes=10, the config has.*=0"):
        recipe.run(found, tmp_path)


def test_a_damaged_teacher_is_refused_by_name(tmp_path):
    damaged = tmp_path / "teacher.safetensors"
    damaged.write_bytes(TEACHER.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="teacher.safetensors"):
        recipe.run(config(damaged), tmp_path / "run")


HUB = "hub/models--google--ddpm-church-256/snapshots/0b1c2d"


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("google/ddpm-church-256", True),
        ("ddpm-cifar10-32/", True),
        (HUB, True),
        ("google/ddpm-ema-church-256", False),
        (HUB.replace("ddpm-", "ddpm-ema-"), False),
    ],
)
def test_raw_weights_are_named_where_there_are_averages(name, raw, tmp_path, caplog):
    folder = tmp_path / name
    folder.mkdir(parents=True)
    job = recipe.make_job(config(folder), tmp_path / "w", devices=jax.devices()[:1])
    assert recipe._missing_teacher(job) == ""
    said = f"init.teacher={folder}: very likely the raw weights"
    assert (said in caplog.text) == raw
    assert not raw or "moving averages; google has those in ddpm-ema-*" in caplog.text
