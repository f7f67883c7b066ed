"""Every recipe: its full size is what the paper says, and its tiny size runs."""

import ast
import importlib
import json
import pathlib
import re

import jax
import numpy as np
import points
import pytest
import recipes
import torch_resnet
from ml_collections import ConfigDict
from PIL import Image

from configs import common
from kdiff_jax import build, interop, plan, recipe
from kdiff_jax.build.stages import PATHS
from kdiff_jax.report import summary
from kdiff_jax.stages import rehearsal
from kdiff_jax.train import measure

# These run with `bash launch/test.sh --all`: what they differ in from those that are
# left is their numbers, or a network or method that has tests of its own.
ALIKE = {
    *("afhq64_edm", "ffhq64_edm", "celeba64_student", "fashion_student"),
    *("afhq64_gddi", "ffhq64_gddi", "cifar10_gddi", "fashion_progressive"),
    *("cifar10_dmd", "imagenet64_dmd2", "lsun128_progressive", "digits_teacher"),
    *("cifar10_dmd2", "cifar10_gdd", "imagenet64_gddi", "imagenet64_edm"),
    *("cifar10_progressive", "cifar10_student", "digits_sid", "digits_msd"),
    *("cifar10_msd2", "digits_dmd", "digits_dmd2"),
    *("imagenet64_msd", "cifar10_o2mkd", "lsun256_o2mkd", "celebahq256_o2mkd"),
    *("imagenet64_msd_small", "imagenet64_progressive", "cifar10_edm"),
    *("lsun256_student", "cifar10_latent", "cifar10_text", "cifar10_text_o2mkd"),
    "sd15_dmd2",
    *("sd15_o2mkd", "sd15_msd", "sd15_student", "sd15_dogs_msd_small"),
    *("dit256_dmd2", "dit256_gdd", "dit256_progressive"),
}
# By default one of each family: an EDM network (cifar10_teacher), Progressive
# Distillation, Denoising Student, GDD and O2MKD on digits, MSD by DMD2 in the plane.
FAMILIES = {
    *("cifar10_teacher", "digits_progressive", "digits_student"),
    *("digits_gdd", "digits_o2mkd", "toy2d_msd"),
}
# Of them, with points for images and dense layers for the U-Net, which takes most of
# the time. It trains in commands/test_sample.py; with GDD's heads on it, it is planned
# below, and what those read and learn is in methods/test_gdd.py.
PLANE = {"digits_progressive", "digits_student", "digits_o2mkd", "digits_gdd"}
# The same of their plans, which take seconds where the networks are large.
PLANNED_ALIKE = {
    *("cifar10_teacher", "cifar10_student"),
    *("afhq64_gddi", "ffhq64_gddi", "imagenet64_gddi", "ffhq64_edm", "cifar10_gdd"),
    *("fashion_student", "fashion_progressive", "imagenet64_msd", "digits_o2mkd"),
    *("lsun256_o2mkd", "celebahq256_o2mkd", "imagenet64_msd_small"),
    *("afhq64_edm", "lsun128_progressive", "celeba64_student"),
    *("imagenet64_progressive", "imagenet64_dmd2", "cifar10_gddi", "cifar10_dmd"),
    *("cifar10_dmd2", "cifar10_msd2", "digits_dmd", "toy2d_msd"),
    *("imagenet64_edm", "cifar10_o2mkd", "cifar10_progressive", "digits_msd"),
    *("digits_sid", "digits_student", "digits_teacher", "lsun256_student"),
    *("cifar10_edm", "digits_dmd2", "sd15_dmd2", "cifar10_latent"),
    *("cifar10_text", "cifar10_text_o2mkd"),
    *("sd15_o2mkd", "sd15_msd", "sd15_student", "sd15_dogs_msd_small"),
    *("dit256_dmd2", "dit256_gdd", "dit256_progressive"),
}


def all_but(alike):
    """Every recipe; those of `alike` as slow tests."""
    marks = {
        name: pytest.mark.slow if name in alike else () for name in recipes.names()
    }
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=mark) for name, mark in marks.items()]
    )


def test_one_of_each_family_runs_by_default():
    assert set(recipes.names()) - ALIKE == FAMILIES


