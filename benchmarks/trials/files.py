"""Injured files of a run: flipped bits, cut, emptied, deleted, replaced by a folder."""

import pathlib
import random
from typing import NamedTuple

from benchmarks.trials import work
from benchmarks.trials.child import Reply
from benchmarks.trials.outcome import Trial, judge, lines, trial
from benchmarks.trials.work import Work


class Read(NamedTuple):
    """A command that reads a file, and what is undone before, so that it does.

    Attributes:
        command: "main", "sample", "evaluate" or "load".
        target: The stage to run alone ("" for all), or the model to read.
        remove: Patterns of what is deleted first.
    """

    command: str
    target: str = ""
    remove: tuple[str, ...] = ()


def unfinished(stage: str, *more: str) -> Read:
    """A stage that was killed just before its end goes on."""
    return Read("main", stage, (f"{stage}/done.json", f"{stage}/model", *more))


REPORT = ("evaluate/done.json", "report.*", "samples.png")
AGAIN = Read("main")
REPORTED = Read("main", "evaluate", REPORT)
MEASURED = Read("main", "evaluate", (*REPORT, "evaluate/teacher.*"))
MODEL = (
    *(Read("sample", "teacher"), Read("load", "many"), Read("evaluate", "student")),
    *(Read("load", "student"), Read("main", "pairs", ("pairs",))),
)
STEP = (
    *(unfinished("teacher"), Read("load", "many", ("many/model",))),
    *(Read("load", "teacher/checkpoints/6"), unfinished("student")),
)
TIMED = ("shown", "report.html")
# kind -> (patterns of its files, what reads them)
KINDS = {
    "pairs: arrays": (
        ["pairs/*/shard-*/*.npy"],
        [
            Read("main", "student", ("student",)),
            Read("main", "pairs", ("pairs/done.*",)),
        ],
    ),
    "pairs: checksums, identity": (
        ["pairs/*/shard-*/checksums.json", "pairs/*/pairs.json"],
        [
            Read("main", "student", ("student",)),
            Read("main", "pairs", ("pairs/done.*",)),
        ],
    ),
    "best.safetensors": (
        ["student/best.safetensors"],
        [unfinished("student"), unfinished("student", "student/checkpoints/6")],
    ),
    "model: weights": (["*/model/model.safetensors"], MODEL),
    "model: spec": (["*/model/config.json"], MODEL),
    "stage: model.json": (
        ["*/model.json"],
        [*STEP, Read("sample", "student/checkpoints/6"), MEASURED],
    ),
    "stage: done.json": (["*/done.json"], [AGAIN, REPORTED, MEASURED]),
    "checkpoint: arrays": (
        ["*/checkpoints/6/state/d/*", "*/checkpoints/6/state/ocdbt.*/d/*"],
        STEP,
    ),
    "checkpoint: manifest": (
        [
            "*/checkpoints/6/state/manifest.ocdbt",
            "*/checkpoints/6/state/ocdbt.*/manifest.ocdbt",
        ],
        STEP,
    ),
    "checkpoint: metadata": (
        [
            *("*/checkpoints/6/_*", "*/checkpoints/6/*.txt"),
            *("*/checkpoints/6/state/_*", "*/checkpoints/6/state/*.txt"),
            *("*/checkpoints/6/state/array_metadatas/*", "*/checkpoints/6/meta/*.txt"),
        ],
        STEP,
    ),
    "checkpoint: our digests": (["*/checkpoints/6/meta/metadata"], STEP),
    "reference statistics": (
        ["evaluate/reference_*.npz"],
        [Read("evaluate", "teacher"), MEASURED],
    ),
    "evaluation: rows, images": (
        ["evaluate/[tsm]*.json", "evaluate/*.npy"],
        [REPORTED],
    ),
    "metrics.jsonl": (["*/metrics.jsonl"], [REPORTED, unfinished("student")]),
    "workdir: config.json": (["config.json"], [AGAIN, unfinished("student")]),
    "report.json": (["report.json"], [AGAIN]),
}


def flips(work: Work, num: int, rng: random.Random) -> list[Trial]:
    """One flipped bit in each trial, the kinds of files in turn."""
    return _trials(work, num, rng, {"flip": _flip})


