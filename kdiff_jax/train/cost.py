"""What train steps cost, from shapes alone: losses are traced, nothing is computed."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdiff_jax import domain
from kdiff_jax.method import Method, Numbers, Phase
from kdiff_jax.train import measure
from kdiff_jax.train.state import TrainState, without_axis
from kdiff_jax.train.step import context_of, loss_of


class Cost(NamedTuple):
    """Cost of the steps of a method, per image of the batch.

    Attributes:
        prepare: Multiply-adds of the work that the phases of a step share.
        phases: Phase -> multiply-adds of its loss and gradient.
        kept: Bytes that a backward pass keeps beside parameters, of the phase that
            keeps most.
    """

    prepare: float
    phases: Mapping[Phase, float]
    kept: float

    def macs(self, num_steps: int) -> float:
        """Multiply-adds of `num_steps` steps from the first, for one image of each."""
        runs = {p: len(range(p.offset, num_steps, p.every)) for p in self.phases}
        parts = (macs * runs[p] for p, macs in self.phases.items())
        return self.prepare * num_steps + sum(parts)

    def macs_of(self, due: Iterable[str]) -> float:
        """Multiply-adds of a step in which the phases so named are due, of an image."""
        named = {phase.name: macs for phase, macs in self.phases.items()}
        return self.prepare + sum(named[name] for name in due)


def of_method(
    method: Method, state: TrainState, frozen: Mapping[str, Any], *, batch_size: int
) -> Cost:
    """The cost of a method, as its losses are written.

    Convolutions and matrix products count, as in `measure.macs`; what the compiler
    finds twice and computes once counts twice.

    Args:
        method: Its networks are best jitted, so that each is traced once.
        state: Shapes of the first state.
        frozen: Shapes of the parameters that losses read.
        batch_size: Images of a step or microbatch.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    keys = jax.eval_shape(lambda k: jax.random.split(k, batch_size), key)
    images = jax.ShapeDtypeStruct(
        (batch_size, *method.nets["student"].image_shape), jnp.float32
    )
    conditions = method.conditions
    labels = jax.eval_shape(lambda: conditions.example(batch_size))
    frozen = {**frozen, **conditions.shapes}
    entries = {"x0": images, "z": images, "y": labels}
    one = jax.eval_shape(without_axis, state)
    inputs = (one, frozen, {k: entries[k] for k in method.batch_keys}, keys)

    def context(state, frozen, batch, keys):
        share = domain.whole(method.nets["student"].num_classes, (0.0, 1.0))
        numbers = Numbers(share, jnp.int32(1), method.settings)
        return context_of(state, frozen, numbers, batch, keys)

    def prepare(*inputs):
        return method.prepare(context(*inputs))

    batch = jax.eval_shape(prepare, *inputs)
    phases, kept = {}, [0.0]
    for phase in method.phases:

        def gradient(state, frozen, batch, keys, phase=phase):
            ctx = context(state, frozen, batch, keys)
            moving, loss = loss_of(phase, ctx, method.trainable)
            value, pull, _ = jax.vjp(
                lambda moving: loss(moving, batch, keys), moving, has_aux=True
            )
            return pull, pull(jnp.ones_like(value))

        macs, bytes_kept = _traced(gradient, one, frozen, batch, keys)
        phases[phase] = macs / batch_size
        kept.append(bytes_kept / batch_size)
    shared = measure.macs_of(jax.make_jaxpr(prepare)(*inputs).jaxpr) / batch_size
    return Cost(shared, phases, max(kept))


def _traced(gradient, *inputs) -> tuple[int, int]:
    """(multiply-adds, bytes that are kept) of (inputs) -> (what is kept, the rest)."""
    traced, (kept, _) = jax.make_jaxpr(gradient, return_shape=True)(*inputs)
    first = traced.jaxpr.outvars[: len(jax.tree.leaves(kept))]
    given = {id(v) for v in traced.jaxpr.invars}  # parameters are there anyway
    avals: dict = {id(v): v.aval for v in first if id(v) not in given}
    size = sum(a.size * a.dtype.itemsize for a in avals.values())
    return measure.macs_of(traced.jaxpr), size
