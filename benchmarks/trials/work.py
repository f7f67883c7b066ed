"""One complete run that the trials copy, and what of a run counts as its result."""

import hashlib
import json
import pathlib
import shutil

import numpy as np

from benchmarks.trials.child import Child, Reply

RECIPE = pathlib.Path(__file__).with_name("recipe.py")
STAGES = ("teacher", "pairs", "student", "many", "evaluate")
# Of a run, not of what it made.
VOLATILE = {
    *("images_per_second", "latency_ms", "train_seconds", "seconds"),
    *("timing", "measured"),
    *("kdiff_jax", "source", "checkpoint", "reference", "digest"),
}


class Work:
    """A folder with a complete run, made once, and one copy of it at a time.

    Args:
        repo: Root of a clone of the version to be tried.
        scratch: A folder of this version's own.
        **limits: See `Child`.
    """

    def __init__(self, repo, scratch, **limits):
        self.scratch = pathlib.Path(scratch).absolute()
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.child = Child(pathlib.Path(repo).absolute(), self.scratch, **limits)
        self.whole, self.copy = self.scratch / "whole", self.scratch / "trial"
        # Not beside this file: it shares with configs/ of the version that is tried.
        self.recipe = shutil.copy(RECIPE, self.scratch)
        write_data(self.scratch / "data.npz")
        if not (self.whole / "report.json").is_file():
            shutil.rmtree(self.whole, ignore_errors=True)
            self.child.seconds *= 10  # it compiles everything
            reply = self.main(workdir=self.whole)
            self.child.seconds /= 10
            assert reply.code == 0, reply.output

    def main(self, *more, workdir=None) -> Reply:
        """The recipe in `workdir`, else in the copy."""
        workdir = f"--workdir={workdir or self.copy}"
        return self.child.run("main", f"--config={self.recipe}", workdir, *more)

    def fresh(self, *remove: str) -> pathlib.Path:
        """A new copy of the complete run, without what these patterns match."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.whole, self.copy)
        for pattern in remove:
            for path in list(self.copy.glob(pattern)):
                delete(path)
        return self.copy


def delete(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_data(path: pathlib.Path) -> None:
    """64 images of one pixel, four classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(64, dtype=np.int32) % 4
    noise = rng.normal(64 * labels[:, None, None, None], 20, (64, 1, 1, 3))
    np.savez(path, images=noise.clip(0, 255).astype(np.uint8), labels=labels)


def result(workdir: pathlib.Path) -> dict[str, str]:
    """Digests of what people and later stages take from a run, by file.

    Models by their weights and specs, pairs by their arrays, rows and report without
    what measures time.
    """
    found = {}
    for pattern in (
        *("*/model/model.safetensors", "*/model/config.json", "pairs/*/shard-*/*.npy"),
        *("evaluate/*.json", "evaluate/*.npy", "evaluate/*.npz", "report.json"),
        "samples.png",
    ):
        for path in sorted(workdir.glob(pattern)):
            if path.is_file():
                name = str(path.relative_to(workdir))
                found[name] = digest(path)
    return found


def digest(path: pathlib.Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".npz":
        return _of_npz(path)
    if path.suffix == ".json":
        try:
            data = json.dumps(_lasting(json.loads(data)), sort_keys=True).encode()
        except ValueError:
            pass
    return hashlib.sha256(data).hexdigest()


def _of_npz(path) -> str:
    found = hashlib.sha256()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in sorted(arrays.files):
                found.update(f"{name} {arrays[name].dtype}".encode())
                found.update(np.ascontiguousarray(arrays[name]).tobytes())
    except Exception as error:  # an injured file that nobody replaced
        return repr(error)
    return found.hexdigest()


def _lasting(tree):
    """Without what no two runs share."""
    if isinstance(tree, dict):
        kept = {k: v for k, v in tree.items() if k not in VOLATILE}
        return {
            k: _lasting(v) for k, v in kept.items() if k not in ("hardware", "versions")
        }
    return [_lasting(v) for v in tree] if isinstance(tree, list) else tree
