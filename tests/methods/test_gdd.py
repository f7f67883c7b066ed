"""GDD: its losses from parts, its order, groups of a batch norm, frozen leaves."""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import one_student
import optax
import pytest
import torch_resnet
import toy
from safetensors.numpy import save_file
from tolerance import REORDER

from kdiff_jax import methods, rng
from kdiff_jax.augment.diffaugment import diffaugment
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.discriminators import projected, spectral
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.features import deit_base_distilled as deit
from kdiff_jax.features import resnet56
from kdiff_jax.losses import adversarial
from kdiff_jax.method import Context, Net, Numbers
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.state import Optim, init_state, without_axis
from kdiff_jax.train.step import due, make_train_step

DATA = pathlib.Path(__file__).parents[1] / "parity" / "data"
FROZEN = {"teacher": toy.NETS["teacher"].init(jax.random.key(7))}
SGD = Optim(optax.identity(), lambda step, n: 1.0, toy.EMAS)
NUMBERS = Numbers(toy.SHARE, jnp.int32(100))
SMALL = dict(width=2)


def make(nets=toy.NETS, **keywords):
    return methods.make("gdd", nets=nets, process=cosine(), **SMALL | keywords)


def start(method, optimizer=SGD, given=None):
    optim = {role: optimizer for role in method.nets}
    given = FROZEN | (given or {})
    return optim, init_state(method, optim, given, jax.random.key(0))


def keys():
    return rng.example_keys(jax.random.key(1), 0, jnp.arange(8))


def test_generator_then_discriminator_then_a_late_penalty():
    method = make()
    names = [[p.name for p in due(method.phases, i)] for i in range(34)]
    assert all(n[:2] == ["student", "disc"] for n in names)
    assert [i for i, n in enumerate(names) if "r1" in n] == [16, 32]
    always = make(r1_every=1)
    assert ["r1" in [p.name for p in due(always.phases, i)] for i in range(3)] == [
        False,
        True,
        True,
    ]


def test_losses_are_the_sums_over_a_virtual_local_batch():
    """The losses again, from the parts that have tests of their own."""
    v, process, nets = 4, cosine(), one_level(toy.NETS)
    student, policy = nets["student"], ("color", "cutout")
    method = make(
        nets, virtual_local_batch=v, r1_weight=0.3, noise_levels=(0.5,), augment=policy
    )
    state = without_axis(start(method)[1])
    params = {role: net.params for role, net in state.nets.items()}
    batch = toy.batch(0)
    ctx = Context(params, params, FROZEN, state.carry, batch, keys(), toy.SHARE)
    module = projected.Discriminator(2, toy.NUM_CLASSES, group=v)

    t = jnp.full(8, process.time_of_logsnr(2 * np.log(2)), jnp.float32)

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def logits(images, name, moves):
        stream = rng.stream(keys(), name)
        images = diffaugment(images, rng.stream(stream, "augment"), policy)
        eps = rng.normal(stream, "eps_0", toy.SHAPE)
        x_t = process.add_noise(images, eps, t)
        maps = nets["teacher"].encode(FROZEN["teacher"], x_t, t, batch["y"])
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
        * jax.jit(lambda x0: adversarial.r1(lambda x: logits(x, "real", 1), x0).mean())(
            batch["x0"]
        ),
    }
    for phase in method.phases:
        moving = {role: params[role] for role in phase.trains}
        value, aux = jax.jit(phase.loss)(moving, ctx)
        np.testing.assert_allclose(value, expected[phase.name], **REORDER)
        moved = jax.tree.map(
            lambda a, b: (a != b).any(), aux.carry["spectral"], ctx.carry["spectral"]
        )
        assert all(jax.tree.leaves(moved)), phase.name


def one_level(nets):
    """Encoders of one level: each has a head, and that its compile time."""
    return {
        role: net._replace(encode=lambda *a, net=net: net.encode(*a)[:1])
        for role, net in nets.items()
    }


