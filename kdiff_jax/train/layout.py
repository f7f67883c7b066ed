"""How a state lies on the devices of a student: a copy on each, or in parts.

In parts is ZeRO stage 1 (Rajbhandari et al. 2020, arXiv:1910.02054): parameters,
optimizer state and moving averages are split over the mesh axis "data". A step gathers
the parameters that its losses read, and each device updates its part of them with its
part of the mean gradient.

Nothing is padded or reordered: the arrays of a state, and so its checkpoints, are the
same in every layout.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA = "data"  # the mesh axis of the devices of a student
BY_STUDENT = P("student")  # of the leading axis of a state
SMALLEST = 1024


class Layout(NamedTuple):
    """Where the leaves of a state lie, each [students, ...].

    A leaf is split along the largest of its own axes that `num_parts` divides, the
    first of these. Where none is, and if the leaf is small, each device has a copy. The
    carry and the step are never split.

    Attributes:
        num_parts: Number of devices that share a state; 1 gives each of them a copy.
        smallest: Entries of the smallest leaf that is split.
    """

    num_parts: int = 1
    smallest: int = SMALLEST

    def on(self, mesh: Mesh) -> "Layout":
        """The same among the devices of a student of another mesh."""
        num_parts = 1 if self.num_parts == 1 else mesh.shape[DATA]
        return self._replace(num_parts=num_parts)

    def spec(self, shape: tuple[int, ...]) -> P:
        """The place of a leaf of trained networks, by its shape."""
        own = shape[1:]
        fit = [k for k, length in enumerate(own) if length % self.num_parts == 0]
        if self.num_parts == 1 or not fit or math.prod(own) < self.smallest:
            return BY_STUDENT
        axis = max(fit, key=lambda k: own[k])
        return P("student", *[None] * axis, DATA)

    def specs(self, state):
        """The place of every leaf of a TrainState."""
        return state.replace(
            step=BY_STUDENT,
            nets=jax.tree.map(lambda x: self.spec(x.shape), state.nets),
            carry=jax.tree.map(lambda x: BY_STUDENT, state.carry),
        )

    def shardings(self, state, mesh: Mesh):
        """The same, on the devices of a mesh."""
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), self.specs(state))

    def bytes_of_device(self, state) -> int:
        """Bytes of a TrainState on each device of a student."""
        sizes = jax.tree.map(
            lambda x, spec: x.size * x.dtype.itemsize // self._parts(spec),
            *(state, self.specs(state)),
        )
        return sum(jax.tree.leaves(sizes))

    def bytes_gathered(self, state) -> int:
        """Bytes of the whole parameters that a step has beside those of its device."""
        params = {role: net.params for role, net in state.nets.items()}
        sizes = [
            x.size * x.dtype.itemsize
            for x in jax.tree.leaves(params)
            if _axis(self.spec(x.shape)) is not None
        ]
        return sum(sizes)

    def _parts(self, spec: P) -> int:
        return 1 if _axis(spec) is None else self.num_parts


REPLICATED = Layout()


def of(name: str, mesh: Mesh) -> Layout:
    """The layout "replicated" or "zero1" on the devices of a student."""
    return Layout(mesh.shape[DATA], SMALLEST) if name == "zero1" else REPLICATED


def _axis(spec: P) -> int | None:
    """The axis that a leaf is split along; None for a leaf that is not."""
    return spec.index(DATA) if DATA in spec else None


def is_split(lies) -> bool:
    """Whether any leaf of a state lies in parts."""
    return any(_axis(spec) is not None for spec in jax.tree.leaves(lies))


def whole(state, lies, narrow=None, before=None, roles: Iterable[str] | None = None):
    """A TrainState as the losses see it, with all parts of parameters and averages.

    Args:
        state: What a device holds; the optimizer's part is left as it is.
        lies: What `Layout.specs` gives.
        narrow: Role -> tree of bool of its parameters: what is gathered in bfloat16, as
            nothing else of it is read. Default: none.
        before: What this has returned earlier, to gather those `roles` alone that have
            moved since.
        roles: Default: all.
    """

    def gather(x, spec, is_narrow=False):
        if (axis := _axis(spec)) is None:
            return x
        sent = x.astype(jnp.bfloat16) if is_narrow else x
        found = jax.lax.all_gather(sent, DATA, axis=axis, tiled=True, to="invarying")
        # In the type of before: gradients add up in it, and XLA undoes what is idle.
        return found.astype(x.dtype)

    nets = dict(before.nets if before else state.nets)
    for role in state.nets if roles is None else roles:
        net, places = state.nets[role], lies.nets[role]
        kinds = () if narrow is None else (narrow[role],)
        params = jax.tree.map(gather, net.params, places.params, *kinds)
        nets[role] = net.replace(
            params=params, ema=jax.tree.map(gather, net.ema, places.ema)
        )
    return state.replace(nets=nets)


def mean(grads, aux, lies, axis_name: str | None):
    """(gradients, aux), averaged over devices; of a split leaf each gets its part.

    Args:
        grads: Gradients of whole parameters, of one student and without its axis.
        aux: What else is averaged.
        lies: The places of the parameters.
        axis_name: Mesh axis of the devices; None on one device.
    """
    if axis_name is None:
        return grads, aux
    leaves, structure = jax.tree.flatten(grads)
    axes = [_axis(spec) for spec in structure.flatten_up_to(lies)]
    copied = [g for g, axis in zip(leaves, axes, strict=True) if axis is None]
    copied, aux = jax.lax.pmean((copied, aux), axis_name)
    others = iter(copied)

    def part(g, axis):
        own = axis - 1  # without the axis of students
        total = jax.lax.psum_scatter(g, axis_name, scatter_dimension=own, tiled=True)
        return total / jax.lax.axis_size(axis_name)

    found = [
        next(others) if axis is None else part(g, axis)
        for g, axis in zip(leaves, axes, strict=True)
    ]
    return structure.unflatten(found), aux


def total(count: Callable[[Any], Any], tree, lies):
    """The sum, over all entries of a tree, of what `count` adds up of an array.

    Args:
        count: Function of a leaf, or of part of one.
        tree: What a device holds.
        lies: The places of its leaves; None where all are whole.
    """
    whole, parts = _separate(tree, lies)
    found = sum(map(count, whole))
    return found + jax.lax.psum(sum(map(count, parts)), DATA) if parts else found


def norm(tree, lies):
    """Norm of all leaves together; for the arguments see `total`."""
    whole, parts = _separate(tree, lies)
    if not parts:
        return optax.tree.norm(whole)
    return jnp.sqrt(total(lambda x: jnp.sum(jnp.square(x)), tree, lies))


def _separate(tree, lies) -> tuple[list, list]:
    """(the leaves that are whole, those of which a device holds a part)."""
    leaves, structure = jax.tree.flatten(tree)
    if lies is None:
        return leaves, []
    pairs = list(zip(leaves, structure.flatten_up_to(lies), strict=True))
    whole = [x for x, spec in pairs if _axis(spec) is None]
    return whole, [x for x, spec in pairs if _axis(spec) is not None]
