"""Scores a student by its loss on held-out pairs while it trains.

Luhman & Luhman 2021 score it during training and keep the best, as in early stopping.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from kdiff_jax import rng
from kdiff_jax.method import Context
from kdiff_jax.stages import pairs
from kdiff_jax.stages.best import Best
from kdiff_jax.train import inputs, parallel, watchdog
from kdiff_jax.train.state import without_axis


class HeldOut:
    """Scores with the method's own loss, over all held-out pairs, in fixed batches.

    `results.check` says of which stages there can be a score.
    """

    def __init__(self, job, stage, method, log, best: Best, *, fed):
        """Compiles nothing yet.

        Args:
            job: See `Job`.
            stage: Its name and the pairs that it trains on.
            method: Method with a single phase.
            log: Gets the score, `held_out_loss`.
            best: Is offered every average with its score.
            fed: Frozen roles and numbers on the mesh, see `training_start.Fed`.
        """
        self._source = pairs.source(job, stage.pairs, pairs.HELD_OUT)
        self._log, self._best = log, best
        self._mesh = job.mesh
        self._size = min(stage.train.batch_size, self._source.num)
        self._size -= self._size % job.mesh.shape["data"]
        roles = (*method.frozen, *method.nets["student"].reads)
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

    def __call__(self, step, state) -> None:
        params = state.nets["student"].ema["ema"]
        others = {role: net.params for role, net in state.nets.items()}
        value = self.score({**others, "student": params})
        self._log.add(held_out_loss=value)
        self._best.offer(step, state, value)

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
            with watchdog.program("the held-out loss"):
                total += float(self._loss(params, *self._given, batch, positions))
            watchdog.beat()
        return total / num
