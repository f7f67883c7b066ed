"""Keeps the best model of a stage, by whatever scores it while it trains."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import safetensors
import safetensors.numpy

from kdiff_jax import sealed
from kdiff_jax.errors import CheckpointError
from kdiff_jax.files import json_text, write_atomically
from kdiff_jax.interop.trees import flatten, unflatten
from kdiff_jax.stages import results
from kdiff_jax.train import parallel
from kdiff_jax.train.state import without_axis

AGAIN = (
    "delete it, and the best of the steps that are left is taken; or delete the folder"
    " of this stage to train it again"
)
HELD_OUT = {"figure": results.HELD_OUT}  # what files of before say nothing else of

log = logging.getLogger(__name__)


class Best:
    """The best of the averages that are offered; the first of several equal ones.

    Several students of a partition are offered together: the best is that of a step.
    """

    FILE = "best.safetensors"

    def __init__(
        self,
        folder: pathlib.Path,
        about: Mapping[str, Any],
        *,
        average: str | None,
        first_step: int,
        higher: bool = False,
    ):
        """Takes up the best of the steps before.

        Args:
            folder: Folder of the stage.
            about: What the scores are, in plain values. A best by another score is
                given up.
            average: Moving average that is kept, None for the parameters.
            first_step: Step that the run begins or resumes at. A best of a later one is
                of an attempt that was given up, or is found again.
            higher: Whether higher scores are better.
        """
        self._path, self._about, self._average = folder / self.FILE, about, average
        self._sign = -1 if higher else 1
        self._value = self._so_far(first_step)

    def _so_far(self, first_step: int) -> float | None:
        if not self._path.is_file():
            return None
        facts, _ = _read(self._path)
        same = facts["about"] == self._about
        if same and facts["step"] <= first_step:
            return facts["value"]
        if not same:
            log.warning(
                "%s: is the best by something else, %s; the best is looked for among"
                " the steps that are left",
                *(self._path, json_text(facts["about"])),
            )
        if jax.process_index() == 0:
            self._path.unlink(missing_ok=True)
        return None

    def offer(self, step: int, state, value: float) -> None:
        """Keeps the average of this state if it is better than all before; NaN is not.

        Args:
            step: The step.
            state: The `TrainState` of all students.
            value: Its score, the same on every host.
        """
        score = self._sign * value
        before = float("inf") if self._value is None else self._sign * self._value
        if not parallel.from_first_host(score < before):
            return
        self._value = value
        params = parallel.to_host(
            results.params_of(state.nets["student"], self._average)
        )
        leaves = flatten(without_axis(params) if _num_students(params) == 1 else params)
        if jax.process_index() != 0:
            return
        facts = {"step": step, "value": value, "about": self._about}
        facts |= {"leaves": sealed.digest_of(leaves)}
        metadata = {"best": json_text(sealed.seal(facts))}
        write_atomically(self._path, safetensors.numpy.save(leaves, metadata))

    def params(self, last) -> tuple[Any, dict[str, Any]]:
        """(the best average, with an axis of the students; step, value and what it is).

        Args:
            last: The average of the last step, which is the best that is left if
                somebody has deleted the file of the best, or no score was finite.

        Raises:
            CheckpointError: If it is damaged.
        """
        if not self._path.is_file():
            log.warning("%s: is not there; the last average is taken", self._path)
            return last, {}
        facts, leaves = _read(self._path)
        one = _num_students(last) == 1
        arrays = jax.tree.map(jnp.asarray, unflatten(leaves))
        params = jax.tree.map(lambda x: x[None], arrays) if one else arrays
        return params, {"step": facts["step"], "value": facts["value"], **self._about}


def _num_students(params) -> int:
    return len(jax.tree.leaves(params)[0])


def _read(path: pathlib.Path):
    """(facts, leaves) of the best average so far.

    Raises:
        CheckpointError: If they are not as they were written.
    """
    try:
        blob = path.read_bytes()
        with safetensors.safe_open(path, framework="numpy") as file:
            facts = sealed.parse((file.metadata() or {}).get("best", ""), path)
        leaves = safetensors.numpy.load(blob)
        if facts.get("leaves", sealed.digest_of(leaves)) != sealed.digest_of(leaves):
            raise sealed.Damaged("a leaf is another than was written")
        if "loss" in facts:  # a file of before, when there was no other score
            facts |= {"value": facts["loss"], "about": HELD_OUT}
        kinds = [type(facts.get(key)) for key in ("step", "value", "about")]
        if kinds != [int, float, dict]:
            raise sealed.Damaged("it has no step or no score")
        return facts, leaves
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); {AGAIN}") from None