@pytest.fixture(scope="module")
def program():
    """(num_devices, step) -> the state after the phases that are due at this step.

    From 16 images in groups of two.

    With changes of half of the images, and a target between the r of four devices'
    parts (0, 0, 1/2, -1/2): the mean of four signs would be another step.
    """
    method = make(
        one_level(toy.NETS), virtual_local_batch=2, ada_target=0.1, ada_steps=8
    )
    optim, state = start(method)
    state = state.replace(carry=state.carry | {"ada_p": jnp.float32([0.5])})

    @functools.cache
    def run(num_devices, i):
        phases = due(method.phases, i)
        step = make_train_step(method, optim, phases, axis_name="data")
        return one_student.train(
            step,
            jax.devices()[:num_devices],
            state,
            frozen=FROZEN,
            numbers=NUMBERS,
            batch=toy.batch(0, size=16),
            key=jax.random.key(1),
            batch_size=16,
        )

    return run


@pytest.mark.slow  # a minute of compiling; one device has a test of its own
@pytest.mark.parametrize("num_devices", [4, 8])
def test_groups_make_results_independent_of_devices(program, num_devices):
    (one, metrics_one), (many, metrics_many) = program(1, 16), program(num_devices, 16)
    assert {"student/loss", "disc/loss", "r1/loss", "ada/p"} <= metrics_one.keys()
    chex.assert_trees_all_close(many.nets, one.nets, **REORDER)
    chex.assert_trees_all_close(many.carry, one.carry, **REORDER)
    chex.assert_trees_all_close(metrics_many, metrics_one, **REORDER)


def test_the_probability_of_changes_follows_the_real_images(program, tmp_path):
    state, metrics = program(1, 0)  # the penalty comes later
    # Of a discriminator that knows nothing yet: one step of eight down.
    assert metrics["ada/r"] < 0.1
    assert metrics["ada/p"] == state.carry["ada_p"] == 0.5 - 1 / 8
    assert "ada/grad_norm" not in metrics  # it has none
    assert metrics["student/grad_norm"] > 0  # it came through the changes
    checkpoints = Checkpoints(tmp_path)
    state = jax.tree.map(jnp.asarray, state)
    checkpoints.save(1, state)
    restored, _ = checkpoints.restore_latest(jax.tree.map(jnp.zeros_like, state))
    checkpoints.close()
    assert restored.carry["ada_p"] == 0.5 - 1 / 8


def test_without_a_target_there_is_no_trace_of_ada():
    method = make()
    assert [p.name for p in method.phases] == ["student", "disc", "r1"]
    assert set(method.carry) == {"spectral"}


