"""A state in parts is trained as one of which every device has a copy."""

import functools
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import one_student
import optax
import pytest
import toy
from jax.sharding import PartitionSpec as P
from tolerance import REORDER

from kdiff_jax import denoiser, domain, methods
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.interop import steps
from kdiff_jax.method import Aux, Method, Net, Phase
from kdiff_jax.networks import mlp
from kdiff_jax.train import digests, parallel, rounded
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.layout import Layout
from kdiff_jax.train.state import Optim, init_state
from kdiff_jax.train.step import make_train_step

FROZEN = {"teacher": toy.NETS["teacher"].init(jax.random.key(7))}
# Not Adam: it hides a gradient that is too large, as does a norm that is cut.
SGD = Optim(optax.trace(0.9), lambda step, n: 1.0, toy.EMAS)
CLIPPED = SGD._replace(clip_norm=0.01, zero_nonfinite=True)
ADAM = SGD._replace(tx=optax.scale_by_adam(), lr=lambda step, n: 1e-2)
SMALL = 1  # so that leaves of toy networks are split


def run(name, optimizer, num_devices, num_parts):
    """(state, metrics) of a step."""
    method = methods.make(name, nets=toy.NETS, process=cosine())
    optim = {role: optimizer for role in method.nets}
    given = FROZEN | {"fake_score": toy.NETS["teacher"].init(jax.random.key(8))}
    state = init_state(method, optim, given, jax.random.key(0))
    return one_student.train(
        make_train_step(method, optim, method.phases, axis_name="data"),
        jax.devices()[:num_devices],
        state,
        frozen=FROZEN,
        numbers=toy.numbers(method),
        batch=toy.batch(0),
        key=jax.random.key(1),
        layout=Layout(num_parts, SMALL),
    )


@pytest.mark.parametrize(
    ("name", "optimizer", "num_devices"),
    [
        ("denoise", SGD, 8),
        ("denoise", CLIPPED, 8),
        ("denoise", ADAM, 8),
        # A role that a later phase reads is moved in parts below, too.
        pytest.param("dmd2", SGD, 2, marks=pytest.mark.slow),
        *(
            pytest.param(name, SGD, num, marks=pytest.mark.slow)
            for name in methods.names()
            for num in (1, 4, 8)
        ),
    ],
)
def test_a_state_in_parts_is_trained_as_a_whole(name, optimizer, num_devices):
    whole, parts = (run(name, optimizer, num_devices, k) for k in (1, num_devices))
    chex.assert_trees_all_close(parts, whole, **REORDER)


def follow(num_parts):
    """The state after a step in which "second" learns what "first" has just become."""

    def first(params, ctx):
        return jnp.square(params["first"]["w"] - ctx.batch["x0"].mean()).sum(), Aux({})

    def second(params, ctx):
        moved = ctx.nets["first"]["w"]
        return jnp.square(params["second"]["w"] - moved).sum(), Aux({})

    net = Net(
        lambda key: {"w": jax.random.normal(key, (8, 4))}, toy.NETS["student"].apply
    )
    phases = Phase("a", ("first",), first), Phase("b", ("second",), second)
    method = Method({"first": net, "second": net}, phases)
    optim = {role: SGD._replace(lr=lambda step, n: 0.25) for role in method.nets}
    state, _ = one_student.train(
        make_train_step(method, optim, phases, axis_name="data"),
        jax.devices()[:2],
        init_state(method, optim, {}, jax.random.key(0)),
        frozen={},
        numbers=toy.numbers(method),
        batch=toy.batch(0),
        key=jax.random.key(1),
        layout=Layout(num_parts, SMALL),
    )
    return state


def test_a_later_phase_sees_what_an_earlier_one_has_moved():
    chex.assert_trees_all_close(follow(2), follow(1), **REORDER)


def state_of(num_numbers=64):
    """A first state with leaves of every kind: split, too small, of no such length."""
    params = {
        "kernel": jax.random.normal(jax.random.key(0), (3, num_numbers, 32)),
        "odd": jnp.arange(15.0 * 15).reshape(15, 15),
        "bias": jnp.arange(8.0),
    }
    method = methods.make("denoise", nets=toy.NETS, process=cosine())
    optim = {"student": SGD}
    return init_state(method, optim, {"student": params}, jax.random.key(0))


def test_a_leaf_is_split_along_its_largest_axis_that_the_devices_divide():
    state = state_of()
    lies = Layout(4).specs(state)
    whole = {"odd": P("student"), "bias": P("student")}
    expected = {"kernel": P("student", None, "data"), **whole}
    net = lies.nets["student"]
    assert net.params == net.ema["ema"] == net.opt_state.trace == expected
    assert Layout(4).spec((1, 64, 64)) == P("student", "data")  # the first of two
    assert Layout(1).specs(state).nets["student"].params["kernel"] == P("student")


def test_bytes_of_a_device_fall_as_the_number_of_devices_rises():
    state = jax.eval_shape(state_of)
    kernels, others = 3 * 4 * 3 * 64 * 32, 3 * 4 * (15 * 15 + 8) + 4
    for num in (1, 2, 4, 8):
        assert Layout(num).bytes_of_device(state) == kernels // num + others


