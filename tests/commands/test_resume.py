"""Killed at any time, the same command goes on, and ends with the same bits."""

import hashlib
import json
import pathlib
import random
import shutil
import signal

import child
import pytest
from child import RECIPE

from kdiff_jax import interop
from kdiff_jax.report import metrics_log

STAGES = ("teacher", "progressive_2", "progressive_1", "student", "many")


def arguments(workdir):
    return f"--config={RECIPE}:12", f"--workdir={workdir}"


def digests(workdir: pathlib.Path) -> dict[str, str]:
    """What must not depend on interruptions: models, and every shard of pairs."""
    files = [workdir / s / "model" / "model.safetensors" for s in STAGES]
    files += sorted(workdir.glob("pairs/*/shard-*/*.npy"))
    return {
        str(f.relative_to(workdir)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
    }


def leaves(workdir: pathlib.Path, stage: str):
    """path -> digest, shape and dtype of every leaf of the last checkpoint."""
    step = workdir / stage / "checkpoints" / "12"
    return json.loads((step / "meta" / "metadata").read_text())["leaves"]


def losses(workdir, stage):
    lines = metrics_log.read(workdir / stage / "metrics.jsonl")
    return [
        (m["step"], [v for k, v in m.items() if k.endswith("/loss")]) for m in lines
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    code, output = child.run("main", *arguments(workdir))
    assert code == 0, output
    return workdir


def logged(workdir, stage, step):
    """Whether the stage has logged this step."""
    return lambda: any(
        m["step"] >= step for m in metrics_log.read(workdir / stage / "metrics.jsonl")
    )


def committed(workdir, stage="teacher"):
    """The steps that have been saved, in order."""
    folder = workdir / stage / "checkpoints"
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def test_stopped_in_every_stage_and_damaged_no_bit_changes(uninterrupted, tmp_path):
    """One run, with all that may happen to it; the tests below are parts of it."""

    def stop(ready, number=signal.SIGKILL):
        process = child.start("main", *arguments(tmp_path))
        return child.stop_when(process, ready, number)

    # Killed, and the newest checkpoint is damaged: that costs its own steps alone.
    code, _ = stop(lambda: len(committed(tmp_path)) > 1)
    assert code == -signal.SIGKILL
    newest = committed(tmp_path)[-1]
    shutil.rmtree(tmp_path / "teacher" / "checkpoints" / str(newest) / "state")
    # A signal: it saves, though no save was due, says so, and ends with 75.
    code, said = stop(logged(tmp_path, "progressive_2", 4), signal.SIGTERM)
    assert code == 75
    assert committed(tmp_path, "progressive_2")[-1] >= 4
    assert "trying the step before" in said
    # Killed in each stage, during pair generation too: after a few of its eight shards.
    chance = random.Random(0)
    points = [logged(tmp_path, s, chance.randint(1, 11)) for s in ("student", "many")]
    shards = chance.randint(1, 6)
    made = lambda: list(tmp_path.glob("pairs/train/shard-*[0-9]"))  # noqa: E731
    points.insert(0, lambda: len(made()) >= shards)
    ended = [stop(ready) for ready in points]
    assert {code for code, _ in ended} == {-signal.SIGKILL}
    code, output = child.run("main", *arguments(tmp_path))
    assert code == 0, output
    assert digests(tmp_path) == digests(uninterrupted)
    for stage in STAGES:
        assert losses(tmp_path, stage) == losses(uninterrupted, stage)
    # Of the two students all roles, their optimizers and averages, and the carry.
    many = leaves(tmp_path, "many")
    assert many == leaves(uninterrupted, "many")
    held = {"/".join(path.split("/")[:2]) for path in many}
    assert held == {"nets/student", "nets/disc", "carry/spectral", "step"}
    assert interop.load(tmp_path / "many").num_students == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_so_and_ends_with_75(uninterrupted, tmp_path, number):
    process = child.start("main", *arguments(tmp_path))
    ready = logged(tmp_path, "teacher", 4)
    assert child.stop_when(process, ready, number)[0] == 75
    assert committed(tmp_path)[-1] >= 4
    code, output = child.run("main", *arguments(tmp_path), "--stage=teacher")
    assert code == 0, output
    name = "teacher/model/model.safetensors"
    assert digests_of(tmp_path / name) == digests_of(uninterrupted / name)


def digests_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_all_done_is_a_quick_no_op(uninterrupted):
    before = digests(uninterrupted)
    code, output = child.run("main", *arguments(uninterrupted))
    assert code == 0 and "stage student is done" in output
    assert digests(uninterrupted) == before


@pytest.mark.slow
def test_a_corrupt_checkpoint_costs_its_steps_and_no_more(uninterrupted, tmp_path):
    process = child.start("main", *arguments(tmp_path))
    child.stop_when(process, lambda: len(committed(tmp_path)) >= 2)
    newest = committed(tmp_path)[-1]
    shutil.rmtree(tmp_path / "teacher" / "checkpoints" / str(newest) / "state")
    code, output = child.run("main", *arguments(tmp_path), "--stage=teacher")
    assert code == 0 and "trying the step before" in output
    name = "teacher/model/model.safetensors"
    assert digests_of(tmp_path / name) == digests_of(uninterrupted / name)
