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


def test_a_grid_and_a_folder_from_a_step(workdir, tmp_path):
    step = workdir / "teacher" / "checkpoints" / "4"
    for output in (tmp_path / "grid.png", tmp_path / "folder"):
        arguments = (f"--checkpoint={step}", f"--output={output}", "--num_images=6")
        code, text = child.run("sample", *arguments, "--num_steps=1")
        assert code == 0, text
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > 2 * 48
    assert len(list((tmp_path / "folder").glob("*.png"))) == 6


def test_evaluate_prints_one_row(workdir):
    code, output = child.run(
        "evaluate",
        f"--checkpoint={workdir / 'teacher'}",
        "--reference=digits",
        "--num_images=100",
        "--batch_size=50",
    )
    assert code == 0, output
    row = json.loads(output.splitlines()[-1])
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
    spec = {**teacher.spec, "partition": owners.to_spec()}
    return interop.save(workdir / "students", params=params, spec=spec)


def test_images_of_many_students(workdir, students, tmp_path):
    """Those of the first group are the teacher's, bit for bit; the others are not."""
    seen = {}
    for name, source in {"one": workdir / "teacher", "many": students}.items():
        arguments = (f"--checkpoint={source}", f"--output={tmp_path / name}.npz")
        code, output = child.run("sample", *arguments, "--num_images=20")
        assert code == 0, output
        seen[name] = np.load(tmp_path / f"{name}.npz")["images"]
    same = (seen["one"] == seen["many"]).reshape(20, -1).all(1)
    np.testing.assert_array_equal(same, np.arange(20) % 10 < 5)


def test_one_of_many_students_alone(students, tmp_path):
    output = tmp_path / "two.npz"
    arguments = (f"--checkpoint={students}", f"--output={output}", "--num_images=6")
    code, text = child.run("sample", *arguments, "--student=2")
    assert code == 0, text
    assert np.load(output)["labels"].tolist() == [5, 6, 7, 8, 9, 5]
    code, text = child.run("sample", *arguments, "--student=4")
    assert code == 2 and "student=4: this model has 4 students, 0 to 3" in text


def test_evaluate_counts_all_students(students):
    code, output = child.run(
        "evaluate",
        f"--checkpoint={students}",
        "--reference=digits",
        "--num_images=40",
        "--batch_size=20",
    )
    assert code == 0, output
    row = json.loads(output.splitlines()[-1])
    assert row["num_students"] == 4
    assert row["num_params_total"] == 4 * row["num_params"] > 0
    assert row["macs"] > row["num_params"] / 2 and row["latency_ms"] > 0
