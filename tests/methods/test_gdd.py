"""GDD: its losses from parts, its order, groups of a batch norm, frozen leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from tolerance import REORDER

from kdiff_jax import methods, rng
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.losses import adversarial
from kdiff_jax.method import Context
from kdiff_jax.models import projected, spectral
from kdiff_jax.train import parallel
from kdiff_jax.train.step import Optim, due, init_state, make_train_step

FROZEN = {"teacher": toy.NETS["teacher"].init(jax.random.key(7))}
SGD = Optim(optax.identity(), lambda step, n: 1.0, lambda step: jnp.float32(0.9))
SETTINGS = {"num_train_steps": jnp.int32(100)}
SMALL = dict(width=2)


def make(**keywords):
    return methods.make("gdd", nets=toy.NETS, process=cosine(), **SMALL | keywords)


def start(method, optimizer=SGD):
    optim = {role: optimizer for role in method.nets}
    return optim, init_state(method, optim, FROZEN, jax.random.key(0))


def keys():
    return rng.example_keys(jax.random.key(1), 0, jnp.arange(8))


def test_generator_then_discriminator_then_a_late_penalty():
    method = make()
    names = [[p.name for p in due(method.phases, i)] for i in range(32)]
    assert all(n[:2] == ["student", "disc"] for n in names)
    assert [i for i, n in enumerate(names) if "r1" in n] == [15, 31]
    assert make(r1_every=1).phases[2].offset == 0


def test_losses_are_the_sums_over_a_virtual_local_batch():
    """The losses again, from the parts that have tests of their own."""
    v, process, student = 4, cosine(), toy.NETS["student"]
    method = make(virtual_local_batch=v, r1_weight=0.3, noise_levels=(0.5,))
    _, state = start(method)
    params = {role: net.params for role, net in state.nets.items()}
    batch = toy.batch(0)
    ctx = Context(params, params, FROZEN, state.carry, batch, keys())
    module = projected.Discriminator(2, toy.NUM_CLASSES, v)

    t = jnp.full(8, process.time_of_logsnr(2 * np.log(2)), jnp.float32)

    def logits(images, name, moves):
        eps = rng.normal(rng.stream(keys(), name), "eps_0", toy.SHAPE)
        x_t = process.add_noise(images, eps, t)
        maps = toy.NETS["teacher"].encode(FROZEN["teacher"], x_t, t, batch["y"])
        variables = {
            "params": params["disc"]["teacher_0"],
            spectral.STATE: state.carry["spectral"]["teacher_0"],
        }
        for _ in range(moves):  # one power iteration a pass
            out, changed = module.apply(
                variables, maps, batch["y"], mutable=[spectral.STATE]
            )
            variables |= changed
        return out

    z = rng.normal(keys(), "z", toy.SHAPE)
    x_gen = student.apply(params["student"], z, jnp.ones(8), batch["y"])
    fake = logits(x_gen, "fake", 1)
    real = logits(batch["x0"], "real", 2)
    expected = {
        "student": v * jax.nn.softplus(-fake).mean(),
        "disc": v * (jax.nn.softplus(fake).mean() + jax.nn.softplus(-real).mean()),
        "r1": 16
        * 0.3
        / 2
        * adversarial.r1(lambda x: logits(x, "real", 1), batch["x0"]).mean(),
    }
    for phase in method.phases:
        moving = {role: params[role] for role in phase.trains}
        value, aux = phase.loss(moving, ctx)
        np.testing.assert_allclose(value, expected[phase.name], **REORDER)
        moved = jax.tree.map(
            lambda a, b: (a != b).any(), aux.carry["spectral"], ctx.carry["spectral"]
        )
        assert all(jax.tree.leaves(moved)), phase.name


@pytest.mark.parametrize("num_devices", [4])
def test_groups_make_results_independent_of_devices(num_devices):
    method = make(virtual_local_batch=2)
    optim, state = start(method)

    def program(devices):
        step = make_train_step(method, optim, method.phases, axis_name="data")
        mesh = parallel.make_mesh(devices)
        as_they_are = lambda frozen, batch, keys: batch  # noqa: E731
        whole = parallel.over_devices(step, mesh, batch_size=8, inputs=as_they_are)
        batch = parallel.shard_batch(toy.batch(0), mesh)
        args = parallel.replicate((state, FROZEN, SETTINGS), mesh)
        root = parallel.replicate(jax.random.key(1), mesh)
        return jax.device_get(jax.jit(whole)(*args, batch, root)[0])

    one = program(jax.devices()[:1])
    many = program(jax.devices()[:num_devices])
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(b, a, **REORDER)


def test_a_group_larger_than_a_devices_batch_is_refused():
    method = make(virtual_local_batch=16)
    optim, state = start(method)
    step = make_train_step(method, optim, method.phases[:1])
    with pytest.raises(ConfigError, match="does not divide the 8 images"):
        jax.eval_shape(step, state, FROZEN, SETTINGS, toy.batch(0), keys())


def test_frozen_leaves_stay_bit_for_bit_and_have_no_optimizer_state():
    rename = {"w": "enc_4x4_block0/conv0", "v": "out_conv"}
    nets = {}
    for role, net in toy.NETS.items():

        def init(key, net=net):
            w_v = net.init(key)
            return {rename[k]: {"kernel": w_v[k]} for k in w_v}

        def plain(params):
            return {k: params[rename[k]]["kernel"] for k in rename}

        def apply(params, *rest, net=net, **more):
            return net.apply(plain(params), *rest, **more)

        def encode(params, *rest, net=net):
            return net.encode(plain(params), *rest)

        nets[role] = net._replace(init=init, apply=apply, encode=encode)
    method = methods.make("gdd", nets=nets, process=cosine(), freeze=True, **SMALL)
    adam = Optim(optax.scale_by_adam(), lambda step, n: 1e-2, lambda step: 0.9)
    optim = {role: adam for role in method.nets}
    frozen = {"teacher": nets["teacher"].init(jax.random.key(7))}
    state = init_state(method, optim, frozen, jax.random.key(0))
    step = jax.jit(make_train_step(method, optim, method.phases))
    new = state
    for i in range(2):
        new, _ = step(new, frozen, SETTINGS, toy.batch(i), keys())
    for role in ("student", "disc"):
        old_leaves = jax.tree.leaves_with_path(state.nets[role].params)
        kept = new.nets[role]
        for (path, old), now, ema in zip(
            old_leaves,
            jax.tree.leaves(kept.params),
            jax.tree.leaves(kept.ema),
            strict=True,
        ):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            moves = method.trainable[role](name)
            assert moves == bool((old != now).any()), name
            assert moves == bool((old != ema).any()), name
        moving = [
            method.trainable[role](
                jax.tree_util.keystr(path, simple=True, separator="/")
            )
            for path, _ in old_leaves
        ]
        assert 0 < sum(moving) < len(moving)
        # Adam: two moments of what moves, and a count.
        assert len(jax.tree.leaves(kept.opt_state)) == 2 * sum(moving) + 1


def test_what_it_cannot_do_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="choose one of nonsaturating, hinge"):
        make(loss="wasserstein")
    with pytest.raises(ConfigError, match="all above 0"):
        make(noise_levels=(0.0,))
    with pytest.raises(ConfigError, match="features=.*choose from teacher, vgg16_bn"):
        make(features=("inception",))
    with pytest.raises(ConfigError, match="one file each for vgg16_bn"):
        make(features=("vgg16_bn",))
    with pytest.raises(CheckpointError):
        make(features=("vgg16_bn",), feature_files=(str(tmp_path / "vgg.pth"),))
    nets = {"student": toy.NETS["student"]}
    with pytest.raises(ConfigError, match="init.teacher"):
        methods.make("gdd", nets=nets, process=cosine())
