"""TrainState: what training changes, and its first value."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from kdiff_jax import networks
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Method


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
        >>> from kdiff_jax.train.state import Optim
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
        given: Params by role, of the teacher, of roles that start from a checkpoint,
            and of `Method.begins_with`.
        key: Key of the roles that start from random parameters.

    Returns:
        The state, whose leaves have a leading axis of one student.

    Raises:
        ConfigError: If `optim` has not every trained role, or `given` not all that
            roles begin with.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import cosine
        >>> from kdiff_jax.train import optim
        >>> from kdiff_jax.train.state import init_state
        >>> mlp = networks.make("mlp", channels=8, out_channels=2)
        >>> net = denoiser.make(mlp, cosine(), image_shape=(1, 1, 2))
        >>> method = methods.make("denoise", nets={"student": net}, process=cosine())
        >>> optimizers = {"student": optim.make(lr=1e-3)}
        >>> state = init_state(method, optimizers, {}, jax.random.key(0))
        >>> state.step.tolist(), list(state.nets)
        ([0], ['student'])
    """
    check_has("optim", optim, method.nets)
    return jax.jit(functools.partial(_first, method, dict(optim)))(dict(given), key)


def check_has(what: str, given: Iterable[str], roles: Iterable[str]) -> None:
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
            if role in method.begin:
                check_has("given", given, method.begins_with)
                params[role] = method.begin[role](params[role], given)
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
        >>> from kdiff_jax.train.state import without_axis
        >>> without_axis({"kernel": jnp.zeros((1, 3, 2))})["kernel"].shape
        (3, 2)
    """
    return jax.tree.map(lambda x: x[0], tree)


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
