"""Killed while several roles train, a run ends with the bits of one that was not.

Every leaf of the last checkpoint is compared: parameters and optimizer states of all
roles, the student's moving average, and the carry.
"""

import json
import pathlib
import shutil
import signal

import child
import pytest

from kdiff_jax.report import metrics_log

RECIPE = pathlib.Path(__file__).parent / "several_roles.py"
NUM_STEPS = 24
ROLES = {
    "gdd": {"student", "disc"},
    "dmd2": {"student", "fake_score", "disc"},
}


def arguments(workdir):
    return f"--config={RECIPE}:{NUM_STEPS}", f"--workdir={workdir}"


# Minutes of compiling; test_resume.py kills runs of one role by default.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    code, output = child.run("main", *arguments(workdir))
    assert code == 0, output
    return workdir


def leaves(workdir, stage):
    """path -> digest, shape and dtype of every leaf of the last checkpoint."""
    step = workdir / stage / "checkpoints" / str(NUM_STEPS)
    return json.loads((step / "meta" / "metadata").read_text())["leaves"]


def metrics(workdir, stage):
    """All that is logged of a step but its time, step by step."""
    lines = metrics_log.read(workdir / stage / "metrics.jsonl")
    return [{k: v for k, v in line.items() if "/" in k} for line in lines]


def test_kill_9_changes_no_bit_of_any_role(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted / "teacher", tmp_path / "teacher")

    def reached(stage, step):
        """Whether it has trained beyond a checkpoint, which it is going to lose."""
        folder = tmp_path / stage
        saved = [p for p in folder.glob("checkpoints/*") if p.name.isdigit()]
        lines = metrics_log.read(folder / "metrics.jsonl")
        return bool(saved) and any(line["step"] >= step for line in lines)

    for stage in ROLES:
        process = child.start("main", *arguments(tmp_path))
        ready = lambda stage=stage: reached(stage, 6)  # noqa: E731
        assert child.stop_when(process, ready)[0] == -signal.SIGKILL
        assert not (tmp_path / stage / "done.json").exists()
    code, output = child.run("main", *arguments(tmp_path))
    assert code == 0 and "dmd2: resumes at step" in output, output
    for stage in ROLES:
        assert leaves(tmp_path, stage) == leaves(uninterrupted, stage)
        assert metrics(tmp_path, stage) == metrics(uninterrupted, stage)
        model = pathlib.Path(stage) / "model" / "model.safetensors"
        one, other = (w / model for w in (tmp_path, uninterrupted))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("stage", ROLES)
def test_a_checkpoint_holds_every_role(uninterrupted, stage):
    """What is compared above is all that there is."""
    paths = leaves(uninterrupted, stage)
    parts = [path.split("/") for path in paths]
    held = {(p[1], p[2]) for p in parts if p[0] == "nets"}
    kinds = ("params", "opt_state")
    every = {(role, kind) for role in ROLES[stage] for kind in kinds}
    assert held == every | {("student", "ema")}
    spectral = [p for p in parts if p[:2] == ["carry", "spectral"]]
    assert bool(spectral) == (stage == "gdd")
    assert ["step"] in parts
