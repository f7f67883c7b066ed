"""The one train step that every method shares."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdiff_jax import rng
from kdiff_jax.method import Context, Method, Numbers, Phase, updates_before
from kdiff_jax.train import layout, rounded, updates
from kdiff_jax.train.state import (
    Optim,
    TrainState,
    check_has,
    join,
    split,
    with_axis,
    without_axis,
)


def due(phases: tuple[Phase, ...], step: int) -> tuple[Phase, ...]:
    """The phases that run at a step: the schedule is static.

    Args:
        phases: Phases of a method.
        step: Number of the step, a Python int; the first is 0.

    Examples:
        >>> from kdiff_jax.method import Aux, Phase
        >>> from kdiff_jax.train.step import due
        >>> def loss(params, ctx):
        ...     return sum(params.values()), Aux({})
        >>> student = Phase("student", ("student",), loss, every=5)
        >>> phases = student, Phase("disc", ("disc",), loss)
        >>> [phase.name for phase in due(phases, 1)]
        ['disc']
    """
    return tuple(
        p for p in phases if step >= p.offset and (step - p.offset) % p.every == 0
    )


def make_train_step(
    method: Method,
    optim: Mapping[str, Optim],
    phases: tuple[Phase, ...],
    *,
    axis_name: str | None = None,
    num_microbatches: int = 1,
    unroll: bool = True,
):
    """Returns the pure (state, frozen, numbers, batch, keys, lies) -> (state, metrics).

    The state is of one student, on its axis. What the losses read, and so the rest, is
    without that axis; the updates are made on it: XLA copies a donated array whose
    update comes in another shape. `lies` is how it lies on the devices,
    `Layout.specs`; by default all is on each of them.

    Args:
        method: What to train.
        optim: `Optim` of each trained role.
        phases: The subset of `method.phases` to run, see `due`.
        axis_name: Mesh axis over which the batch is split; None on one device.
        num_microbatches: Gradients are averaged over so many parts of the batch.
        unroll: Unroll that loop; a gradient inside a loop is slow on the CPU.

    Raises:
        ConfigError: If `optim` has not every trained role. The step raises it if a
            frozen role is missing.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import cosine
        >>> from kdiff_jax.train import optim, step
        >>> from kdiff_jax.train.state import init_state
        >>> mlp = networks.make("mlp", channels=8, out_channels=2)
        >>> net = denoiser.make(mlp, cosine(), image_shape=(1, 1, 2))
        >>> method = methods.make("denoise", nets={"student": net}, process=cosine())
        >>> optimizers = {"student": optim.make(lr=1e-3)}
        >>> state = init_state(method, optimizers, {}, jax.random.key(0))
        >>> from kdiff_jax import domain, rng
        >>> from kdiff_jax.method import Numbers
        >>> run = step.make_train_step(method, optimizers, step.due(method.phases, 0))
        >>> numbers = Numbers(domain.whole(0, (0.0, 1.0)), jnp.int32(100))
        >>> batch = {"x0": jnp.zeros((8, 1, 1, 2)), "y": jnp.zeros(8, jnp.int32)}
        >>> keys = rng.example_keys(jax.random.key(1), 0, jnp.arange(8))
        >>> state, metrics = jax.jit(run)(state, {}, numbers, batch, keys)
        >>> state.step.tolist(), sorted(metrics)
        ([1], ['denoise/grad_norm', 'denoise/loss', 'denoise/x0_error'])
    """
    check_has("optim", optim, method.nets)
    counts = {role: updates_before(method.phases, role) for role in _trained(phases)}

    def context(state, frozen, numbers, batch, keys, stream):
        keys = rng.stream(keys, stream)
        return context_of(without_axis(state), frozen, numbers, batch, keys)

    def update(phase, state, ctx, lies):
        moving, loss = loss_of(phase, ctx, method.trainable)
        trained = _local(moving, axis_name)

        def gradient(batch, keys):
            value_and_grad = jax.value_and_grad(loss, has_aux=True)
            (_, aux), grads = value_and_grad(trained, batch, keys)
            return grads, aux

        grads, aux = _accumulate(
            gradient, (ctx.batch, ctx.keys), num_microbatches, unroll
        )
        places = {r: lies.nets[r].params for r in phase.trains}
        places = {r: split(p, method.trainable.get(r))[0] for r, p in places.items()}
        grads, aux = layout.mean(grads, aux, places, axis_name)
        grads, aux = updates.without_nonfinite(grads, aux, optim, places)
        # Once, for the log and for clipping: on the axis XLA would not see that these
        # are the same sums.
        norms = {r: layout.norm(grads[r], places[r]) for r in phase.trains}
        new = {
            role: updates.applied(
                state.nets[role],
                with_axis(
                    updates.clipped(grads[role], optim[role].clip_norm, norms[role])
                ),
                optim[role],
                optim[role].lr(ctx.step, ctx.num_steps),
                method.trainable.get(role),
            )
            for role in phase.trains
        }
        metrics = {f"{phase.name}/{k}": v for k, v in aux.metrics.items()}
        if phase.trains:
            norm = functools.reduce(jnp.hypot, norms.values())
            metrics[f"{phase.name}/grad_norm"] = norm
        carry = {**state.carry, **with_axis(dict(aux.carry))}
        return state.replace(nets={**state.nets, **new}, carry=carry), metrics

    def may_round(lies):
        rounding = any(net.precision == "bfloat16" for net in method.nets.values())
        return rounding and layout.is_split(lies)

    def losses(nets, state, frozen, numbers, batch, keys):
        ctx = context_of(state, frozen, numbers, batch, keys)._replace(nets=nets)
        ctx = ctx._replace(batch=method.prepare(ctx))
        return [p.loss({r: nets[r] for r in p.trains}, ctx) for p in phases]

    def train_step(state, frozen, numbers, batch, keys, lies=None):
        check_has("frozen", frozen, method.frozen)
        lies = layout.REPLICATED.specs(state) if lies is None else lies
        given = frozen, numbers, batch, keys
        seen = layout.whole(state, lies)
        narrow = _narrow(losses, seen, given) if may_round(lies) else None
        seen = layout.whole(state, lies, narrow) if narrow else seen
        batch = method.prepare(context(seen, frozen, numbers, batch, keys, "prepare"))
        metrics = {}
        for phase in phases:
            ctx = context(seen, frozen, numbers, batch, keys, phase.name)
            state, more = update(phase, state, ctx, lies)
            metrics |= more
            seen = layout.whole(state, lies, narrow, before=seen, roles=phase.trains)
        nets = dict(state.nets)
        # Once a step, however many phases have trained the role.
        for role, count in counts.items():
            made, moves = count(state.step[0]), method.trainable.get(role)
            nets[role] = updates.averaged(nets[role], optim[role], made, moves)
        return state.replace(step=state.step + 1, nets=nets), metrics

    return train_step


def _narrow(losses, state: TrainState, given):
    """Role -> tree of bool, the leaves that losses read as bfloat16 keeps them.

    Args:
        losses: (role -> params, state, *given) -> whatever depends on them.
        state: One student's, with its axis and all parts of its leaves.
        given: What else losses read.
    """

    def shapes(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

    one = jax.eval_shape(without_axis, shapes(state))
    nets = {role: net.params for role, net in one.nets.items()}
    return rounded.leaves(losses, nets, one, *shapes(given))


def context_of(state: TrainState, frozen, numbers: Numbers, batch, keys) -> Context:
    """What the losses read of one student's state, without its axis."""
    return Context(
        nets={role: net.params for role, net in state.nets.items()},
        ema={role: net.ema for role, net in state.nets.items()},
        frozen=frozen,
        carry=state.carry,
        batch=batch,
        keys=keys,
        share=numbers.share,
        step=state.step,
        num_steps=numbers.num_steps,
        settings=numbers.settings,
    )