@pytest.mark.parametrize("size", ["full", "tiny"])
def test_every_recipe_is_complete(size):
    for name in recipes.names():
        config = recipes.load(name, size) if size != "full" else recipes.load(name)
        stages = build.expand(build.plain(config))
        assert config.is_locked and stages[-1].kind in {"evaluate", "train"}, name
        assert [s for s in stages if s.kind == "train"], name


def test_every_tiny_recipe_takes_images_of_ones_own():
    for name in recipes.names():
        config = recipes.load(name, "tiny")
        if config.data.name not in ("digits", "mixture"):
            config.data.name, config.data.path = "folder", "images"
            build.check(build.plain(config))


@pytest.mark.parametrize("size", ["full", "tiny", "cpu", "cpu_small"])
def test_what_is_none_can_be_given(size):
    """A None of no type would refuse every value of the command line."""

    def untyped(config, path=""):
        for key in config:
            if isinstance(config[key], ConfigDict):
                yield from untyped(config[key], f"{path}.{key}")
            elif config[key] is None and config.get_type(key) is type(None):
                yield f"{path}.{key}"

    for name in recipes.names():
        try:
            config = recipes.load(name, size) if size != "full" else recipes.load(name)
        except ValueError:
            continue  # a size that it does not have
        assert not [*untyped(config)], name


@all_but(ALIKE | PLANE)
def test_tiny_runs_from_teacher_to_report(name, tmp_path):
    run_to_report(recipes.load(name, "tiny"), tmp_path)


@pytest.mark.parametrize("name", sorted(PLANE))
def test_tiny_runs_in_the_plane_from_teacher_to_report(name, tmp_path):
    sections = recipes.load(name, "tiny").to_dict() | points.sections()
    run_to_report(common.config(**sections), tmp_path)


def run_to_report(config, tmp_path):
    name = config.name
    recipe.run(config, tmp_path, devices=jax.devices()[:1])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["config"] == config.name
    roles = [row["role"] for row in report["rows"]]
    assert roles[0] == "teacher"
    if not name.endswith("_teacher"):
        # O2MKD's students take as many steps as their teacher.
        nfe = report["rows"][0]["nfe"] if "o2mkd" in name else 1
        assert roles[-1] == "student" and report["rows"][-1]["nfe"] == nfe
    always = {*summary.COLUMNS, "timing", "memory", "measured", "labels"}
    for row in report["rows"]:
        own = {"neighbours"} if row["role"] == "student" else set()
        assert set(row) - {"partition"} == always | own
    if roles[-1] == "student":
        _check_neighbours(config, tmp_path, report["rows"][-1])
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.width > 100
    html = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64" in html and "http" + "://" not in html.replace(
        "http://www.w3.org", ""
    )
    for stage in build.expand(build.plain(config)):
        assert (tmp_path / stage.name / "done.json").is_file()
        if stage.kind == "train":
            _check_stage(tmp_path / stage.name, stage.train.num_steps)
            seen = (
                tmp_path / stage.name / f"samples/denoised/{stage.train.num_steps}.png"
            )
            assert seen.is_file() == (stage.method.name in ("dmd", "dmd2", "sid"))
            assert (f"{stage.name}, step" in html) == seen.is_file()


def _check_neighbours(config, workdir: pathlib.Path, row):
    """Each sample is as far from its training images as all pixels together say."""
    about, (*_, path) = (
        row["neighbours"],
        sorted((workdir / "evaluate").glob(f"{row['stage']}*.npy")),
    )
    data = build.load_images(build.resolve(build.plain(config)))
    samples, real = np.load(path)[:10], data.read(np.arange(data.num))
    f, f_ref = (x.reshape(len(x), -1) / 127.5 - 1 for x in (samples, real))
    distances = np.linalg.norm(f[:, None] - f_ref, axis=2)
    assert about["features"]["name"] == "pixels" and about["num_images"] == data.num
    assert np.shape(about["places"]) == (len(samples), min(3, data.num))
    found = np.take_along_axis(distances, np.array(about["places"]), 1)
    np.testing.assert_allclose(found, about["distances"])
    np.testing.assert_allclose(found[:, 0], distances.min(axis=1))
    with Image.open(workdir / "neighbours.png") as picture:
        assert picture.height > 100
    assert "nearest, with their distances" in (workdir / "report.html").read_text()


