"""Runs that are killed, two at once, and the processes of one run that differ."""

import os
import pathlib
import random
import select
import socket
import subprocess
import sys
import time

import numpy as np

from benchmarks.trials import work
from benchmarks.trials.child import Reply, environment
from benchmarks.trials.outcome import (
    BUG,
    HANG,
    HARMLESS,
    RECOVERED,
    SILENT,
    Trial,
    judge,
    lines,
    trial,
)
from benchmarks.trials.work import STAGES, Work

SECONDS = 420  # after which a process counts as hanging
WORST = (HANG, BUG, SILENT)


def kills(run: Work, num: int, rng: random.Random) -> list[Trial]:
    """Killed at a random time after it began; the same command gives the same bits."""
    expected, found = work.result(run.whole), []
    for i in range(num):
        stages = STAGES[i % len(STAGES) :]
        folder = run.fresh(*stages, "report.*", "samples.png")
        process = _start(run, folder)
        _wait_for(process, "stage ")
        seconds = rng.uniform(0, 5)
        time.sleep(seconds)
        process.kill()
        process.communicate()
        reply = run.main()
        same = work.result(folder) == expected
        outcome = judge(reply, same)
        outcome = RECOVERED if outcome == HARMLESS else outcome
        text = f"{seconds:.2f} s after it began with {stages[0]}"
        found.append(trial("killed", text, reply, outcome))
    return found


def twice(run: Work, num: int, rng: random.Random) -> list[Trial]:
    """A second run on the same workdir; the first goes on as if it were alone."""
    expected, found = work.result(run.whole), []
    for _ in range(num):
        seconds = rng.choice((0.0, 0.3, 1.0, 3.0))
        folder = run.fresh("*")
        first = _start(run, folder)
        time.sleep(seconds)
        replies = _replies([first, _start(run, folder)])
        same = work.result(folder) == expected
        outcomes = [judge(r, same, lines(r.output)) for r in replies]
        if all(r.code in (2, 7, 8) for r in replies):
            outcomes.append(BUG)  # neither went on
        worst = min(range(len(outcomes)), key=lambda k: _rank(outcomes[k]))
        text = f"the second {seconds} s after the first: {[r.code for r in replies]}"
        reply = replies[min(worst, 1)]
        found.append(trial("two runs at once", text, reply, outcomes[worst]))
    return found


def hosts(run: Work, num: int, rng: random.Random) -> list[Trial]:
    """Two processes that are no run together, or of which one dies."""
    del rng
    lr = "--config.stages.teacher.optim.lr=0.5"
    other = run.scratch / "other.npz"
    with np.load(run.scratch / "data.npz") as data:
        np.savez(other, images=255 - data["images"], labels=data["labels"])
    cases = {
        "another learning rate": ([lr], None),
        "another workdir": ([f"--workdir={run.scratch / 'unshared'}"], None),
        "other data": ([f"--config.data.path={other}"], None),
        "the second is killed": ([], 1),
        "the first is killed": ([], 0),
        "another seed": (["--config.seed=5"], None),
        "one stage alone": (["--stage=teacher"], None),
    }
    found = []
    for name, (words, killed) in list(cases.items())[:num]:
        folder = run.fresh("*")
        work.delete(run.scratch / "unshared")
        port = _free_port()
        processes = [_start(run, folder, host=(0, port))]
        processes.append(_start(run, folder, *words, host=(1, port)))
        if killed is not None:
            _wait_for(processes[0], "teacher  ")  # it alone writes a log
            processes[killed].kill()
        replies = _replies(processes)
        judged = [r for k, r in enumerate(replies) if k != killed]
        outcomes = [judge(r, same=False, usual=lines(r.output)) for r in judged]
        worst = min(range(len(outcomes)), key=lambda k: _rank(outcomes[k]))
        text = f"{name}: {[r.code for r in replies]}"
        found.append(trial("hosts", text, judged[worst], outcomes[worst]))
    return found


def _rank(outcome: str) -> int:
    return WORST.index(outcome) if outcome in WORST else len(WORST)


def _start(run: Work, folder: pathlib.Path, *words, host=None) -> subprocess.Popen:
    """`python -m kdiff_jax.main`, as one of two hosts if need be."""
    names = ("KDIFF_COORDINATOR", "KDIFF_NUM_PROCESSES", "KDIFF_PROCESS_ID")
    joined = {}
    if host:
        values = (f"127.0.0.1:{host[1]}", "2", str(host[0]))
        joined = dict(zip(names, values, strict=True))
    return subprocess.Popen(
        [
            *(sys.executable, "-u", "-m", "kdiff_jax.main", f"--config={run.recipe}"),
            *(f"--workdir={folder}", *words),
        ],
        cwd=run.scratch,
        env=environment(run.child.repo, run.scratch) | joined,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _wait_for(process: subprocess.Popen, words: str) -> None:
    """Reads its output until a line begins so; what was read is kept."""
    process.seen = b""
    end = time.monotonic() + SECONDS
    while not any(x.startswith(words.encode()) for x in process.seen.splitlines()):
        left = end - time.monotonic()
        ready, _, _ = select.select([process.stdout], [], [], max(left, 0))
        data = os.read(process.stdout.fileno(), 2**16) if ready else b""
        if not data:
            return
        process.seen += data


def _replies(processes) -> list[Reply]:
    """What all of them did by the time limit; those that have not ended are killed."""
    end = time.monotonic() + SECONDS
    found = []
    for process in processes:
        try:
            output, _ = process.communicate(timeout=max(end - time.monotonic(), 1))
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            (output, _), code = process.communicate(), None
        output = getattr(process, "seen", b"") + output
        found.append(Reply(code, output.decode(errors="replace")))
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
