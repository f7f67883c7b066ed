"""Images from a finished stage, from a step in it, and their measures."""

import json

import child
import jax
import numpy as np
import pytest
import recipes
from PIL import Image

from kdiff_jax import interop, partition, recipe


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished teacher, trained in this process."""
    folder = tmp_path_factory.mktemp("teacher")
    config = recipes.load("digits_teacher", "tiny")
    recipe.run(config, folder, only="teacher", devices=jax.devices()[:1])
    return folder


def test_the_same_seed_gives_the_same_images_on_any_number_of_devices(
    workdir, tmp_path
):
    stage = workdir / "teacher"
    seen = []
    for devices in (1, 4):
        out = tmp_path / f"{devices}.npz"
        code, output = child.run(
            "sample",
            f"--checkpoint={stage}",
            f"--output={out}",
            "--num_images=10",
            "--labels=3,5-6",
            devices=devices,
        )
        assert code == 0, output
        seen.append(dict(np.load(out)))
    assert seen[0]["images"].shape == (10, 8, 8, 1)
    assert seen[0]["images"].dtype == np.uint8
    assert seen[0]["labels"].tolist() == [3, 5, 6, 3, 5, 6, 3, 5, 6, 3]
    # One level of 255 where the order of a sum decides how to round.
    difference = seen[0]["images"].astype(int) - seen[1]["images"]
    assert np.abs(difference).max() <= 1


def test_a_grid_and_a_folder_from_a_step(sampled):
    tmp_path = sampled["step"]
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > 2 * 48
    assert len(list((tmp_path / "folder").glob("*.png"))) == 6


def test_evaluate_prints_one_row(rows):
    row, _ = rows
    assert row["nfe"] == 4 and row["metrics"]["fd_pixels"] > 0
    assert row["images_per_second"] > 0


def test_a_model_in_python(workdir):
    model = interop.load(workdir / "teacher")
    x_t = np.zeros((2, 8, 8, 1), np.float32)
    x0_hat = model.apply(x_t, 0.5, np.array([1, 2]))
    assert x0_hat.shape == (2, 8, 8, 1) and x0_hat.dtype == np.float32
    assert model.num_params == sum(x.size for x in jax.tree.leaves(model.params))
    assert model.process.t_max == 1.0


def test_a_step_of_a_run_gives_the_average_that_the_stage_ends_with(workdir):
    stage = workdir / "teacher"
    of_step = interop.load(stage / "checkpoints" / "4")
    jax.tree.map(
        np.testing.assert_array_equal, of_step.params, interop.load(stage).params
    )


@pytest.fixture(scope="module")
def students(workdir):
    """Four students of one model: the teacher, and three that differ from it."""
    teacher = interop.load(workdir / "teacher")
    owners = partition.make(
        process=teacher.process, num_classes=10, num_groups=2, num_ranges=2
    )
    factors = (1.0, 1.0, 1.3, 1.3)
    params = jax.tree.map(
        lambda x: np.stack([np.float32(f) * x for f in factors]), teacher.params
    )
    spec = teacher.spec.replace(partition=owners)
    return interop.save(workdir / "students", params=params, spec=spec)


@pytest.fixture(scope="module")
def rows(workdir, students):
    """(row of the teacher, row of all students), by two lines in one process."""
    lines = [
        [f"--checkpoint={source}", "--reference=digits", f"--num_images={num}", batch]
        for source, num, batch in (
            (workdir / "teacher", 100, "--batch_size=50"),
            (students, 40, "--batch_size=20"),
        )
    ]
    found = []
    for code, output, said in child.run_lines("evaluate", lines):
        assert code == 0, said
        found.append(json.loads(output.splitlines()[-1]))
    return found


@pytest.fixture(scope="module")
def sampled(workdir, students, tmp_path_factory):
    """Name -> folder of what was sampled, by lines in one process."""
    folders = {k: tmp_path_factory.mktemp(k) for k in ("step", "many", "alone")}
    step = workdir / "teacher" / "checkpoints" / "4"
    lines = [
        (step, folders["step"] / "grid.png", 6, "--num_steps=1"),
        (step, folders["step"] / "folder", 6, "--num_steps=1"),
        (workdir / "teacher", folders["many"] / "one.npz", 20),
        (students, folders["many"] / "many.npz", 20),
        (students, folders["alone"] / "two.npz", 6, "--student=2"),
        (students, folders["alone"] / "four.npz", 6, "--student=4"),
    ]
    words = [
        [f"--checkpoint={source}", f"--output={output}", f"--num_images={num}", *more]
        for source, output, num, *more in lines
    ]
    *answers, (code, _, text) = child.run_lines("sample", words)
    assert all(found == 0 for found, *_ in answers), answers
    assert code == 2 and "student=4: this model has 4 students, 0 to 3" in text
    return folders


def test_images_of_many_students(sampled):
    """Those of the first group are the teacher's, bit for bit; the others are not."""
    seen = {k: np.load(sampled["many"] / f"{k}.npz")["images"] for k in ("one", "many")}
    same = (seen["one"] == seen["many"]).reshape(20, -1).all(1)
    np.testing.assert_array_equal(same, np.arange(20) % 10 < 5)


def test_one_of_many_students_alone(sampled):
    labels = np.load(sampled["alone"] / "two.npz")["labels"]
    assert labels.tolist() == [5, 6, 7, 8, 9, 5]
    assert not (sampled["alone"] / "four.npz").exists()


def test_evaluate_counts_all_students(rows):
    _, row = rows
    assert row["num_students"] == 4
    assert row["num_params_total"] == 4 * row["num_params"] > 0
    assert row["macs"] > row["num_params"] / 2 and row["latency_ms"] > 0
