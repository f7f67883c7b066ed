"""Disks that are full or read-only, at every kind of stage; needs to mount one."""

import contextlib
import pathlib
import random
import shutil
import subprocess

from benchmarks.trials import work
from benchmarks.trials.child import Reply
from benchmarks.trials.outcome import HARMLESS, SILENT, Trial, judge, trial
from benchmarks.trials.work import STAGES, Work

SIZE = 8 * 2**20
ROOM = (0, 4, 12, 32, 64, 128)  # KiB that are left; a page is 4


def trials(run: Work, num: int, rng: random.Random) -> list[Trial]:
    """A stage without room ends with a line; with room the same command ends it."""
    del rng
    disk, found = run.scratch / "disk", []
    cases = [(stage, room) for room in (*ROOM, None) for stage in STAGES]
    for stage, room in cases[:num]:
        with _mounted(disk):
            found.append(_of_stage(run, disk, stage, room))
    for command in ("sample", "sample to a folder", "evaluate", "convert"):
        for room in (0, None):
            with _mounted(disk):
                found.append(_of_output(run, disk, command, room))
    return found


def _of_stage(run: Work, disk: pathlib.Path, stage: str, room: int | None) -> Trial:
    """The stage with `room` KiB left, or on a read-only disk; then again with room."""
    undone = STAGES[STAGES.index(stage) :]
    shutil.copytree(run.fresh(*undone, "report.*", "samples.png"), disk / "run")
    words = {"workdir": disk / "run"}
    _limit(disk, room)
    reply = run.main(f"--stage={stage}", **words)
    _clear_limit(disk)
    again = run.main(f"--stage={stage}", **words)
    same = again.code == 0 and _made(disk / "run", stage) == _made(run.whole, stage)
    outcome = judge(reply, same)
    if reply.code == 0 and same:
        outcome = HARMLESS
    elif not same and outcome not in ("bug", "hang"):
        outcome = SILENT if again.code == 0 else "bug"
    text = f"{stage}, {_words(room)}: {reply.code}, then {again.code}"
    return trial("stage", text, reply if again.code == 0 else again, outcome)


def _of_output(run: Work, disk: pathlib.Path, command: str, room) -> Trial:
    _limit(disk, room)
    reply = _write(run, disk, command)
    _clear_limit(disk)
    text = f"{command}, {_words(room)}: {reply.code}"
    return trial("output of a command", text, reply, judge(reply, same=False))


def _write(run: Work, disk: pathlib.Path, command: str) -> Reply:
    teacher = run.whole / "teacher"
    words = [f"--checkpoint={teacher}", "--num_images=4"]
    if command == "convert":
        return run.child.run("convert", f"--input={teacher}", f"--output={disk}/model")
    if command == "evaluate":
        data = f"--reference={run.scratch / 'data.npz'}"
        return run.child.run("evaluate", *words, data, f"--output={disk}/row.json")
    output = f"--output={disk}/{'images' if 'folder' in command else 'images.npz'}"
    return run.child.run("sample", *words, output)


def _made(folder: pathlib.Path, stage: str) -> dict[str, str]:
    found = work.result(folder)
    return {k: v for k, v in found.items() if k.startswith(f"{stage}/")}


def _words(room: int | None) -> str:
    return "read-only" if room is None else f"{room} KiB left"


@contextlib.contextmanager
def _mounted(disk: pathlib.Path):
    """A new disk of its own: the process of the commands may hold files of the last."""
    disk.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk]
    subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def _limit(disk: pathlib.Path, room: int | None) -> None:
    """Leaves so much room, or makes the disk read-only."""
    if room is None:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        return
    free = shutil.disk_usage(disk).free - 1024 * room
    (disk / "filler").write_bytes(bytes(max(free, 0)))


def _clear_limit(disk: pathlib.Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    (disk / "filler").unlink(missing_ok=True)
