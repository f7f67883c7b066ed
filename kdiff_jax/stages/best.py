"""Keeps the moving average with the lowest loss on held-out pairs.

Luhman & Luhman 2021 score it during training and keep the best, as in early stopping.
"""

import logging
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import PartitionSpec as P

from kdiff_jax import rng, sealed
from kdiff_jax.errors import CheckpointError
from kdiff_jax.files import json_text, write_atomically
from kdiff_jax.interop.trees import flatten, unflatten
from kdiff_jax.method import Context
from kdiff_jax.stages import pairs
from kdiff_jax.train import inputs, parallel, watchdog
from kdiff_jax.train.step import without_axis

AGAIN = (
    "delete it, and the best of the steps that are left is taken; or delete the folder"
    " of this stage to train it again"
)

log = logging.getLogger(__name__)


class Best:
    """Scores with the method's own loss, over all held-out pairs, in fixed batches.

    `results.check` says of which stages there can be a best.
    """

    FILE = "best.safetensors"

    def __init__(self, job, stage, method, folder, log, *, first_step: int, fed):
        """Compiles nothing yet.

        Args:
            job: See `Job`.
            stage: Its name and the pairs that it trains on.
            method: Method with a single phase.
            folder: Folder of the stage.
            log: Gets the score, `held_out_loss`.
            first_step: Step that the run begins or resumes at. A best of a later one is
                of an attempt that was given up, or is found again.
            fed: Frozen roles and numbers on the mesh, see `train.Fed`.
        """
        self._source = pairs.source(job, stage.pairs, pairs.HELD_OUT)
        self._path, self._log = folder / self.FILE, log
        self._lowest = self._loss_so_far(first_step)
        self._mesh = job.mesh
        self._size = min(stage.train.batch_size, self._source.num)
        self._size -= self._size % job.mesh.shape["data"]
        roles = (*method.frozen, *method.nets["student"].conditions.shapes)
        frozen = {role: fed.frozen[role] for role in roles}
        self._given = frozen, fed.numbers
        (phase,), student = method.phases, method.nets["student"]
        as_batch = inputs.make(space=student.space, conditions=student.conditions)

        def loss(params, frozen, numbers, batch, positions):
            # There is one student, and one group of devices.
            params, numbers, batch = without_axis((params, numbers, batch))
            keys = rng.example_keys(jax.random.key(0), 0, positions)
            batch = as_batch(frozen, batch, keys)
            share, _, settings = numbers
            context = Context({}, {}, frozen, {}, batch, keys, share, settings=settings)
            value, _ = phase.loss(params, context)
            return jax.lax.pmean(value, ("student", "data"))

        self._loss = jax.jit(
            jax.shard_map(
                loss,
                mesh=job.mesh,
                in_specs=(
                    *(parallel.BY_STUDENT, P(), parallel.BY_STUDENT),
                    *(P("student", "data"), P("data")),
                ),
                out_specs=P(),
            )
        )

    def _loss_so_far(self, first_step: int) -> float:
        if not self._path.is_file():
            return math.inf
        facts, _ = _read(self._path)
        if facts["step"] <= first_step:
            return facts["loss"]
        if jax.process_index() == 0:
            self._path.unlink(missing_ok=True)
        return math.inf

    def __call__(self, step, state) -> None:
        params = state.nets["student"].ema["ema"]
        others = {role: net.params for role, net in state.nets.items()}
        value = self.score({**others, "student": params})
        self._log.add(held_out_loss=value)
        if value < self._lowest:
            self._keep(step, params, value)
        self._lowest = min(value, self._lowest)

    def _keep(self, step, params, loss) -> None:
        leaves = flatten(without_axis(parallel.to_host(params)))
        if jax.process_index() != 0:
            return
        facts = {"step": step, "loss": loss, "leaves": sealed.digest_of(leaves)}
        metadata = {"best": json_text(sealed.seal(facts))}
        write_atomically(self._path, safetensors.numpy.save(leaves, metadata))

    def score(self, params) -> float:
        """Mean loss over the held-out pairs; what does not fill a batch is left out.

        Args:
            params: Parameters of every trained role, with an axis of the one student.
        """
        total, num = 0.0, self._source.num // self._size
        for k in range(num):
            local = self._size // jax.process_count()
            first = k * self._size + jax.process_index() * local
            indices = np.arange(first, first + local)
            batch = jax.tree.map(lambda x: x[None], self._source.batch(indices))
            batch = parallel.shard_batch(batch, self._mesh)
            positions = jnp.arange(self._size)
            total += float(self._loss(params, *self._given, batch, positions))
            watchdog.beat()
        return total / num

    def params(self, last):
        """The best average, as a tree of arrays with an axis of the one student.

        Args:
            last: The average of the last step, which is the best that is left if
                somebody has deleted the file of the best.

        Raises:
            CheckpointError: If it is damaged.
        """
        if not self._path.is_file():
            log.warning("%s: is not there; the last average is taken", self._path)
            return last
        return jax.tree.map(
            lambda x: jnp.asarray(x)[None], unflatten(_read(self._path)[1])
        )


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
        kinds = type(facts.get("step")), type(facts.get("loss"))
        if kinds != (int, float):
            raise sealed.Damaged("it has no step or no loss")
        return facts, leaves
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); {AGAIN}") from None
