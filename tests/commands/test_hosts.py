"""Two processes are one run: the same images, the same losses, one set of files."""

import os
import shutil
import socket

import child
import jax
import numpy as np
import pytest
from child import RECIPE
from tolerance import REORDER

from kdiff_jax import interop
from kdiff_jax.report import metrics_log


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_two(arguments, own=((), ()), *, anew=False):
    """Both processes of one job, two pretend devices each, `own` arguments of each.

    As copies of one process they hash alike, and end without taking down the
    interpreter: what may depend on that is begun anew.
    """
    port = free_port()
    processes = []
    for i in range(2):
        names = ("KDIFF_COORDINATOR", "KDIFF_NUM_PROCESSES", "KDIFF_PROCESS_ID")
        values = (f"127.0.0.1:{port}", "2", str(i))
        os.environ |= dict(zip(names, values, strict=True))
        how = dict(devices=2, anew=anew)
        processes.append(child.start("main", *arguments, *own[i], **how))
    for name in names:
        del os.environ[name]
    return processes


def test_two_processes_give_what_one_gives(tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    stages = ("teacher", "pairs", "student", "many", "evaluate")
    recipe = [f"--config={RECIPE}:2", f"--config.order={stages}"]
    outputs = []
    for process in start_two([*recipe, f"--workdir={together}"], anew=True):
        output, _ = process.communicate(timeout=500)
        outputs.append(output)
        assert process.returncode == 0, "\n".join(outputs)
    code, output = child.run("main", *recipe, f"--workdir={alone}")
    assert code == 0, output
    # The last trains two students, one on each process.
    for stage in ("teacher", "student", "many"):
        # Losses, not parameters: Adam magnifies the rounding of a gradient near zero.
        one, two = (
            metrics_log.read(w / stage / "metrics.jsonl") for w in (alone, together)
        )
        assert [m["step"] for m in two] == [1, 2]
        for name in (k for k in one[0] if k.endswith(("/loss", "/grad_norm"))):
            # A phase that is due at every third step has no loss at the others.
            expected, found = ([m[name] for m in x if name in m] for x in (one, two))
            np.testing.assert_allclose(found, expected, rtol=2e-3)
    assert len(list((together / "pairs" / "train").glob("shard-*"))) == 8


def test_a_half_given_cluster_is_refused(monkeypatch):
    monkeypatch.setenv("KDIFF_COORDINATOR", "127.0.0.1:1")
    code, output = child.run("main", f"--config={RECIPE}")
    assert code == 2
    assert "KDIFF_NUM_PROCESSES" in output


@pytest.mark.slow  # as the first, with a mesh of two students
def test_each_process_trains_a_student_of_its_own(tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    recipe = f"--config={RECIPE.with_name('two_students.py')}"
    outputs = []
    for process in start_two([recipe, f"--workdir={together}"]):
        output, _ = process.communicate(timeout=500)
        outputs.append(output)
        assert process.returncode == 0, "\n".join(outputs)
    code, output = child.run("main", recipe, f"--workdir={alone}")
    assert code == 0, output
    for stage in ("student", "progressive_2"):
        one, two = (
            metrics_log.read(w / stage / "metrics.jsonl") for w in (alone, together)
        )
        for name in (k for k in one[0] if "/loss" in k):
            expected, found = [m[name] for m in one], [m[name] for m in two]
            np.testing.assert_allclose(found, expected, rtol=2e-3)
    # A stopped run goes on, from rows that lie on different hosts.
    steps = sorted((together / "student" / "checkpoints").glob("[0-9]*"))
    model = together / "student" / "model" / "model.safetensors"
    before = model.read_bytes()
    shutil.rmtree(steps[-1])
    shutil.rmtree(model.parent)
    (together / "student" / "done.json").unlink()
    for process in start_two([recipe, f"--workdir={together}"]):
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0 and "resumes at step 2" in output, output
    assert model.read_bytes() == before


@pytest.mark.slow  # as the first, with the kernels of a network on both processes
def test_two_processes_share_a_state_in_parts(tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    recipe = f"--config={RECIPE.with_name('in_parts.py')}"
    code, output = child.run("main", f"{recipe}:replicated", f"--workdir={alone}")
    assert code == 0, output
    for again in (False, True):
        for process in start_two([recipe, f"--workdir={together}"]):
            output, _ = process.communicate(timeout=500)
            assert process.returncode == 0, output
            assert not again or "resumes at step 2" in output
        one, two = (interop.load(w / "teacher").params for w in (alone, together))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, **REORDER), one, two)
        # Digests are those of whole leaves, which the parts of both have told.
        folder = together / "teacher" / "checkpoints" / "4"
        interop.load(folder)
        shutil.rmtree(folder)
        shutil.rmtree(together / "teacher" / "model")
        (together / "teacher" / "done.json").unlink()
