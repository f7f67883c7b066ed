"""One program over many devices: the step, transformed and never rewritten.

The mesh has two axes: "data" splits the batch, "student" gives each group of devices
its own student. The state is replicated over "data" and donated.
"""

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
    """Puts a tree of host arrays on every device, also of other hosts."""
    sharding = NamedSharding(mesh, P())

    def put(x):
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

    return jax.tree.map(put, tree)


def abstract(tree, mesh: Mesh):
    """Shapes and dtypes, replicated over the mesh: a template for a checkpoint."""
    sharding = NamedSharding(mesh, P())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def from_first_host(value):
    """What the first host says, on all hosts: they must not decide differently."""
    if jax.process_count() == 1:
        return value
    return np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def wait_for_all(name: str) -> None:
    """Blocks until every host is here: one may read what another has written."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def shard_batch(batch, mesh: Mesh, *, axis: int = 0):
    """Makes global arrays of this host's part of a batch, split along `axis`."""
    sharding = NamedSharding(mesh, P(*[None] * axis, "data"))
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def over_devices(step, mesh: Mesh, *, batch_size: int, inputs):
    """jit(shard_map(step)): (state, frozen, settings, batch, root_key) -> the same.

    Keys are made inside, from the root, the step and the place in the global batch, so
    that the result does not depend on the mesh.

    Args:
        step: What `make_train_step` returns, with axis_name "data".
        mesh: See `make_mesh`.
        batch_size: Global.
        inputs: (frozen, batch, keys) -> batch as the methods read it.
    """

    def one_device(state, frozen, settings, batch, root_key, positions):
        keys = rng.example_keys(root_key, state.step, positions)
        batch = inputs(frozen, batch, keys)
        return step(state, frozen, settings, batch, keys)

    mapped = jax.shard_map(
        one_device,
        mesh=mesh,
        in_specs=(P(), P(), P(), P("data"), P(), P("data")),
        out_specs=(P(), P()),
    )

    def program(state, frozen, settings, batch, root_key):
        positions = jnp.arange(batch_size, dtype=jnp.int32)
        return mapped(state, frozen, settings, batch, root_key, positions)

    return program


def in_one_dispatch(programs):
    """Several steps as one program; their batches have a leading axis of steps.

    Equal steps are scanned, a varying schedule is unrolled. Metrics are those of the
    last step that reports them. Not for the CPU, where a gradient in a loop is slow.
    """

    def program(state, frozen, settings, batches, root_key):
        if all(p is programs[0] for p in programs):

            def body(state, batch):
                return programs[0](state, frozen, settings, batch, root_key)

            state, metrics = jax.lax.scan(body, state, batches)
            return state, jax.tree.map(lambda m: m[-1], metrics)
        metrics = {}
        for i, one in enumerate(programs):
            batch = jax.tree.map(lambda x, i=i: x[i], batches)
            state, more = one(state, frozen, settings, batch, root_key)
            metrics |= more
        return state, metrics

    return program
