"""Damaged data sets: an .npz, a .zip, a folder of pictures, embeddings, statistics."""

import io
import json
import os
import pathlib
import random
import struct
import zipfile

import numpy as np
from PIL import Image

from benchmarks.trials import work
from benchmarks.trials.child import Reply
from benchmarks.trials.outcome import ACCEPTED, SAID, SILENT, Trial, judge, lines, trial
from benchmarks.trials.work import Work

LENGTHS = (0, 1, 127, 2**16, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**63)
LARGE = ("uint64 2^63", "10^12")  # no labels, but moments and embeddings
KINDS = ("npz", "zip", "folder", "embeddings", "statistics")


def trials(run: Work, num: int, rng: random.Random) -> list[Trial]:
    """Bytes of sound files are damaged, or their content is made nonsense, in turn."""
    root, found, sound = run.scratch / "data", [], {}
    for i in range(num):
        kind, nonsense = KINDS[i % len(KINDS)], i // len(KINDS) % 2
        work.delete(root)
        root.mkdir()
        path = _write(kind, root)
        if kind not in sound:
            sound[kind] = _read(run, kind, path)
            assert sound[kind][0].code == 0, sound[kind]
        injury = _nonsense(kind, path, rng) if nonsense else _damage(path, rng)
        reply, digest = _read(run, kind, path)
        usual, expected = sound[kind]
        outcome = judge(reply, digest == expected, lines(usual.output))
        # Neither an .npy nor a JPEG has a checksum: other numbers are other data.
        unsealed = kind == "embeddings" or injury.endswith(".jpg")
        meant = injury.startswith("other") or unsealed and not nonsense
        if outcome in (SILENT, SAID) and meant:
            outcome = ACCEPTED
        found.append(trial(kind, injury, reply, outcome))
    return found


def _read(run: Work, kind: str, path: pathlib.Path) -> tuple[Reply, str | None]:
    """(what a command did that reads it, a digest of what it read or made)."""
    if kind == "embeddings":
        folder = run.fresh("config.json", "many", "evaluate")
        section = "--config.partition"
        arguments = [f"{section}.rule=kmeans", f"{section}.embeddings={path}"]
        reply = run.main("--stage=many", *arguments)
        made = work.result(folder)
        return reply, str([made.get(f"many/model/{x}") for x in _MODEL])
    if kind == "statistics":
        row = run.scratch / "row.json"
        row.unlink(missing_ok=True)
        checkpoint = f"--checkpoint={run.whole / 'teacher'}"
        arguments = [checkpoint, "--num_images=8", f"--output={row}"]
        reply = run.child.run("evaluate", f"--reference={path}", *arguments)
        return reply, work.digest(row) if row.is_file() else None
    name = {"npz": "npz", "zip": "edm_zip", "folder": "folder"}[kind]
    reply = run.child.images(name=name, path=str(path), size=4)
    return reply, reply.digest


_MODEL = ("model.safetensors", "config.json")


def _write(kind: str, root: pathlib.Path) -> pathlib.Path:
    """A sound set of eight pictures in two classes, or what belongs to the run."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (8, 4, 4, 3), np.uint8)
    labels = np.arange(8) % 2
    path = root / {"embeddings": "rows.npy", "folder": "set"}.get(kind, f"set.{kind}")
    if kind == "npz":
        np.savez(path, images=pictures, labels=labels)
    elif kind == "embeddings":
        np.save(path, rng.normal(size=(4, 3)).astype(np.float32))
    elif kind == "statistics":
        path = path.with_suffix(".npz")
        np.savez(path, mu=np.zeros(3), sigma=np.eye(3), num=8, features="pixels")
    elif kind == "folder":
        for i, picture in enumerate(pictures):
            file = path / f"class{labels[i]}" / f"{i}.{'png' if i < 4 else 'jpg'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)
    else:
        names = [f"00000/img{i:08d}.png" for i in range(8)]
        pairs = [[name, int(y)] for name, y in zip(names, labels, strict=True)]
        with zipfile.ZipFile(path, "w") as file:
            for name, picture in zip(names, pictures, strict=True):
                buffer = io.BytesIO()
                Image.fromarray(picture).save(buffer, "PNG")
                file.writestr(name, buffer.getvalue())
            file.writestr("dataset.json", json.dumps({"labels": pairs}))
    return path


def _damage(path: pathlib.Path, rng) -> str:
    """Bytes of the file, or of one of the folder, become others."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.*"))
    file = rng.choice(files)
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data))
    what = rng.choice(("bit", "byte", "cut", "insert", "length", "run", "empty"))
    match what:
        case "bit":
            data[at] ^= 1 << rng.randrange(8)
        case "byte":
            data[at] = rng.randrange(256)
        case "cut":
            del data[at:]
        case "insert":
            data[at:at] = rng.randbytes(rng.randrange(1, 20))
        case "length":
            length = rng.choice(LENGTHS)
            part = struct.pack("<Q" if length >= 2**32 else "<I", length)
            data[at : at + len(part)] = part
        case "run":
            del data[at : at + rng.randrange(1, 40)]
        case "empty":
            data.clear()
    file.write_bytes(data)
    return f"{what} at {at} of {file.name}"