def test_a_group_larger_than_a_devices_batch_is_refused():
    method = make(virtual_local_batch=16)
    optim, state = start(method)
    step = make_train_step(method, optim, method.phases[:1])
    with pytest.raises(ConfigError, match="does not divide the 8 images"):
        jax.eval_shape(step, state, FROZEN, NUMBERS, toy.batch(0), keys())


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
    method = make(one_level(nets), freeze=True)
    adam = Optim(optax.scale_by_adam(), lambda step, n: 1e-2, toy.EMAS)
    optim = {role: adam for role in method.nets}
    frozen = {"teacher": nets["teacher"].init(jax.random.key(7))}
    state = init_state(method, optim, frozen, jax.random.key(0))
    # Without the penalty, which moves what the discriminator's own loss does.
    step = jax.jit(make_train_step(method, optim, due(method.phases, 0)))
    new = state
    for i in range(2):
        new, _ = step(new, frozen, NUMBERS, toy.batch(i), keys())
    for role in ("student", "disc"):
        old_leaves = jax.tree.leaves_with_path(state.nets[role].params)
        kept = new.nets[role]
        for (path, old), now, ema in zip(
            old_leaves,
            jax.tree.leaves(kept.params),
            jax.tree.leaves(kept.ema["ema"]),
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


def rgb() -> Net:
    """A generator of 8x8 colour images, scaled noise."""

    def apply(params, x_t, t, y, *, dropout_keys=None, augment=None):
        del t, y, dropout_keys, augment
        return jnp.tanh(params["w"] * x_t)

    return Net(lambda key: {"w": jnp.ones(())}, apply, None, (8, 8, 3), 10)


def rgb_batch():
    x0 = jnp.tanh(jax.random.normal(jax.random.key(5), (8, 8, 8, 3)))
    return {"x0": x0, "y": toy.batch(0)["y"]}


def test_features_of_a_classifier_from_its_file(tmp_path, monkeypatch):
    file = tmp_path / "w.npz"
    # Of one block a stage, not nine: they are alike, and take long to compile.
    shallow = functools.partial(resnet56.ResNet, num_blocks=1)
    monkeypatch.setattr(resnet56, "ResNet", shallow)
    weights = torch_resnet.random_weights(np.random.default_rng(0), num_blocks=1)
    np.savez(file, **weights)
    keywords = dict(features=("resnet56",), feature_files=(str(file),), **SMALL)
    method = methods.make("gdd", nets={"student": rgb()}, process=cosine(), **keywords)
    assert method.frozen == ("resnet56",)  # and no teacher, whom nothing reads
    optim = {role: SGD for role in method.nets}
    state = without_axis(init_state(method, optim, {}, jax.random.key(0)))
    params = {role: net.params for role, net in state.nets.items()}
    frozen = {"resnet56": method.pretrained["resnet56"].read()}
    shapes = jax.eval_shape(lambda: frozen["resnet56"])
    chex.assert_trees_all_equal(shapes, method.pretrained["resnet56"].shapes)
    ctx = Context(params, params, frozen, state.carry, rgb_batch(), keys(), toy.SHARE)
    (phase, *_) = method.phases

    def again(params):
        """The loss from parts that have tests of their own."""
        z = rng.normal(keys(), "z", (8, 8, 3))
        x_gen = rgb().apply(params["student"], z, None, None)
        variables = {
            "params": ctx.nets["disc"]["resnet56"],
            spectral.STATE: state.carry["spectral"]["resnet56"],
        }
        logits, _ = projected.Discriminator(2, 10).apply(
            variables,
            resnet56.features(frozen["resnet56"], x_gen),
            ctx.batch["y"],
            mutable=[spectral.STATE],
        )
        return jax.nn.softplus(-logits).mean()

    @jax.jit
    def run(params):
        (value, _), grads = jax.value_and_grad(phase.loss, has_aux=True)(params, ctx)
        return value, grads["student"]["w"], again(params)

    value, grad, expected = run({"student": params["student"]})
    np.testing.assert_allclose(value, expected, **REORDER)
    assert grad != 0  # it reaches the student through the classifier


def test_the_authors_classifiers_of_64_pixels(monkeypatch):
    """DeiT as shapes: its maps of 14 pixels become four sizes, 16 logits each."""
    images = jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(lambda: deit.BASE.init(jax.random.key(0), images)["params"])
    name = "deit_base_distilled"
    monkeypatch.setattr(deit, "load", lambda path: shapes)
    method = methods.make(
        "gdd",
        nets={"student": rgb()},
        process=cosine(),
        features=(name,),
        feature_files=("there",),
        **SMALL,
    )
    disc = method.nets["disc"]
    params = jax.eval_shape(disc.init, jax.random.key(0))[name]
    assert params["projection_pyramid"]["up_0"]["kernel"].shape == (4, 4, 96, 96)
    maps = jax.eval_shape(deit.features, shapes, rgb_batch()["x0"])
    logits, _ = jax.eval_shape(
        disc.apply,
        {name: params},
        method.carry["spectral"],
        {name: maps},
        rgb_batch()["y"],
    )
    assert logits[name].shape == (8, 64)
    (phase, *_) = method.phases
    student = {"student": {"w": jnp.ones(())}}
    frozen, carry = {name: shapes}, method.carry

    def loss(params, frozen):
        ctx = Context(
            {"disc": params}, {}, frozen, carry, rgb_batch(), keys(), toy.SHARE
        )
        return phase.loss(student, ctx)[0]

    assert jax.eval_shape(loss, {name: params}, frozen).shape == ()


def files_of(table, tmp_path):
    np.save(tmp_path / "t.npy", table)
    np.savez(tmp_path / "t.npz", table)
    save_file({"embed.weight": table}, tmp_path / "t.safetensors")
    return [tmp_path / f"t.{kind}" for kind in ("npy", "npz", "safetensors")]


def test_every_head_starts_from_the_first_rows_of_a_table_of_classes(tmp_path):
    rows = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    table = rows[:10]
    for file in files_of(rows, tmp_path):
        np.testing.assert_array_equal(projected.load_embedding(file, 10, 3), table)
    method = make(class_embedding=str(tmp_path / "t.npy"), class_embedding_dim=3)
    assert {*method.pretrained} == {*method.begins_with} == {"class_embedding"}
    files = {role: found.read() for role, found in method.pretrained.items()}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), files)
    assert shapes["class_embedding"] == method.pretrained["class_embedding"].shapes
    state, plain = (
        without_axis(start(one, given=given)[1]).nets["disc"].params["teacher_0"]
        for one, given in ((method, files), (make(class_embedding_dim=3), {}))
    )
    params = state
    same = jax.tree.map(lambda a, b: (a == b).all(), state, plain)
    assert sum(not x for x in jax.tree.leaves(same)) == 2  # the tables
    heads = [name for name in params if name.startswith("head_")]
    assert len(heads) == 2
    for name in heads:
        np.testing.assert_array_equal(params[name]["embedding"]["embedding"], table)
        assert params[name]["condition"]["kernel"].shape == (3, 64)
    leaf = "teacher_0/head_0/embedding/embedding"
    assert method.trainable["disc"](leaf)
    assert method.trainable["disc"]("teacher_0/head_0/condition/kernel")
    assert not method.trainable["disc"]("teacher_0/projection/ccm_0/kernel")


