"""Checkpoints that are verified: Orbax writes them, we check what comes back.

Orbax neither checksums its data nor refuses another dtype, and lists empty or
uncommitted step folders as the latest. So each step holds a digest of every leaf
(`interop.steps`); a restore takes the newest step whose digests agree, says loudly
which it passed over, and never starts from scratch while a checkpoint exists.
"""

import logging
import pathlib
import re
import shutil
from collections.abc import Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kdiff_jax import sealed
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import steps as step_folders
from kdiff_jax.train import digests

log = logging.getLogger(__name__)

_AVERAGE = re.compile(r"nets/[^/]+/ema/")


class Checkpoints:
    """The checkpoints of one stage, in `folder`, one sub-folder per step.

    The first axis of every leaf is that of the students. The first checkpoints of one
    student had no such axis, and get it when they are restored.
    """

    def __init__(
        self,
        folder,
        *,
        keep: int = 2,
        asynchronous: bool = True,
    ):
        self.folder = pathlib.Path(folder).absolute()
        self._kept = _Kept(keep)
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=self._kept,
            enable_async_checkpointing=asynchronous,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)

    def save(self, step: int, state, *, good: int = 0) -> None:
        """Starts to write the state, which may be donated as soon as this returns.

        Args:
            step: Its number.
            state: What to write.
            good: A step up to which all is well; the newest one up to there is kept
                beside the newest of all.
        """
        if step in self._manager.all_steps():
            return
        self._kept.good = good
        leaves = digests.of_all_hosts(_as_dict(state))
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_as_dict(state)),
                meta=ocp.args.JsonSave(step_folders.seal(step, leaves)),
            ),
        )

    def restore_latest(self, template):
        """Returns (state, step) of the newest valid step, or None if there is no step.

        Saves that are under way here are waited for.

        Args:
            template: A state with the shapes, dtypes and shardings to restore into.

        Raises:
            CheckpointError: If no step is valid, or they hold another model.
        """
        self.wait()
        steps = step_folders.of(self.folder)
        damages = []
        for step in steps:
            state = None
            try:
                state = self.restore(step, template)
            except _Damaged as error:
                damages.append(str(error))
                log.error("%s; trying the step before", error)
            if _everywhere(state is not None) and self._is_as_written(step, state):
                self._set_aside([s for s in steps if s > step])
                return state, step
        if steps:
            why = f" ({damages[0]})" if damages else ""
            raise CheckpointError(
                f"no valid checkpoint among steps {steps} of {self.folder}{why};"
                " refusing to start from scratch: restore the folder, or delete it to"
                " begin anew"
            )
        return None

    def restore(self, step: int, template):
        """The state of one step, verified leaf by leaf."""
        folder = self.folder / str(step)
        try:
            meta = step_folders.read(folder)
        except sealed.Damaged as error:
            raise _Damaged(f"checkpoint {folder}: {error}") from error

        def stored_as(path):
            return step_folders.stored_name(path, meta.version)

        expected = {stored_as(path): leaf for path, leaf in _leaves(template)}
        if step_folders.without_students(meta.leaves) and _is_of_one(template):
            found = self._read(folder, meta, _without_axis(expected))
            found = _with_axis(found, expected)
        else:
            found = self._read(folder, meta, expected)
        leaves = [found[stored_as(path)] for path, _ in _leaves(template)]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)

    def _read(self, folder: pathlib.Path, meta: step_folders.Meta, template: dict):
        """The leaves of a flat template by path, each equal to its digest."""
        other, unused = _compare(meta.leaves, template)
        if other and meta.is_sealed:
            raise CheckpointError(f"checkpoint {folder} {other}")
        if other:  # of a version before: damaged digests may look like another model's
            raise _Damaged(f"checkpoint {folder} {other}")
        try:
            # Orbax wants all that was written; what nobody asks for is dropped later.
            more = _like_stored(unused, template["step"].sharding)
            restored = self._manager.restore(
                int(folder.name),
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(_abstract(template) | more)
                ),
            )["state"]
        except Exception as error:  # Orbax raises bare exceptions for damaged files
            text = " ".join(str(error).split())[:200]
            raise _Damaged(f"checkpoint {folder}: {text}") from error
        leaves = {path: restored[path] for path in template}
        for path, leaf in leaves.items():
            if step_folders.differs(
                digests.of_leaf(leaf, meta.leaves[path]), meta.leaves[path]
            ):
                raise _Damaged(f"checkpoint {folder}: {path} differs from its checksum")
        return leaves

    def _is_as_written(self, step: int, state) -> bool:
        """Whether leaves are as they were written of which no host has a whole row."""
        shared = {path: x for path, x in _leaves(state) if digests.is_shared(x)}
        if not shared:
            return True
        meta = step_folders.read(self.folder / str(step))
        if step_folders.without_students(meta.leaves):
            return True  # read, and compared, as a whole on every device
        for path, found in digests.of_all_hosts(shared).items():
            stored = meta.leaves[step_folders.stored_name(path, meta.version)]
            if step_folders.differs(found, stored):
                log.error(
                    "checkpoint %s: %s differs from its checksum; trying the step"
                    " before",
                    *(self.folder / str(step), path),
                )
                return False
        return True

    def set_aside(self, steps: Sequence[int], why: str) -> None:
        """Renames steps to WHY_STEP_k: nothing is lost, and their number is free.

        In place of those of the attempt before, if there are any to rename: a command
        that is repeated, and ends in the same way, fills no disk.
        """
        self.wait()
        if steps and jax.process_index() == 0:
            for old in sorted(self.folder.glob(f"{why}_*")):
                shutil.rmtree(old, ignore_errors=True)
        self._set_aside(steps, why)

    def steps(self) -> list[int]:
        """What is saved, or about to be, in order."""
        return sorted(self._manager.all_steps())

    def wait(self) -> None:
        """Blocks until every save is on disk; raises what went wrong meanwhile."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def _set_aside(self, steps, why="damaged") -> None:
        if not steps:
            return
        self._manager.close()
        # The newest first: killed in between, what is left is older.
        for step in sorted(steps, reverse=True) if jax.process_index() == 0 else []:
            source, k = self.folder / str(step), 0
            while (target := self.folder / f"{why}_{step}_{k}").exists():
                k += 1
            source.rename(target)
            log.error("checkpoint %s is set aside as %s", source, target.name)
        _everywhere(True)  # nobody lists the folder before the names are final
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)


class _Kept:
    """Orbax asks it, before each save, which steps stay.

    The newest, the newest good one, and the one that may be good next: of a run that
    saves often, the newest are too new to be known as good before they go.

    Attributes:
        good: See `Checkpoints.save`.
    """

    def __init__(self, num: int):
        self._num, self.good = num, 0

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        del context
        steps = [one.step for one in checkpoints]  # in order
        good = [step for step in steps if step <= self.good]
        next_good = steps[len(good) : len(good) + 1]
        stay = {*steps[-self._num :], *good[-1:], *next_good}
        return [step in stay for step in steps]


def _everywhere(good: bool) -> bool:
    """Whether it is so on all hosts."""
    if jax.process_count() == 1:
        return good
    return bool(np.all(multihost_utils.process_allgather(np.array(good))))


class _Damaged(Exception):
    """One step cannot be used; an older one may."""


def _as_dict(state):
    """Orbax stores dicts of leaves; the path names are ours, so they stay readable."""
    return {path: leaf for path, leaf in _leaves(state)}


def _leaves(tree):
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(p, simple=True, separator="/"), x) for p, x in flat]


def _abstract(tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )


def _is_of_one(template) -> bool:
    return all(len(x.shape) > 0 and x.shape[0] == 1 for x in jax.tree.leaves(template))


def _without_axis(template):
    """The template of one student, as its first checkpoints were written."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape[1:], x.dtype, sharding=NamedSharding(x.sharding.mesh, P())
        ),
        template,
    )