def _nonsense(kind: str, path: pathlib.Path, rng) -> str:
    """A file of a sound format with content that is none."""
    if kind in ("npz", "statistics"):
        with np.load(path) as file:
            arrays = dict(file)
        name = rng.choice(("images", "labels") if kind == "npz" else ("mu", "sigma"))
        text, arrays[name] = rng.choice(list(_arrays(arrays[name])))
        if kind == "statistics" and text in LARGE:
            text = f"other: {text}"
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
        return f"{text}, {name}"
    if kind == "embeddings":
        text, array = rng.choice(list(_arrays(np.load(path))))
        text = f"other: {text}" if text in LARGE else text
        if array is None:
            path.unlink()
        else:
            np.save(path, array)
        return text
    if kind == "folder":
        return _odd_folder(path, rng)
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    text = _odd_labels(content, rng)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return text


def _arrays(a: np.ndarray):
    """(what, array): other types, shapes and values; "other" may be meant."""
    yield "gone", None
    yield "float NaN", np.full(a.shape, np.nan)
    yield "infinite", np.full(a.shape, np.inf)
    yield "other: negative", -np.ones(a.shape) * 5
    yield "complex", a.astype(complex)
    yield "text", a.astype("U8")
    yield "objects", np.array([None] * len(a), object)
    yield "no rows", a[:0]
    yield "one row less", a[:-1]
    yield "another axis", a[..., None, None]
    yield "flat", a.reshape(-1)[: len(a) - 1]
    yield "uint64 2^63", np.full(a.shape, 2**63, np.uint64)
    yield "10^12", np.full(a.shape, 10**12, np.int64)
    yield "a scalar", np.float64(3)
    yield "other: order in memory", np.asfortranarray(a)
    yield "bools", a.astype(bool)


def _odd_folder(path: pathlib.Path, rng) -> str:
    file = rng.choice(sorted(path.rglob("*.*")))
    hidden = path / ".ipynb_checkpoints"
    what = rng.choice(
        ("text", "fifo", "loop", "device", "alpha", "grey", "hidden", "empty class")
    )
    if what in ("fifo", "loop", "device"):
        file.unlink()
    match what:
        case "text":
            file.write_text("no picture")
        case "fifo":
            os.mkfifo(file)
        case "loop":
            file.symlink_to(path, target_is_directory=True)
        case "device":
            file.symlink_to("/dev/zero")
        case "alpha":
            Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(file.with_suffix(".png"))
        case "grey":
            Image.new("L", (4, 4), 7).save(file)
        case "hidden":
            hidden.mkdir()
            (hidden / file.name).write_bytes(file.read_bytes())
        case "empty class":
            (path / "class0a").mkdir()
    # Another picture is no fault; what is beside the pictures must not matter.
    return f"{'other: ' if what in ('alpha', 'grey') else ''}{what} {file.name}"


def _odd_labels(content: dict[str, bytes], rng) -> str:
    """Changes dataset.json, or the names of the members."""
    names = [n for n in content if n.endswith("png")]
    odd = [-1, 10**12, 2**64, 1.5, None, "one", True, [0, 1], {}, float("nan")]
    what = rng.choice(("label", "label", "json", "deep", "missing", "mac", "below"))
    match what:
        case "label":
            value = rng.choice(odd)
            pairs = [[name, 0] for name in names]
            pairs[rng.randrange(8)][1] = value
            content["dataset.json"] = json.dumps({"labels": pairs}).encode()
            return f"label {value!r}"
        case "json":
            value = rng.choice(([], {"labels": 3}, "x", 7, {"labels": [1, 2]}, {}))
            content["dataset.json"] = json.dumps(value).encode()
            return f"dataset.json {value!r}"
        case "deep":
            content["dataset.json"] = b"[" * 100_000
            return "deep dataset.json"
        case "missing":
            del content[rng.choice(names)]
            return "a picture is missing"
        case "mac":
            content["__MACOSX/00000/._img.png"] = b"\0\5\26\7"
            return "a Mac's file"
        case _:
            for name in list(content):
                content[f"set/{name}"] = content.pop(name)
            return "all in a folder"