def test_the_authors_table_of_classes_is_read_without_running_it():
    """A file with the opcodes of theirs, by dill and torch, and numbers of its own."""
    pickled, plain = (f"class_table_lookalike.{kind}" for kind in ("pkl", "npy"))
    table = np.load(DATA / plain)
    assert table.shape == (12, 16)
    load_embedding = functools.partial(projected.load_embedding, dim=16)
    np.testing.assert_array_equal(load_embedding(DATA / pickled, 12), table)
    np.testing.assert_array_equal(load_embedding(DATA / pickled, 10), table[:10])


def test_a_table_that_does_not_fit_is_refused(tmp_path):
    def refused(match, name="t.npy"):
        with pytest.raises(CheckpointError, match=match) as caught:
            about = dict(class_embedding=str(tmp_path / name), class_embedding_dim=3)
            make(**about).pretrained["class_embedding"].read()
        assert "\n" not in str(caught.value) and caught.value.exit_code == 4

    for name in ("t.npy", "t.npz", "t.safetensors"):
        refused(rf"class_embedding=.*{name}: no such file; give an .npy, .npz", name)
    for shape in ((9, 3), (10,), (10, 0), (1, 10, 3)):
        np.save(tmp_path / "t.npy", np.zeros(shape))
        refused(r"its shape is \(.*; give .* one table \[10 or more, 3\]")
    np.save(tmp_path / "t.npy", np.zeros((10, 4)))
    refused("rows have 4 entries, and class_embedding_dim=3; set class_embedding_dim=4")
    np.save(tmp_path / "t.npy", np.full((10, 3), np.nan))
    refused("holds no finite numbers")
    np.save(tmp_path / "t.npy", np.full((10, 3), "a"))
    refused("holds no finite numbers")
    (tmp_path / "t.npy").write_bytes(b"<html>")
    refused("not a readable .npy")
    np.savez(tmp_path / "t.npz", a=np.zeros((10, 3)), b=np.zeros((10, 3)))
    refused("2 arrays; give", "t.npz")
    nets = {role: net._replace(num_classes=0) for role, net in toy.NETS.items()}
    with pytest.raises(ConfigError, match="the student has no classes; leave it empty"):
        methods.make("gdd", nets=nets, process=cosine(), class_embedding="t.npy")


def test_what_it_cannot_do_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="choose one of nonsaturating, hinge"):
        make(loss="wasserstein")
    with pytest.raises(ConfigError, match="augment=.*choose of color, translation"):
        make(augment=("flip",))
    with pytest.raises(ConfigError, match="ada_target=1.0: must lie in"):
        make(ada_target=1.0)
    with pytest.raises(ConfigError, match="each entry must be above 0"):
        make(noise_levels=(0.0,))
    with pytest.raises(ConfigError, match="features=.*choose from teacher, .*, vgg16"):
        make(features=("inception",))
    with pytest.raises(ConfigError, match="one file each for vgg16_bn"):
        make(features=("vgg16_bn",))
    with pytest.raises(CheckpointError):
        files = dict(features=("resnet56",), feature_files=(str(tmp_path / "no.pth"),))
        nets = {"student": rgb()}
        method = methods.make("gdd", nets=nets, process=cosine(), **files)
        method.pretrained["resnet56"].read()
    nets = {"student": toy.NETS["student"]}
    with pytest.raises(ConfigError, match="init.teacher"):
        methods.make("gdd", nets=nets, process=cosine())
