"""Multiply-adds and kept bytes of a step, against arithmetic by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax.method import Aux, Method, Net, Phase
from kdiff_jax.train import cost, optim
from kdiff_jax.train.state import init_state

N = 6  # numbers of an image; one network is a product with N x N numbers
BATCH = 10


def linear():
    def apply(params, x_t, t, y, *, dropout_keys=None, augment=None):
        del t, y, dropout_keys, augment
        return (x_t.reshape(len(x_t), N) @ params).reshape(x_t.shape)

    return Net(lambda key: jnp.zeros((N, N)), apply, image_shape=(1, 2, 3))


def method():
    """The student every third step from the second on, a guide at every step."""
    net = linear()

    def prepare(ctx):
        x_gen = net.apply(ctx.nets["student"], ctx.batch["x0"], None, None)
        return {**ctx.batch, "x_gen": x_gen}

    def student(params, ctx):
        x = net.apply(params["student"], ctx.batch["x0"], None, None)
        guided = net.apply(ctx.nets["guide"], x, None, None)
        target = net.apply(ctx.frozen["teacher"], ctx.batch["x0"], None, None)
        return (guided * target).sum(), Aux({})

    def guide(params, ctx):
        x = net.apply(params["guide"], ctx.batch["x_gen"], None, None)
        return x.sum(), Aux({})

    phases = (
        Phase("student", ("student",), student, every=3, offset=1),
        Phase("guide", ("guide",), guide),
    )
    return Method({"student": net, "guide": net}, phases, ("teacher",), prepare=prepare)


def costs():
    found = method()
    optims = {r: optim.make(lr=1.0, batch_size=BATCH) for r in found.nets}
    state = jax.eval_shape(
        lambda: init_state(found, optims, {"teacher": jnp.zeros((N, N))}, _key())
    )
    teacher = jax.ShapeDtypeStruct((N, N), np.float32)
    return cost.of_method(found, state, {"teacher": teacher}, batch_size=BATCH)


def _key():
    return jax.random.key(0)


def test_products_of_every_phase_count_as_often_as_it_runs():
    found = costs()
    assert found.prepare == N * N
    # Forward: student, guide, teacher. Backward: through the guide, and the student's
    # weights; the guide's weights and the student's images need nothing.
    # The guide's own phase: forward, and its weights.
    assert list(found.phases.values()) == [5 * N * N, 2 * N * N]
    # Of eight steps the student has those at 1, 4 and 7.
    assert found.macs(8) == 8 * N * N + 3 * 5 * N * N + 8 * 2 * N * N
    assert found.macs(1) == 3 * N * N


def test_what_backward_passes_keep_leaves_out_parameters():
    # The student's: images as rows, for its weights, and the teacher's answer, which
    # the guide's is multiplied by. The weights of the guide are there anyway.
    assert costs().kept == 4 * (N + N)
