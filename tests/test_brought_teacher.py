"""A recipe that begins from another project's checkpoint, read as it is."""

import json
import pathlib

import jax
import numpy as np
import pytest
import recipes

from kdiff_jax import interop, recipe
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop.trees import flatten

TEACHER = (
    pathlib.Path(__file__).parent / "parity/data/edm_tiny_ncsnpp_edm_cond.safetensors"
)


def config(teacher):
    found = recipes.load("cifar10_edm", "tiny")
    found.init.teacher = str(teacher)
    found.stages.pairs.num_pairs = 8
    return found


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe.run(config(TEACHER), folder, devices=jax.devices()[:1])
    return folder


def test_no_teacher_is_trained_and_both_are_measured(workdir):
    assert not (workdir / "teacher").exists()
    rows = json.loads((workdir / "report.json").read_text())["rows"]
    assert [row["role"] for row in rows] == ["teacher", "student"]
    # The recipe's sampler: three steps of Heun; not the file's own.
    assert [row["nfe"] for row in rows] == [5, 1]


def test_the_student_is_the_teacher_s_network_without_dropout(workdir):
    teacher, student = interop.load(TEACHER), interop.load(workdir / "student")
    assert student.spec["network"] == {**teacher.spec["network"], "dropout": 0.0}
    assert student.spec["precondition"] == teacher.spec["precondition"]
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