def _check_stage(folder: pathlib.Path, num_steps: int):
    lines = [
        json.loads(x) for x in (folder / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert [line["step"] for line in lines] == list(range(2, num_steps + 1, 2))
    assert {"step", "time", "images_per_second"} <= lines[-1].keys()
    assert (folder / "checkpoints" / str(num_steps)).is_dir()
    assert (folder / "samples" / f"{num_steps}.png").is_file()
    assert (folder / "model" / "model.safetensors").is_file()


# Parameters of the papers' networks, in millions. That of EDM is with its augmentation
# layer and the label embedding (10 x 128).
MILLIONS = {
    "cifar10_teacher": 55.74,
    "cifar10_progressive": 60.00,
    "imagenet64_progressive": 295.91,
    "lsun128_progressive": 139.58,
    "cifar10_student": 35.75,
    "celeba64_student": 78.70,
    "lsun256_student": 113.67,
    "imagenet64_edm": 295.90,
    "afhq64_edm": 61.81,
    "ffhq64_edm": 61.81,
    "cifar10_edm": 55.74,
}


@all_but(PLANNED_ALIKE)
def test_full_size_plans_without_data(name, tmp_path):
    job = recipe.make_job(recipes.load(name), tmp_path)
    text = plan.text(job)
    lines = text.splitlines()
    for stage in job.stages:
        assert any(line.startswith(f"  {stage.name}: ") for line in lines), stage.name
    for part in ("M parameters", "GFLOP", "a device", "disk:"):
        assert part in text
    if name in MILLIONS:
        assert f"{MILLIONS[name]:.2f} M parameters" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "size", "lines"),
    [
        # By default rounds of O2MKD's students.
        pytest.param(
            *("digits_msd", "small", ["tsm: tsm, 5 students", "dm: dmd, 5 students"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("cifar10_msd2", "cpu_gddi", ["student: gdd, 2 students"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "cifar10_msd2",
            "cpu_small",
            ["tsm: tsm, 2 students of 0.28 M", "student: dmd2, 2 students of 0.28 M"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("cifar10_msd2", "gddi", ["student: gdd, 2 students of 56.40 M"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("cifar10_o2mkd", "cpu", ["common: tsm, 1000 x", "student: tsm, 4"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "lsun256_o2mkd",
            "church_common",
            ["common: tsm, 200000 x", "student: tsm, 4"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "digits_o2mkd",
            "progressive",
            ["progressive_4: progressive -> 4 steps, 4 students of 0.12 M"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_sizes_plan(name, size, lines, tmp_path):
    text = plan.text(recipe.make_job(recipes.load(name, size), tmp_path))
    assert all(f"  {line}" in text for line in lines)


@pytest.mark.parametrize(
    ("name", "size", "millions"),
    [
        ("imagenet64_msd_small", "full", 172.81),
        ("imagenet64_msd_small", "smaller", 85.94),
        ("cifar10_o2mkd", "full", 8.95),
        ("lsun256_o2mkd", "church", 28.45),
        ("celebahq256_o2mkd", "full", 28.45),
        *(
            pytest.param("sd15_o2mkd", size, millions, marks=pytest.mark.slow)
            for size, millions in (
                *(("full", 579.38), ("small", 482.35), ("smallest", 323.38)),
            )
        ),
        pytest.param(*("sd15_dogs_msd_small", "full", 148.00), marks=pytest.mark.slow),
    ],
)
def test_smaller_students_are_as_large_as_their_recipes_say(name, size, millions):
    config, counted = build.plain(recipes.load(name, size)), []
    model = interop.Spec.of(config["model"])
    for key, stage in config["stages"].items():
        if stage.get("partition"):
            net, _ = interop.build(model.changed(stage["model"]))
            shapes = jax.eval_shape(net.init, jax.random.key(0))
            num = sum(x.size for x in jax.tree.leaves(shapes))
            assert round(num / 1e6, 2) == millions, key
            counted.append(key)
    assert counted


@pytest.mark.parametrize(
    ("name", "giga"),
    [("cifar10_o2mkd", 1.60), ("lsun256_o2mkd", 62.3)],
)
def test_a_step_of_a_smaller_student_costs_what_its_recipe_says(name, giga):
    config = build.plain(recipes.load(name))
    model = config["stages"]["student"]["model"]
    net, _ = interop.build(interop.Spec.of(config["model"]).changed(model))
    assert measure.macs(net) / 1e9 == pytest.approx(giga, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "size", "without"),
    [
        ("cifar10_o2mkd", "common", "full"),
        ("celebahq256_o2mkd", "common", "full"),
        ("lsun256_o2mkd", "bedroom_common", "bedroom"),
    ],
)
def test_students_of_ranges_may_begin_as_one(name, size, without):
    config = build.plain(recipes.load(name, size))
    plain = build.plain(recipes.load(name, without))
    assert config["init"] == plain["init"] and config["data"] == plain["data"]
    common, student, _ = build.expand(config)
    teacher = config["init"]["teacher"]
    assert common.init.student == teacher and common.channels == "even"
    assert not common.partition and student.partition
    roles = {"student": "common", "adapters": "common/adapters"}
    assert student.init.sources == config["init"] | roles and not student.channels
    assert student.method == common.method


def test_stages_share_no_section():
    """What is changed by the command line in one is not changed in another."""
    config = recipes.load("cifar10_o2mkd", "cpu").unlock()
    config.stages.common.sampler.num_steps = 3
    config.stages.common.model.network.channels = 4
    student = config.stages.student
    assert student.sampler.num_steps == 16 and student.model.network.channels == 8


@pytest.mark.parametrize("name", ["sd15_student", "sd15_dogs_msd_small", "dit256_gdd"])
def test_recipes_on_latents_say_where_everything_is_from(name):
    sizes = ("full", "sit") if name.startswith("dit") else ("full",)
    for size in sizes:
        config = build.plain(recipes.load(name, size))
        data, hints = config["data"], config["hints"]
        named = {"path", *(key for key in PATHS if data[key])}
        assert hints.keys() == named and all(hints.values())
        assert config["teacher_hint"].startswith(": get ")
        assert data["latents"] in hints["latents"]
        assert data["autoencoder"] in hints["latents"]
        if data["autoencoder"] != config["init"]["teacher"]:
            assert "MIT" in hints["autoencoder"]
        assert "the teacher's folder" in hints["autoencoder"] or size == "sit"


def test_images_of_32_pixels_and_more_are_measured_by_inception():
    for name in recipes.names():
        found = build.resolve(build.plain(recipes.load(name)))
        height, _, channels = found.space.pixel_shape
        features = found.config["evaluate"]["features"]
        assert (features == "inception") == (height >= 32 and channels == 3), name


RESNET = """--config.evaluate.features=resnet56
--config.evaluate.weights=(?P<weights>\\S+)( \\\\
    --config.evaluate.metrics="(?P<metrics>[^"]+)")?"""


@pytest.mark.parametrize("name", ["cifar10_latent", "cifar10_text"])
def test_a_recipe_s_header_has_the_options_of_a_smaller_network(
    name, tmp_path, monkeypatch
):
    module = importlib.import_module(f"configs.{name}")
    options = re.search(RESNET.replace("\n--", " --"), module.__doc__)
    found = module.get_config()
    arrays = torch_resnet.random_weights(np.random.default_rng(0), num_blocks=9)
    np.savez(tmp_path / options["weights"], **arrays)
    found.evaluate.features = "resnet56"
    found.evaluate.weights = str(tmp_path / options["weights"])
    if options["metrics"]:
        found.evaluate.metrics = ast.literal_eval(options["metrics"])
        assert found.evaluate.metrics == ("fd", "class_accuracy")
    monkeypatch.setattr(
        rehearsal, "_train", lambda *_: None
    )  # of which nothing differs
    rehearsal.check(recipe.make_job(found, tmp_path / "run"))


def test_rounds_of_the_paper():
    stages = build.expand(build.plain(recipes.load("cifar10_progressive")))
    rounds = [s for s in stages if s.name.startswith("progressive")]
    assert [s.settings["num_steps"] for s in rounds] == [
        2**k for k in range(12, -1, -1)
    ]
    assert [s.train.num_steps for s in rounds] == [50_000] * 11 + [100_000] * 2
    assert [s.init.teacher for s in rounds[:3]] == [
        "teacher",
        "progressive_4096",
        "progressive_2048",
    ]


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="choose one of full, cpu, tiny"):
        recipes.load("cifar10_student", "huge")