def _with_axis(state, template):
    places = jax.tree.map(lambda x: x.sharding, template)
    add = jax.jit(
        lambda tree: jax.tree.map(lambda x: x[None], tree), out_shardings=places
    )
    return add(state)


def _like_stored(leaves: dict, sharding) -> dict:
    return {
        path: jax.ShapeDtypeStruct(tuple(x["shape"]), x["dtype"], sharding=sharding)
        for path, x in leaves.items()
    }


def _compare(stored: dict, expected: dict) -> tuple[str, dict]:
    """How a checkpoint shows that it is of another model, and what of it is not needed.

    Returns:
        The first leaves that differ, in words, or "". And the digests of averages of
        roles that keep none, of which the first checkpoints held one, too.
    """
    unused = {
        path: facts
        for path, facts in stored.items()
        if path not in expected and _AVERAGE.match(path)
    }
    wrong = [f"{p} is missing" for p in expected if p not in stored]
    wrong += [
        f"{p} is not expected" for p in stored if p not in expected and p not in unused
    ]
    for path in expected.keys() & stored.keys():
        found = (tuple(stored[path]["shape"]), stored[path]["dtype"])
        want = (tuple(expected[path].shape), str(expected[path].dtype))
        if found != want:
            wrong.append(f"{path} is {found}, expected {want}")
    if not wrong:
        return "", unused
    more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
    found = f"{'; '.join(sorted(wrong)[:10])}{more}"
    other = f"is of another model: {found}; use the config that wrote it, or another"
    return f"{other} workdir", unused