LAYOUTS = [(8, 1), (8, 8), (4, 4), (1, 1)]  # (devices, parts)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of one state, saved on eight devices as a whole and in parts."""
    folders = []
    for num_devices, num_parts in LAYOUTS[:2]:
        mesh = parallel.make_mesh(jax.devices()[:num_devices])
        folder = tmp_path_factory.mktemp(f"parts_{num_parts}")
        checkpoints = Checkpoints(folder / "checkpoints")
        placed = parallel.lay_out(state_of(), mesh, Layout(num_parts))
        checkpoints.save(3, placed)
        checkpoints.close()
        folders.append(folder)
    return folders


def test_digests_do_not_depend_on_the_layout(saved):
    whole, parts = (steps.read(folder / "checkpoints" / "3") for folder in saved)
    assert whole == parts


@pytest.mark.parametrize(("num_devices", "num_parts"), LAYOUTS)
@pytest.mark.parametrize("source", [0, 1])
def test_a_checkpoint_is_restored_in_any_layout(saved, source, num_devices, num_parts):
    mesh = parallel.make_mesh(jax.devices()[:num_devices])
    shapes, layout = jax.eval_shape(state_of), Layout(num_parts)
    checkpoints = Checkpoints(saved[source] / "checkpoints")
    template = parallel.abstract(shapes, mesh, layout)
    state, step = checkpoints.restore_latest(template)
    checkpoints.close()
    assert step == 3
    chex.assert_trees_all_equal(state, state_of())
    kernel = state.nets["student"].params["kernel"]
    assert kernel.addressable_data(0).shape == (1, 3, 64 // num_parts, 32)


def test_a_bit_of_one_part_makes_another_digest():
    mesh = parallel.make_mesh()
    state = parallel.lay_out(state_of(), mesh, Layout(8))
    kernel = state.nets["student"].params["kernel"]
    other = (
        parallel.lay_out(
            jax.tree.map(lambda x: x.at[(0,) * x.ndim].add(1), state_of()),
            mesh,
            Layout(8),
        )
        .nets["student"]
        .params["kernel"]
    )
    stored = digests.of_leaf(kernel)
    assert not steps.differs(stored, steps.digest(np.asarray(kernel), by_rows=True))
    assert steps.differs(digests.of_leaf(other), stored)


def test_hosts_tell_a_digest_from_the_parts_that_each_has():
    row = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    hosts = [
        [(np.s_[:, :3], row[:, :3]), (np.s_[:2, 3:], row[:2, 3:])],
        [(np.s_[2:, 3:], row[2:, 3:])],
        [],
    ]
    own = [digests.contribution(row.shape, row.dtype, parts) for parts in hosts]
    found = functools.reduce(operator.xor, own, steps.checksum(np.zeros_like(row)))
    assert found == steps.checksum(row)


def bfloat16_step(num_parts):
    """A step on two devices of a network that computes in bfloat16."""
    net = denoiser.make(
        mlp.Mlp(channels=32, num_blocks=1, out_channels=2, dtype="bfloat16"),
        cosine(),
        precondition="v",
        image_shape=(1, 1, 2),
        num_classes=0,
    )
    method = methods.make("denoise", nets={"student": net}, process=cosine())
    state = init_state(method, {"student": SGD}, {}, jax.random.key(0))
    batch = {"x0": jnp.ones((8, 1, 1, 2)), "y": jnp.zeros(8, jnp.int32)}
    step = make_train_step(method, {"student": SGD}, method.phases, axis_name="data")
    keywords = dict(
        frozen={},
        numbers=toy.numbers(method, share=domain.whole(0, (0.0, 1.0))),
        batch=batch,
        key=jax.random.key(1),
        layout=Layout(num_parts, SMALL),
    )
    return one_student.train(step, jax.devices()[:2], state, **keywords)


def test_what_is_rounded_anyway_is_gathered_in_bfloat16(monkeypatch):
    """Kernels; not a bit of the step changes. Of two devices, any sum is the same."""
    gathered, all_gather = [], jax.lax.all_gather

    def watched(x, *arguments, **keywords):
        gathered.append((x.ndim - 1, x.dtype.name))
        return all_gather(x, *arguments, **keywords)

    monkeypatch.setattr(jax.lax, "all_gather", watched)
    (parts, metrics), (whole, metrics_whole) = bfloat16_step(2), bfloat16_step(1)
    chex.assert_trees_all_equal(parts, whole)
    chex.assert_trees_all_close(metrics, metrics_whole, **REORDER)  # a norm of parts
    assert (2, "bfloat16") in gathered


def test_only_what_is_always_rounded_counts_as_rounded():
    def function(p, x):
        def body(x, _):
            return x @ p["in_a_loop"].astype(jnp.bfloat16), None

        x, _ = jax.lax.scan(
            body, x.astype(jnp.bfloat16) @ round_(p["kernel"]), length=2
        )
        return x * p["norm"].sum(), p["norm"].astype(jnp.bfloat16), p["returned"]

    round_ = jax.jit(lambda x: x.astype(jnp.bfloat16))
    names = ("in_a_loop", "kernel", "norm", "returned")
    p = {name: jnp.ones((2, 2)) for name in names}
    found = rounded.leaves(function, p, jnp.ones((3, 2)))
    assert found == {
        "in_a_loop": True,
        "kernel": True,
        "norm": False,
        "returned": False,
    }
