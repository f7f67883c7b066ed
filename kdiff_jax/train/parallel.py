"""One program over many devices: the step, transformed and never rewritten.

The mesh has two axes: "data" splits the batch, "student" gives each group of devices
its own students. Every leaf of the state has a leading axis of students, split over
"student"; one student is an axis of length 1. Over "data" it lies as its `Layout` says.
The state is donated.

A group of devices with several students trains them one after the other, in rounds:
student g R + r is the turn of group g in round r of R. So one student at a time is
computed, by the same program, on any number of devices, and nothing is mapped over
parameters: convolutions would become grouped ones, which are slow.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kdiff_jax import rng
from kdiff_jax.errors import ConfigError
from kdiff_jax.train.layout import BY_STUDENT, REPLICATED, Layout
from kdiff_jax.train.state import without_axis


def make_mesh(devices=None, *, num_students: int = 1) -> Mesh:
    """A mesh ("student", "data") over all devices.

    Raises:
        ConfigError: If the devices do not split into `num_students` equal groups.
    """
    devices = np.array(jax.devices() if devices is None else devices)
    if len(devices) % num_students:
        raise ConfigError(
            f"num_students={num_students} does not divide the {len(devices)} devices;"
            " use a divisor, or fewer devices"
        )
    return Mesh(devices.reshape(num_students, -1), ("student", "data"))


def num_groups(num_students: int, num_devices: int, num_local: int) -> int:
    """Number of groups of devices: as many as divide students and devices.

    A group is of whole hosts, or lies on one: so the hosts of a group feed it equally.

    Args:
        num_students: Total number of students.
        num_devices: Total number of devices.
        num_local: Number of devices of each host.
    """
    for groups in range(math.gcd(num_students, num_devices), 1, -1):
        size = num_devices // groups
        divides = num_students % groups == 0 and num_devices % groups == 0
        if divides and (size % num_local == 0 or num_local % size == 0):
            return groups
    return 1


def student_mesh(mesh: Mesh, num_students: int) -> Mesh:
    """The same devices in `num_groups` equal groups."""
    num_local = mesh.size // len({d.process_index for d in mesh.devices.flat})
    groups = num_groups(num_students, mesh.size, num_local)
    return make_mesh(list(mesh.devices.flat), num_students=groups)


def part_of_host(mesh: Mesh) -> tuple[list[int], int, int]:
    """(groups with devices of this host, hosts that share them, which it is of these).

    The hosts of a group each send their part of its batch.
    """
    here = jax.process_index()
    hosts = [[d.process_index for d in group] for group in mesh.devices]
    groups = [g for g, of_group in enumerate(hosts) if here in of_group]
    sharing = sorted(set(hosts[groups[0]]))
    return groups, len(sharing), sharing.index(here)


def check_batch_size(batch_size: int, mesh: Mesh, num_microbatches: int = 1) -> None:
    """Raises ConfigError unless every device gets the same number of examples."""
    parts = mesh.shape["data"] * num_microbatches
    if batch_size % parts:
        near = sorted(
            {max(batch_size // parts, 1) * parts, -(-batch_size // parts) * parts}
        )
        raise ConfigError(
            f"batch_size={batch_size} does not split over {mesh.shape['data']} devices"
            f" x {num_microbatches} microbatches; nearest:"
            f" {' or '.join(map(str, near))}"
        )


def replicate(tree, mesh: Mesh):
    """Puts a tree of host arrays, the same on all hosts, on every device."""
    return _put(tree, NamedSharding(mesh, P()))


def by_student(tree, mesh: Mesh):
    """The same of arrays with a leading axis of students; each group gets its own."""
    return _put(tree, NamedSharding(mesh, BY_STUDENT))


def lay_out(state, mesh: Mesh, layout: Layout):
    """The same of a TrainState, which lies as the layout says."""
    return jax.tree.map(_put, state, layout.shardings(state, mesh))


def _put(tree, sharding: NamedSharding):
    def put(x):
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

    return jax.tree.map(put, tree)


def abstract(state, mesh: Mesh, layout: Layout = REPLICATED):
    """Shapes, dtypes and places of a TrainState: a template for a checkpoint."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        *(state, layout.shardings(state, mesh)),
    )


def to_host(tree):
    """NumPy arrays of arrays on the mesh, whole on every host."""

    def fetch(x):
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(fetch, tree)


