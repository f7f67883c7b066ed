"""One program over many devices: the step, transformed and never rewritten.

The mesh has two axes: "data" splits the batch, "student" gives each group of devices
its own student. The state is replicated over "data" and donated.

Several students: every leaf of their state has a leading axis, split over "student". A
group of devices with more than one trains them one after the other, in rounds: student
g R + r is the turn of group g in round r of R. So one student at a time is computed,
by the same program, on any number of devices, and nothing is mapped over parameters:
convolutions would become grouped ones, which are slow.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kdiff_jax import rng
from kdiff_jax.errors import ConfigError


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
    """Of devices: as many as divide students and devices.

    A group is of whole hosts, or lies on one: so the hosts of a group feed it equally.

    Args:
        num_students: In all.
        num_devices: In all.
        num_local: Devices of each host.
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


def replicate(tree, mesh: Mesh, *, stacked: bool = False):
    """Puts a tree of host arrays on every device, also of other hosts.

    Args:
        tree: Arrays, the same on all hosts.
        mesh: The devices.
        stacked: Leaves have a leading axis of students; each group gets its own.
    """
    sharding = NamedSharding(mesh, state_spec(stacked))

    def put(x):
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

    return jax.tree.map(put, tree)


def state_spec(stacked: bool) -> P:
    """How a state, or another tree that is the same for a whole batch, is split."""
    return P("student") if stacked else P()


def abstract(tree, mesh: Mesh, *, stacked: bool = False):
    """Shapes and dtypes, placed as by `replicate`: a template for a checkpoint."""
    sharding = NamedSharding(mesh, state_spec(stacked))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
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


def shard_batch(batch, mesh: Mesh, *, axis: int = 0, stacked: bool = False):
    """Makes global arrays of this host's part of a batch, split along `axis`.

    Stacked, that is the axis of the groups of devices, and the next one is split.
    """
    split = ("student", "data") if stacked else ("data",)
    sharding = NamedSharding(mesh, P(*[None] * axis, *split))
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def over_devices(
    step, mesh: Mesh, *, batch_size: int, inputs, stacked: bool = False, own=()
):
    """jit(shard_map(step)): (state, frozen, settings, batch, root_key) -> the same.

    Keys are made inside, from the root, the step and the place in the global batch, so
    that the result does not depend on the mesh.

    Stacked, there is one more argument, the round: the program changes the students
    whose turn it is. State, settings and root keys have an axis of all students then,
    the batch one of the groups of devices, and so have the metrics.

    Args:
        step: What `make_train_step` returns, with axis_name "data".
        mesh: See `make_mesh`.
        batch_size: Global; of one student.
        inputs: (frozen, batch, keys) -> batch as the methods read it.
        stacked: Whether there are several students.
        own: The frozen roles that have an axis of students then, as teachers that are
            students of an earlier stage.
    """

    def one_device(state, frozen, settings, batch, root_key, positions):
        keys = rng.example_keys(root_key, state.step, positions)
        batch = inputs(frozen, batch, keys)
        return step(state, frozen, settings, batch, keys)

    state_is = state_spec(stacked)
    batch_is = P("student", "data") if stacked else P("data")
    body = _over_students(one_device, own) if stacked else one_device

    def program(state, frozen, settings, batch, root_key, *place):
        frozen_is = {role: state_spec(role in own) for role in frozen}
        in_specs = (state_is, frozen_is, state_is, batch_is, state_is, P("data"))
        mapped = jax.shard_map(
            body,
            mesh=mesh,
            in_specs=(*in_specs, P()) if stacked else in_specs,
            out_specs=(state_is, P()),
        )
        positions = jnp.arange(batch_size, dtype=jnp.int32)
        return mapped(state, frozen, settings, batch, root_key, positions, *place)

    return program


def _over_students(one_device, own):
    """The same for one of the group's students, which is taken out and put back."""

    def one_of_them(state, frozen, settings, batch, root_keys, positions, place):
        def mine(tree):
            return jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, place, keepdims=False), tree
            )

        def put_back(all_of_them, one):
            return jax.lax.dynamic_update_index_in_dim(all_of_them, one, place, 0)

        batch = jax.tree.map(lambda x: x[0], batch)
        frozen = {r: mine(tree) if r in own else tree for r, tree in frozen.items()}
        new, metrics = one_device(
            mine(state), frozen, mine(settings), batch, mine(root_keys), positions
        )
        return jax.tree.map(put_back, state, new), jax.tree.map(_of_groups, metrics)

    return one_of_them


def _of_groups(metric):
    """f32[groups of devices] on all devices, of a number per group."""
    group, num = jax.lax.axis_index("student"), jax.lax.axis_size("student")
    return jax.lax.psum(jnp.where(jnp.arange(num) == group, metric, 0), "student")


def in_one_dispatch(program):
    """Steps of the same phases as one program; their batches have an axis of steps.

    They are scanned. Metrics are summed over the steps. Not for the CPU, where a
    gradient in a loop is slow.
    """

    def several(state, frozen, settings, batches, root_key, *place):
        def body(state, batch):
            return program(state, frozen, settings, batch, root_key, *place)

        state, metrics = jax.lax.scan(body, state, batches)
        return state, jax.tree.map(lambda m: m.sum(axis=0), metrics)

    return several
