"""What a run leaves is read back as it was written, or refused, or made again."""

import json
import logging
import pathlib
import random
import shutil

import jax
import numpy as np
import points
import pytest

from configs import common, digits
from kdiff_jax import interop, recipe, stages
from kdiff_jax.build.sections import Evaluate
from kdiff_jax.data import pairs
from kdiff_jax.errors import CheckpointError, ConfigError, DataError, UserError
from kdiff_jax.interop import steps, training
from kdiff_jax.metrics import load_stats
from kdiff_jax.report import metrics_log, summary
from kdiff_jax.sealed import Damaged
from kdiff_jax.stages import best, evaluate, record

STEPS = 2


def config():
    sections = points.sections()
    sections["evaluate"]["num_images"] = 8
    train = dict(num_steps=STEPS, batch_size=8)
    teacher = digits.teacher(tiny=True) | dict(train=train | dict(result="ema"))
    made = dict(kind="pairs", num_pairs=12, num_held_out=8, shard_size=6, batch_size=6)
    student = dict(
        method=dict(name="denoising_student", loss="l1"),
        pairs="pairs",
        optim=dict(lr=1e-3, ema_decay=0.9),
        sampler=dict(name="ddim", num_steps=1),
        train=train | dict(result="best", validate_every=1),
    )
    measure = dict(kind="evaluate", models=("teacher", "student"))
    return common.config(
        "damage",
        order=("teacher", "pairs", "student", "evaluate"),
        stages=dict(teacher=teacher, pairs=made, student=student, evaluate=measure),
        train=dict(log_every=1, sample_every=1000, save_every=1),
        **sections,
    )


def run(workdir, **keywords):
    recipe.run(config(), workdir, devices=jax.devices()[:1], **keywords)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    run(workdir)
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "W")


def flip(path: pathlib.Path, place: int, bit: int = 0):
    blob = bytearray(path.read_bytes())
    blob[place] ^= 1 << bit
    path.write_bytes(blob)


def shards_of(folder):
    if bad := pairs.missing(folder):
        raise DataError(str(bad))
    return pairs.open_pairs(folder).read(np.arange(8))


def row_of(path):
    if (found := evaluate._measured(path, Evaluate())) is None:
        raise DataError("it is measured again")
    return found


def logged(path):
    lines = metrics_log.read(path)
    if len(lines) != STEPS:
        raise DataError("a line is left out")
    return lines


def loaded(folder):
    model = interop.load(folder)
    return model.spec, model.params, model.sampler().nfe


