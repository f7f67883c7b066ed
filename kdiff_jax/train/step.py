"""TrainState, and the one train step that every method shares."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from kdiff_jax import networks, rng
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Context, Method, Numbers, Phase, updates_before
from kdiff_jax.train import layout, rounded


class Optim(NamedTuple):
    """How one role is updated.

    Attributes:
        tx: Gradient -> update of unit learning rate (a descent direction is -update);
            entry by entry, as it may see parts of leaves, see `layout`.
        lr: (step, num_steps) -> learning rate; both may be traced.
        emas: Name -> decay of a moving average at an update of the role, by the number
            of its updates before; {} where it keeps none.
        clip_norm: Largest norm of the gradient, all leaves together; None for any.
        zero_nonfinite: Whether entries of the gradient that are not finite count as 0.

    Examples:
        >>> import optax
        >>> from kdiff_jax.train.step import Optim
        >>> sgd = Optim(optax.identity(), lr=lambda step, num_steps: 0.1)
        >>> sgd.lr(0, 100), dict(sgd.emas)
        (0.1, {})
    """

    tx: optax.GradientTransformation
    lr: Callable[[Any, Any], Any]
    emas: Mapping[str, Callable[[Any], Any]] = {}
    clip_norm: float | None = None
    zero_nonfinite: bool = False


@struct.dataclass
class NetState:
    """One trained network.

    Fields of this and of `TrainState` are `Any` on purpose: JAX rebuilds these
    containers holding shardings, vmap axes and None.
    """

    params: Any
    opt_state: Any
    ema: Any  # name -> moving average; {} where the role keeps none


@struct.dataclass
class TrainState:
    """All that a step changes, and so all that a checkpoint holds.

    Every leaf has a leading axis of students, of length 1 where there is one.
    """

    step: Any  # i32[students]
    nets: Any  # role -> NetState
    carry: Any  # name -> array tree


def init_state(
    method: Method, optim: Mapping[str, Optim], given: Mapping[str, Any], key
) -> TrainState:
    """Builds the first state of one student.

    Args:
        method: Its `init_from` says which roles start as copies.
        optim: `Optim` of each trained role.
        given: Params by role, of the teacher and of roles that start from a checkpoint.
        key: Key of the roles that start from random parameters.

    Returns:
        The state, whose leaves have a leading axis of one student.

    Raises:
        ConfigError: If `optim` has not every trained role.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import cosine
        >>> from kdiff_jax.train import optim, step
        >>> mlp = networks.make("mlp", channels=8, out_channels=2)
        >>> net = denoiser.make(mlp, cosine(), image_shape=(1, 1, 2))
        >>> method = methods.make("denoise", nets={"student": net}, process=cosine())
        >>> optimizers = {"student": optim.make(lr=1e-3)}
        >>> state = step.init_state(method, optimizers, {}, jax.random.key(0))
        >>> state.step.tolist(), list(state.nets)
        ([0], ['student'])
    """
    _check_has("optim", optim, method.nets)
    return jax.jit(functools.partial(_first, method, dict(optim)))(dict(given), key)


def _check_has(what: str, given: Iterable[str], roles: Iterable[str]) -> None:
    """Refuses what lacks a role of the method.

    Raises:
        ConfigError: Names the role.
    """
    for role in roles:
        if role not in given:
            raise ConfigError(
                f"{what}: has no {role!r}, a role of the method; it has"
                f" {', '.join(given) or 'none'}: add it"
            )


def _first(method: Method, optim, given, key) -> TrainState:
    params = dict(given)
    for i, (role, net) in enumerate(method.nets.items()):
        if role not in params:
            source = method.init_from.get(role)
            fresh = jax.random.fold_in(key, i)
            params[role] = params[source] if source in params else net.init(fresh)
        if net.guidance_range:  # and what it begins as may have read none
            shapes = jax.eval_shape(net.init, jax.random.key(0))
            params[role] = networks.grown(params[role], shapes)
    nets = {}
    for role in method.nets:
        own = jax.tree.map(jnp.array, params[role])  # copies: the state is donated
        ema = {name: jax.tree.map(jnp.array, own) for name in optim[role].emas}
        moving, _ = split(own, method.trainable.get(role))
        nets[role] = NetState(own, optim[role].tx.init(moving), ema)
    carry = jax.tree.map(jnp.array, dict(method.carry))
    return with_axis(TrainState(jnp.int32(0), nets, carry))


def with_axis(tree):
    """A tree of one student with an axis of students."""
    return jax.tree.map(lambda x: x[None], tree)


def without_axis(tree):
    """What of a tree with an axis of students belongs to the first of them.

    Args:
        tree: Arrays [students, ...].

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.train.step import without_axis
        >>> without_axis({"kernel": jnp.zeros((1, 3, 2))})["kernel"].shape
        (3, 2)
    """
    return jax.tree.map(lambda x: x[0], tree)


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
        >>> mlp = networks.make("mlp", channels=8, out_channels=2)
        >>> net = denoiser.make(mlp, cosine(), image_shape=(1, 1, 2))
        >>> method = methods.make("denoise", nets={"student": net}, process=cosine())
        >>> optimizers = {"student": optim.make(lr=1e-3)}
        >>> state = step.init_state(method, optimizers, {}, jax.random.key(0))
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
    _check_has("optim", optim, method.nets)
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
        grads, aux = _without_nonfinite(grads, aux, optim, places)
        # Once, for the log and for clipping: on the axis XLA would not see that these
        # are the same sums.
        norms = {r: layout.norm(grads[r], places[r]) for r in phase.trains}
        new = {
            role: _apply(
                state.nets[role],
                with_axis(_clipped(grads[role], optim[role].clip_norm, norms[role])),
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
        _check_has("frozen", frozen, method.frozen)
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
            updates, moves = count(state.step[0]), method.trainable.get(role)
            nets[role] = _average(nets[role], optim[role], updates, moves)
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


def split(params, trainable: Callable[[str], bool] | None):
    """(the leaves that train, the others), each a tree with None for what it lacks."""
    if trainable is None:
        return params, None

    def keep(wanted):
        def of(path, leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return leaf if trainable(name) == wanted else None

        return jax.tree_util.tree_map_with_path(of, params)

    return keep(True), keep(False)


def join(moving, still):
    """The whole of what `split` took apart."""
    if still is None:
        return moving
    return jax.tree.map(
        lambda a, b: b if a is None else a, moving, still, is_leaf=lambda x: x is None
    )


def _apply(net: NetState, grads, optim: Optim, lr, trainable) -> NetState:
    """`net` after one update; it and its gradients have a leading axis of students."""

    def one(net, grads):
        moving, still = split(net.params, trainable)
        updates, opt_state = optim.tx.update(grads, net.opt_state, moving)
        params = jax.tree.map(lambda p, u: p - lr * u, moving, updates)
        return NetState(join(params, still), opt_state, net.ema)

    return jax.vmap(one)(net, grads)


def _clipped(grads, clip_norm: float | None, norm):
    """Gradients of the norm `norm`, shortened to `clip_norm` where they are longer."""
    if clip_norm is None:
        return grads
    return jax.tree.map(
        lambda g: jnp.where(norm < clip_norm, g, g / norm * clip_norm), grads
    )


def _average(net: NetState, optim: Optim, updates, trainable) -> NetState:
    """`net` with its moving averages moved towards the parameters."""
    params, _ = split(net.params, trainable)

    def moved(name, ema):
        decay = optim.emas[name](updates)
        average, still = split(ema, trainable)
        new = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, average, params)
        return join(new, still)

    emas = {name: moved(name, ema) for name, ema in net.ema.items()}
    return NetState(net.params, net.opt_state, emas)


def _without_nonfinite(grads, aux, optim: Mapping[str, Optim], lies):
    """Gradients with 0 for NaN and infinity, of the roles that ask for it; a count.

    In such a phase metrics that are not finite count as 0, too: they come from the same
    loss, and would end the run.
    """
    asked = [role for role in grads if optim[role].zero_nonfinite]
    if not asked:
        return grads, aux
    chosen = {role: grads[role] for role in asked}
    places = {role: lies[role] for role in asked}
    bad = layout.total(lambda g: (~jnp.isfinite(g)).sum(), chosen, places)
    metrics = jax.tree.map(_finite_or_0, dict(aux.metrics))
    metrics["nonfinite_grads"] = jnp.float32(bad)
    grads = {**grads, **jax.tree.map(_finite_or_0, chosen)}
    return grads, aux._replace(metrics=metrics)


def _finite_or_0(x):
    return jnp.where(jnp.isfinite(x), x, 0)


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