def from_first_host(value):
    """What the first host says, on all hosts: they must not decide differently."""
    if jax.process_count() == 1:
        return value
    return np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def on_any_host(flags):
    """bool[...], what at least one host says."""
    if jax.process_count() == 1:
        return flags
    return np.any(multihost_utils.process_allgather(np.asarray(flags)), axis=0)


def wait_for_all(name: str) -> None:
    """Blocks until every host is here: one may read what another has written."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def shard_batch(batch, mesh: Mesh, *, axis: int = 0):
    """Makes global arrays of this host's part of a batch, [groups of devices, B, ...].

    Args:
        batch: Tree of host arrays.
        mesh: The devices.
        axis: Place of the axis of groups; those before it are not split.
    """
    sharding = NamedSharding(mesh, P(*[None] * axis, "student", "data"))
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def over_devices(
    step, mesh: Mesh, *, batch_size: int, inputs, own=(), layout: Layout = REPLICATED
):
    """shard_map(step): (state, frozen, numbers, batch, root_keys, turn) -> (state,
    metrics).

    State, numbers and root keys have an axis of all students; the program changes the
    students whose turn it is. The batch has an axis of the groups of devices, and so
    have the metrics.

    Keys are made inside, from the root, the step and the place in the global batch, so
    that the result does not depend on the mesh.

    Args:
        step: What `make_train_step` returns, with axis_name "data".
        mesh: See `make_mesh`.
        batch_size: Global; of one student.
        inputs: (frozen, batch, keys) -> batch as the methods read it.
        own: Frozen roles that have an axis of students too, such as teachers that are
            students of an earlier stage.
        layout: How the state lies on the devices of a group.
    """

    def one_student(state, frozen, numbers, batch, root_key, positions, lies):
        keys = rng.example_keys(root_key, state.step[0], positions)
        batch = inputs(frozen, batch, keys)
        return step(state, frozen, numbers, batch, keys, lies)

    def of_group(lies, state, frozen, numbers, batch, root_keys, positions, turn):
        # Of an axis of length 1, XLA removes these slices and the update.
        def mine(tree):
            return jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, turn, 1), tree
            )

        def put_back(students, one):
            return jax.lax.dynamic_update_slice_in_dim(students, one, turn, 0)

        own_frozen = {role: frozen[role] for role in own}
        frozen = {**frozen, **without_axis(mine(own_frozen))}
        new, metrics = one_student(
            mine(state),
            frozen,
            without_axis(mine(numbers)),
            without_axis(batch),
            without_axis(mine(root_keys)),
            positions,
            lies,
        )
        return jax.tree.map(put_back, state, new), jax.tree.map(_of_groups, metrics)

    def program(state, frozen, numbers, batch, root_keys, turn):
        frozen_is = {role: BY_STUDENT if role in own else P() for role in frozen}
        batch_is, lies = P("student", "data"), layout.specs(state)
        mapped = jax.shard_map(
            functools.partial(of_group, lies),
            mesh=mesh,
            in_specs=(
                *(lies, frozen_is, BY_STUDENT, batch_is, BY_STUDENT),
                *(P("data"), P()),
            ),
            out_specs=(lies, P()),
        )
        positions = jnp.arange(batch_size, dtype=jnp.int32)
        return mapped(state, frozen, numbers, batch, root_keys, positions, turn)

    return program


def _of_groups(metric):
    """f32[groups of devices] on all devices, of a number per group."""
    group, num = jax.lax.axis_index("student"), jax.lax.axis_size("student")
    return jax.lax.psum(jnp.where(jnp.arange(num) == group, metric, 0), "student")


def in_one_dispatch(program):
    """Steps of the same phases as one program; their batches have an axis of steps.

    It takes the number of steps beside the rest and loops over so many, so that there
    is one program for runs of all lengths. Metrics are summed over the steps. Not for
    the CPU, where a gradient in a loop is slow.
    """
    # Traced once: its shapes below and the body of the loop are the same trace.
    program = jax.jit(program, inline=True)

    def several(state, frozen, numbers, batches, root_keys, turn, num_steps):
        def one(state, i):
            batch = jax.tree.map(lambda x: x[i], batches)
            return program(state, frozen, numbers, batch, root_keys, turn)

        def body(i, carried):
            state, sums = carried
            state, metrics = one(state, i)
            return state, jax.tree.map(jnp.add, sums, metrics)

        _, metrics = jax.eval_shape(one, state, jnp.int32(0))
        sums = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)
        return jax.lax.fori_loop(0, num_steps, body, (state, sums))

    return several