READERS = {
    "config.json": (".", lambda w: record._recorded(w / "config.json")),
    "report.json": (".", lambda w: summary.read(w / "report.json")),
    "student/done.json": ("student", stages.facts),
    "student/model.json": ("student", training.description),
    "student/metrics.jsonl": ("student/metrics.jsonl", logged),
    "student/best.safetensors": ("student/best.safetensors", best._read),
    "student/model/config.json": ("student/model", loaded),
    "student/model/model.safetensors": ("student/model", loaded),
    "student/checkpoints/2/meta/metadata": ("student/checkpoints/2", steps.read),
    "pairs/train/pairs.json": ("pairs/train", shards_of),
    "pairs/train/shard-00001/x0.npy": ("pairs/train", shards_of),
    "pairs/train/shard-00001/z.npy": ("pairs/train", shards_of),
    "pairs/held_out/shard-00000/checksums.json": ("pairs/held_out", shards_of),
    "evaluate/reference_pixels.npz": ("evaluate/reference_pixels.npz", load_stats),
    "evaluate/student.json": ("evaluate/student.json", row_of),
    "evaluate/student.npy": ("evaluate/student.json", row_of),
}


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_changes_nothing_that_is_read(workdir, name):
    place, read = READERS[name]
    path, place = workdir / name, workdir / place
    whole, blob = read(place), path.read_bytes()
    chance, seen = random.Random(name), 0
    for _ in range(25):
        flip(path, chance.randrange(len(blob)), chance.randrange(8))
        try:
            found, tree = jax.tree.flatten(read(place))
            assert tree == jax.tree.structure(whole)
            for a, b in zip(found, jax.tree.leaves(whole), strict=True):
                np.testing.assert_array_equal(a, b)
        except (UserError, Damaged) as error:
            assert "\n" not in str(error)
            seen += 1
        path.write_bytes(blob)
    assert seen > 10
    path.write_bytes(blob[: len(blob) // 2])
    with pytest.raises((UserError, Damaged)):
        read(place)


def test_damaged_marks_and_shards_are_made_again_and_no_bit_changes(workdir, finished):
    """The student is trained anew, from what is made anew: no number differs."""
    x0, z = (
        workdir / "pairs" / name
        for name in ("train/shard-00001/x0.npy", "held_out/shard-00000/z.npy")
    )
    whole = {path: path.read_bytes() for path in (x0, z)}
    for path in whole:
        flip(path, -1, 6)
    flip(workdir / "pairs/train/pairs.json", 60)
    model = workdir / "student/model/model.safetensors"
    trained = model.read_bytes()
    shutil.rmtree(workdir / "student")
    flip(workdir / "evaluate/done.json", 4)
    flip(workdir / "evaluate/student.json", 40)
    run(workdir)
    assert {path: path.read_bytes() for path in whole} == whole
    assert model.read_bytes() == trained
    rows = [summary.read(w / "report.json")["rows"] for w in (workdir, finished)]
    changing = (
        "images_per_second",
        "latency_ms",
        "train_seconds",
        "timing",
        "measured",
    )
    for row in rows[0] + rows[1]:
        for name in changing:
            row.pop(name)
    assert rows[0] == rows[1]


def test_a_damaged_best_is_refused_and_its_way_out_works(workdir, caplog):
    path = workdir / "student/best.safetensors"
    flip(path, path.stat().st_size - 1)
    (workdir / "student/done.json").unlink()
    with pytest.raises(
        CheckpointError, match="best.safetensors: is damaged.*delete it"
    ):
        run(workdir)
    path.unlink()
    run(workdir)
    assert "the last average is taken" in caplog.text
    assert interop.load(workdir / "student").num_params


def test_a_damaged_record_or_report_is_refused_and_its_way_out_works(workdir):
    flip(workdir / "config.json", 40)
    with pytest.raises(ConfigError, match="config.json: is damaged .*delete the file"):
        run(workdir)
    (workdir / "config.json").unlink()
    flip(workdir / "report.json", 40)
    with pytest.raises(DataError, match="report.json: is damaged .*delete it and"):
        run(workdir)
    (workdir / "report.json").unlink()
    (workdir / "evaluate/done.json").unlink()
    run(workdir)
    assert record._recorded(workdir / "config.json")["config"]["name"] == "damage"
    assert len(summary.read(workdir / "report.json")["rows"]) == 2


def test_a_report_that_is_gone_is_named_and_its_way_out_works(workdir, caplog):
    (workdir / "report.json").unlink()
    (workdir / "student/metrics.jsonl").unlink()
    run(workdir)
    assert "report.json: is gone; delete" in caplog.text
    (workdir / "evaluate/done.json").unlink()
    run(workdir)
    assert "student/metrics.jsonl: ends at step 0 of " in caplog.text
    cut = workdir / "teacher/metrics.jsonl"
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:-1]))
    (workdir / "evaluate/done.json").unlink()
    run(workdir)
    assert "teacher/metrics.jsonl: ends at step " in caplog.text
    assert len(summary.read(workdir / "report.json")["rows"]) == 2


@pytest.mark.parametrize("text", ['{"_class_name": "UNet2DModel"}', '{"config": 1}'])
def test_a_folder_of_something_else_is_no_workdir(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="--workdir=.* is no workdir of a run"):
        run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def unseal(folder):
    """Makes of all files what a version before wrote: none has a digest."""
    for path in [*folder.rglob("*.json"), *folder.rglob("meta/metadata")]:
        tree = json.loads(path.read_text())
        gone = ("digest", "shown", "made_by")
        path.write_text(json.dumps({k: v for k, v in tree.items() if k not in gone}))
    for path in folder.rglob("metrics.jsonl"):
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        for line in lines:
            del line["digest"]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for path in folder.rglob("*.npz"):
        with np.load(path) as arrays:
            kept = {name: arrays[name] for name in arrays.files if name != "digest"}
        np.savez(path, **kept)


def test_a_workdir_of_a_version_before_goes_on(workdir, caplog):
    unseal(workdir)
    run(workdir)  # all is done
    (workdir / "student/done.json").unlink()
    (workdir / "evaluate/done.json").unlink()
    model = (workdir / "student/model/model.safetensors").read_bytes()
    with caplog.at_level(logging.INFO, "kdiff_jax"):
        run(workdir)
    assert "student: resumes at step 2" in caplog.text
    assert "has no digest; it is not verified" in caplog.text
    assert (workdir / "student/model/model.safetensors").read_bytes() == model


def test_a_step_and_a_stage_need_their_description(workdir):
    stage, step = workdir / "student", workdir / "student/checkpoints/2"
    shutil.rmtree(stage / "model")
    assert interop.load(stage).num_params == interop.load(step).num_params
    flip(stage / "model.json", 80)
    for place in (stage, step):
        with pytest.raises(CheckpointError, match="model.json: is damaged .* delete"):
            interop.load(place)
    (stage / "done.json").unlink()
    run(workdir)
    assert interop.load(step).num_params == interop.load(stage).num_params
