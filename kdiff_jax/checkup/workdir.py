"""The storage of a workdir: room on it, and whether it gives back what it was given."""

import contextlib
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Iterator

import jax
import numpy as np

from kdiff_jax import files
from kdiff_jax.checkup.finding import Finding
from kdiff_jax.errors import CheckpointError
from kdiff_jax.stages import place
from kdiff_jax.train import hosts, parallel

SIZE = 16 * 2**20  # bytes that are written
ROOM = 5e9  # bytes below which a run is likely to fill the disk
SLOW = 20e6  # bytes a second below which checkpoints are felt
KINDS = {  # of file systems, that a person should know of
    "tmpfs": "is memory: what lies there is lost at a restart, and takes room in it",
    "ramfs": "is memory: what lies there is lost at a restart, and takes room in it",
    "overlay": "belongs to a container: what lies there may be lost with it",
}


def disk(workdir: pathlib.Path) -> Finding:
    """Room where the workdir lies or would lie, and what kind of storage that is."""
    above = files.existing(workdir)
    usage, stats = shutil.disk_usage(above), os.statvfs(above)
    kind = _file_system(above)
    facts = {"free_bytes": usage.free, "bytes": usage.total, "file_system": kind}
    text = f"{usage.free / 1e9:.4g} of {usage.total / 1e9:.4g} GB are free ({kind})"
    advice = ""
    if kind in KINDS:
        advice = f"--workdir: {KINDS[kind]}; name a folder on a disk for long runs"
    if stats.f_files and stats.f_favail < 10_000:  # 0 files: they are not counted
        text += f", and {stats.f_favail} files"
        advice = "delete files: a checkpoint has some hundreds"
    if usage.free < ROOM:
        advice = "make room: main --dryrun says what a run writes"
    return Finding("disk", text, advice, facts)


def write(workdir: pathlib.Path) -> Finding:
    """Writes a file as a run does, down to the disk, and reads it again."""
    place.check(workdir)
    data = secrets.token_bytes(SIZE)  # which no storage can pack
    with _folder(workdir) as folder:
        hosts.check_shared(folder)
        if jax.process_index() != 0:
            return Finding("write", "done by process 0")
        began = time.perf_counter()
        files.write_atomically(folder / "bytes", data)
        rate = SIZE / (time.perf_counter() - began)
        if (folder / "bytes").read_bytes() != data:
            raise CheckpointError(
                "what was read is not what was written; do not use this storage"
            )
    text = f"{rate / 1e6:.4g} MB/s down to the disk (fsync), read back equal"
    advice = ""
    if rate < SLOW:
        advice = (
            "slow: a checkpoint of 1 GB takes a minute or more; raise"
            " train.save_minutes, or name a --workdir on a faster disk"
        )
    return Finding("write", text, advice, {"bytes_per_second": rate})


def checkpoint(workdir: pathlib.Path) -> Finding:
    """Saves a state with the checkpoints of a run, restores it, checks its digests."""
    from kdiff_jax.train.checkpoint import Checkpoints

    mesh = parallel.make_mesh()
    values = np.random.default_rng(0).standard_normal((1, SIZE // 4), np.float32)
    state = parallel.replicate(
        {"step": np.array([3], np.int32), "weights": values}, mesh
    )
    with _folder(workdir) as folder:
        saved = Checkpoints(folder, asynchronous=False)
        try:
            began = time.perf_counter()
            saved.save(3, state)
            saved.wait()
            between = time.perf_counter()
            restored, _ = saved.restore_latest(state) or (None, 0)
            seconds = time.perf_counter() - between
        finally:
            saved.close()
        parallel.wait_for_all("checkpoint")
    if restored is None or not np.array_equal(restored["weights"], values):
        raise CheckpointError(
            "what was restored is not what was saved; do not use this storage"
        )
    facts = {"save_seconds": between - began, "restore_seconds": seconds}
    text = (
        f"{SIZE / 1e6:.3g} MB saved in {between - began:.2g} s, restored in"
        f" {seconds:.2g} s, digests agree"
    )
    return Finding("checkpoint", text, facts=facts)


@contextlib.contextmanager
def _folder(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder in the workdir, or where it would be made; gone with the block."""

    def make() -> str:
        found = files.existing(workdir) / f".doctor.{secrets.token_hex(4)}"
        found.mkdir()
        return str(found)

    folder = pathlib.Path(hosts.on_first(make))
    try:
        yield folder
    finally:
        if jax.process_index() == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _file_system(folder: pathlib.Path) -> str:
    """Kind of the file system, such as ext4 or nfs4; "unknown" where nothing says."""
    try:
        lines = pathlib.Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    real, depth, found = pathlib.Path(os.path.realpath(folder)), 0, "unknown"
    for line in lines:
        _, point, kind, *_ = line.split()
        mount = pathlib.Path(point.replace("\\040", " "))
        if real.is_relative_to(mount) and len(mount.parts) >= depth:
            depth, found = len(mount.parts), kind  # the last of equals is on top
    return found