def _trained(phases: tuple[Phase, ...]) -> tuple[str, ...]:
    """The roles that some of these phases train, once each."""
    return tuple(dict.fromkeys(role for phase in phases for role in phase.trains))


def loss_of(phase: Phase, ctx: Context, trainable: Mapping[str, Any]):
    """(leaves that a phase trains, its loss as (leaves, batch, keys) -> (value, Aux)).

    Args:
        phase: The phase.
        ctx: All else that its loss reads.
        trainable: See `Method`.
    """
    parts = {r: split(ctx.nets[r], trainable.get(r)) for r in phase.trains}

    def loss(moving, batch, keys):
        params = {role: join(moving[role], parts[role][1]) for role in moving}
        return phase.loss(params, ctx._replace(batch=batch, keys=keys))

    return {role: moving for role, (moving, _) in parts.items()}, loss


def _accumulate(gradient, parts, num_parts: int, unroll: bool):
    """The mean of `gradient(*part)` over `num_parts` slices of the batch."""
    if num_parts == 1:
        return gradient(*parts)
    split = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), parts)
    first = gradient(*jax.tree.map(lambda x: x[0], split))
    rest = jax.tree.map(lambda x: x[1:], split)

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient(*part)), None

    total, _ = jax.lax.scan(add, first, rest, unroll=unroll)
    return jax.tree.map(lambda x: x / num_parts, total)


def _local(params, axis_name):
    """Marks replicated params device-local; else shard_map's grad() is a psum."""
    if not axis_name:
        return params
    return jax.tree.map(lambda p: jax.lax.pcast(p, axis_name, to="varying"), params)
