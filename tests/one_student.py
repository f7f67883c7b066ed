"""One student, as programs take it: every leaf has an axis of students of length 1."""

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax.train import parallel
from kdiff_jax.train.layout import REPLICATED


def stacked(tree):
    """The same with an axis of one student."""
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def first(tree):
    """Of the first student, without the axis."""
    return jax.tree.map(lambda x: x[0], tree)


def as_they_are(frozen, batch, keys):
    """Inputs as the methods read them already."""
    del frozen, keys
    return batch


def train(
    step,
    devices,
    state,
    *,
    frozen,
    numbers,
    batch,
    key,
    batch_size=8,
    inputs=as_they_are,
    layout=REPLICATED,
):
    """(state, metrics) on the host after one step on these devices.

    Args:
        step: What `make_train_step` returns, with axis_name "data".
        devices: Devices to split the batch over.
        state: What `init_state` returns, with an axis of students.
        frozen, numbers, batch, key: Of the one student, without an axis.
        batch_size: Global.
        inputs: See `inputs.make`.
        layout: How the state lies on the devices.
    """
    mesh = parallel.make_mesh(devices)
    whole = parallel.over_devices(
        step, mesh, batch_size=batch_size, inputs=inputs, layout=layout
    )
    state, metrics = jax.jit(whole)(
        parallel.lay_out(state, mesh, layout),
        parallel.replicate(frozen, mesh),
        parallel.by_student(stacked(numbers), mesh),
        parallel.shard_batch(jax.device_get(stacked(batch)), mesh),
        parallel.by_student(key[None], mesh),
        np.int32(0),
    )
    return jax.device_get((state, first(metrics)))
