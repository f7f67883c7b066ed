"""Recipes with several students: together, apart in jobs of a queue, and resumed."""

import json
import shutil

import jax
import numpy as np
import pytest
import recipes
import safetensors.numpy

from kdiff_jax import interop, recipe
from kdiff_jax.errors import CheckpointError, ConfigError

NUM_STEPS = 4


def config(**partition):
    """Two small students of the times; cheap to compile."""
    found = recipes.load("digits_o2mkd", "tiny").unlock()
    found.partition.update(partition)
    found.stages.student.method.features = "none"
    found.evaluate.features = ""
    return found


def run(workdir, **partition):
    recipe.run(config(**partition), workdir, devices=jax.devices()[:1])


def leaves(workdir):
    step = workdir / "student" / "checkpoints" / str(NUM_STEPS)
    return json.loads((step / "meta" / "metadata").read_text())["leaves"]


def model(workdir):
    folder = workdir / "student" / "model"
    return safetensors.numpy.load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("together")
    run(workdir)
    return workdir


@pytest.fixture(scope="module")
def apart(together, tmp_path_factory):
    """Both students trained alone, not yet joined."""
    workdir = tmp_path_factory.mktemp("apart")
    shutil.copytree(together / "teacher", workdir / "teacher")
    for k in (1, 0):
        run(workdir, only=k)
    return workdir


def test_jobs_of_one_student_are_joined_by_the_same_command(together, apart, tmp_path):
    workdir = shutil.copytree(apart, tmp_path / "joined")
    assert not (workdir / "student" / "model").exists()
    run(workdir)
    facts = ("shape", "dtype")
    joined, joint = leaves(workdir), leaves(together)
    assert {k: [v[f] for f in facts] for k, v in joined.items()} == {
        k: [v[f] for f in facts] for k, v in joint.items()
    }
    expected, found = model(together), model(workdir)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-5)
    one, other = (interop.load(w / "student") for w in (workdir, together))
    assert one.partition == other.partition and one.num_students == 2
    assert (workdir / "report.json").is_file()
    # What it joined is what the jobs left, bit for bit.
    for k in range(2):
        alone = interop.load(apart / "student" / f"only_{k}").params
        jax.tree.map(np.testing.assert_array_equal, one.student(k).params, alone)


def test_a_student_alone_is_a_model_of_its_own(apart):
    found = interop.load(apart / "student" / "only_1")
    assert found.partition is None and found.num_students == 1
    in_progress = apart / "student" / "only_1" / "checkpoints" / str(NUM_STEPS)
    step = interop.load(in_progress)
    jax.tree.map(np.testing.assert_array_equal, step.params, found.params)


def test_students_differ_and_the_teacher_is_not_theirs(together):
    found = interop.load(together / "student")
    first, second = (jax.tree.leaves(found.student(k).params) for k in range(2))
    assert any((a != b).any() for a, b in zip(first, second, strict=True))


def test_a_resumed_run_ends_with_the_same_bits(together, tmp_path):
    """Everything after the checkpoint in the middle is gone, as after a kill."""
    workdir = shutil.copytree(together, tmp_path / "killed")
    stage = workdir / "student"
    shutil.rmtree(stage / "checkpoints" / str(NUM_STEPS))
    shutil.rmtree(stage / "model")
    (stage / "done.json").unlink()
    run(workdir)
    assert leaves(workdir) == leaves(together)
    paths = [w / "student" / "model" / "model.safetensors" for w in (workdir, together)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_metrics_name_each_student(together):
    lines = (together / "student" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    each = [last[f"tsm/loss/{k}"] for k in range(2)]
    assert last["tsm/loss"] == pytest.approx(np.mean(each))
    assert each[0] != each[1]


def test_a_student_that_is_missing_is_named(apart, tmp_path):
    workdir = shutil.copytree(apart, tmp_path / "missing")
    shutil.rmtree(workdir / "student" / "only_0")
    with pytest.raises(CheckpointError, match="students 0 of 2 are not done"):
        run(workdir)


def test_what_all_students_need_comes_first(tmp_path):
    with pytest.raises(ConfigError, match="'teacher' is not done.*--stage=teacher"):
        run(tmp_path, only=0)


def test_there_is_no_such_student(apart, tmp_path):
    workdir = shutil.copytree(apart, tmp_path / "none")
    with pytest.raises(ConfigError, match="only=2: there are 2 students, 0 to 1"):
        run(workdir, only=2)


def test_another_partition_in_the_same_folder_is_refused(together, tmp_path):
    workdir = shutil.copytree(together, tmp_path / "another")
    (workdir / "student" / "done.json").unlink()
    (workdir / "config.json").unlink()
    with pytest.raises(CheckpointError, match="another partition"):
        run(workdir, spacing="logsnr")


def test_a_method_of_one_time_has_no_ranges(together, tmp_path):
    shutil.copytree(together / "teacher", tmp_path / "teacher")
    found = recipes.load("digits_dmd2", "tiny").unlock()
    found.partition = dict(config(num_ranges=2).partition)
    found.stages.student.partition = True
    with pytest.raises(ConfigError, match="num_ranges=2.*num_groups"):
        recipe.run(found, tmp_path, devices=jax.devices()[:1], force=True)
