"""Processes of one run that differ, that see other folders, or that are gone."""

import signal

import child
import pytest
from child import RECIPE
from test_hosts import start_two

from kdiff_jax.report import metrics_log


def said(process):
    """(exit code, the lines that the program says of itself)."""
    output, _ = process.communicate(timeout=200)
    lines = [x for x in output.splitlines() if x.startswith("kdiff_jax: ")]
    return process.returncode, lines, output


def test_processes_that_were_started_differently_end_before_they_begin(tmp_path):
    common = [f"--config={RECIPE}:2", f"--workdir={tmp_path}/w"]
    own = ["--config.stages.teacher.optim.lr=0.5", "--config.seed=0"]
    for process in start_two(common, [[one] for one in own]):
        code, lines, output = said(process)
        assert code == 2, output
        (line,) = lines
        assert "processes 0 and 1 of this run were started differently" in line
        assert "config.stages.teacher.optim.lr is 0.5 and 0.002" in line
    assert not (tmp_path / "w").exists()


def test_a_workdir_that_is_not_shared_ends_both(tmp_path):
    own = [[f"--workdir={tmp_path}/{name}"] for name in ("a", "b")]
    for process in start_two([f"--config={RECIPE}:2"], own):
        code, lines, output = said(process)
        assert code == 2, output
        assert "process 1 of 2 does not see what process 0 writes" in lines[0]
    assert not (tmp_path / "a" / "config.json").exists()


# The first, whom all others ask; that of the second is the same with fewer to notice.
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_ends_the_other_with_8(victim, tmp_path):
    arguments = [f"--config={RECIPE}:100000", f"--workdir={tmp_path}"]
    processes = start_two([*arguments, "--stage=teacher"], anew=True)
    log = tmp_path / "teacher" / "metrics.jsonl"
    child.stop_when(
        processes[victim], lambda: len(metrics_log.read(log)) > 2, signal.SIGKILL
    )
    code, lines, output = said(processes[1 - victim])
    assert code == 8, output
    assert lines == [
        f"kdiff_jax: process {victim} of this run is gone; what was saved is intact:"
        " run the same command again"
    ]
    assert "Traceback" not in output