def losses(work: Work, num: int, rng: random.Random) -> list[Trial]:
    """A file that is cut, empty, gone, or a folder."""
    injuries = {"cut": _cut, "empty": _empty, "deleted": _deleted, "folder": _folder}
    return _trials(work, num, rng, injuries)


def _trials(run: Work, num, rng, injuries) -> list[Trial]:
    sound, found = {}, []
    for i in range(num):
        kind = list(KINDS)[i % len(KINDS)]
        name = list(injuries)[i // len(KINDS) % len(injuries)]
        patterns, readers = KINDS[kind]
        read = readers[i // len(KINDS) // len(injuries) % len(readers)]
        if read not in sound:
            run.fresh(*read.remove)
            run.child.seconds *= 5  # the first of its kind compiles
            sound[read] = _read(run, read)
            run.child.seconds /= 5
            assert sound[read][0].code == 0, (read, sound[read])
        folder = run.fresh(*read.remove)
        path = _choose(folder, patterns, read, rng)
        where = injuries[name](path, rng)
        injured = str(path.relative_to(folder))
        before = _bytes(path)
        reply, made = _read(run, read)
        usual, expected = sound[read]
        if _bytes(path) == before:  # nobody took it for the result
            made.pop(injured, None)
            expected = {k: v for k, v in expected.items() if k != injured}
        if "shown" not in made:  # a row was measured again, and its times are others
            expected = {k: v for k, v in expected.items() if k not in TIMED}
        outcome = judge(reply, made == expected, lines(usual.output))
        text = f"{name} {injured} {where}, then {read.command} {read.target}"
        found.append(trial(kind, text, reply, outcome))
    return found


def _choose(folder, patterns, read: Read, rng) -> pathlib.Path:
    """A file of the kind, of what the command reads where that is one stage's."""
    files = [p for x in patterns for p in sorted(folder.glob(x)) if p.is_file()]
    of_stage = [
        p for p in files if p.is_relative_to(folder / read.target.split("/")[0])
    ]
    return rng.choice(of_stage or files)


def _read(run: Work, read: Read) -> tuple[Reply, dict[str, str]]:
    """(what the command did, the digests of its results)."""
    child, out = run.child, run.scratch / "out"
    work.delete(out)
    out.mkdir()
    target = run.copy / read.target
    if read.command == "main":
        stage = [f"--stage={read.target}"] if read.target else []
        rows = _rows(run.copy)
        reply = run.main(*stage)
        found = work.result(run.copy)
        # Rows that were there are shown as they are, times and all.
        if read in (AGAIN, REPORTED) and _rows(run.copy) == rows:
            found["shown"] = str([x for x in reply.output.splitlines() if "  " in x])
            html = run.copy / "report.html"
            found["report.html"] = work.digest(html) if html.is_file() else ""
        return reply, found
    if read.command == "load":
        reply = child.load(target)
        return reply, {"model": reply.digest}
    arguments = [f"--checkpoint={target}", "--num_images=8", "--batch_size=8"]
    if read.command == "sample":
        reply = child.run("sample", *arguments, f"--output={out}/images.npz")
    else:
        reference = run.copy / "evaluate" / "reference_pixels.npz"
        arguments += [f"--reference={reference}", f"--output={out}/row.json"]
        reply = child.run("evaluate", *arguments)
    return reply, {p.name: work.digest(p) for p in out.iterdir()}


def _rows(folder: pathlib.Path) -> list[bytes | None]:
    return [_bytes(p) for p in sorted(folder.glob("evaluate/[tsm]*.json"))]


def _bytes(path: pathlib.Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _flip(path, rng) -> str:
    data = bytearray(path.read_bytes())
    if not data:
        return "(empty)"
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return f"bit {bit}"


def _cut(path, rng) -> str:
    data = path.read_bytes()
    size = rng.randrange(len(data)) if data else 0
    path.write_bytes(data[:size])
    return f"to {size} bytes"


def _empty(path, rng) -> str:
    path.write_bytes(b"")
    return ""


def _deleted(path, rng) -> str:
    path.unlink()
    return ""


def _folder(path, rng) -> str:
    path.unlink()
    path.mkdir()
    return ""
