"""Which training stages share one compiled program, over every field that they have."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import jobs
import numpy as np
import one_student
import pytest
import toy

from kdiff_jax import build, interop
from kdiff_jax.build import Recipe, objects
from kdiff_jax.build.sections import Train
from kdiff_jax.diffusion import process as processes
from kdiff_jax.interop.spec import Origin
from kdiff_jax.named import Named, frozen, thawed
from kdiff_jax.partition import Partition
from kdiff_jax.train import parallel
from kdiff_jax.train.state import init_state

STAGE = jobs.training(optim=frozen(dict(name="sgd", lr=0.1)))
SPEC = jobs.SPEC.defining()
# Another value of each field. What is in neither table is a field that came later: add
# it, and to `objects.FREE` if no program depends on it.
OTHER = dict(
    name="round_2",
    init=build.Init(student="teacher"),
    method=Named("denoise", frozen(dict(null_prob=0.5))),
    optim=frozen(dict(name="sgd", lr=0.2)),
    roles=frozen({"student": dict(lr=0.3)}),
    train=STAGE.train._replace(batch_size=8),
    model=frozen({"network": {"dropout": 0.5}}),
    sampler=frozen({"num_steps": 2}),
    pairs="pairs",
    settings=frozen({"num_steps": 2}),
    partition=True,
    filter_data=True,
    precision="bfloat16",
    channels="even",
    blocks="bk_sdm",
    trains_text=True,
    own_train=("num_steps",),
)
OTHER_TRAIN = dict(
    **dict(num_steps=3, batch_size=8, result="ema", log_every=2, sample_every=2),
    **dict(save_every=2, save_minutes=2.0, validate_every=2, num_microbatches=2),
    **dict(steps_per_dispatch=2, keep=3, spike_factor=2.0, spike_lines=2),
    **dict(
        hang_minutes=1.0, tracker="wandb", layout="zero1", best_by="fd", figure_every=2
    ),
    **dict(figure_images=2, figure_metrics=("kd",), figure_average="slow"),
)
# Of a model the function of its parameters counts, and nothing that is said beside it.
OTHER_SPEC = dict(
    augment_dim=9,
    cond_dim=3,
    cond_length=7,
    image_shape=(1, 1, 3),
    network=SPEC.network.changed(channels=16),
    num_classes=4,
    precondition=Named("residual", jobs.NONE),
    process=Named("edm", jobs.NONE),
    space="latents",
    guidance_range=(1.0, 4.0),
    autoencoder=Named("autoencoder_kl", jobs.NONE),
    text=Named("clip_text", jobs.NONE),
)
SAID = dict(
    sampler=Named("heun", frozen(dict(num_steps=7))),
    revision=1,  # the network's own; another is refused
    null_prob=0.3,
    partition=Partition(groups=((0, 1, 2, 3), (4, 5, 6, 7))),
    conditions="sha256:0",
    source=Origin("edm", "a.pkl", "0"),
    sha256="0",
    kdiff_jax="0.0",
    autoencoder_sha256="0",
    text_sha256="0",
    average="slow",
    facts=frozen({"by": "them"}),
)


def key(stage=STAGE, *, augmented=jobs.NONE, spec=SPEC, mesh=None, own=(), **fields):
    mesh = mesh or parallel.make_mesh(jax.devices()[:1])
    recipe = dataclasses.replace(job().recipe, augmented=augmented, **fields)
    networks = build.Networks(toy.NETS, processes.cosine(), (spec,))
    return objects.program_key(recipe, stage, networks, mesh, own)


def job():
    mesh = parallel.make_mesh(jax.devices()[:1])
    return jobs.job([STAGE], pathlib.Path("."), mesh)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(STAGE)])
def test_a_stage_that_differs_in_a_field_has_a_program_of_its_own(name):
    if name == "section":  # what was written, of which the other fields are made
        return
    other = dataclasses.replace(STAGE, **{name: OTHER[name]})
    assert other != STAGE and (key(other) == key()) == (name in objects.FREE)


@pytest.mark.parametrize("name", Train._fields)
def test_and_so_has_one_whose_training_differs(name):
    train = STAGE.train._replace(**{name: OTHER_TRAIN[name]})
    other = dataclasses.replace(STAGE, train=train)
    assert other != STAGE and (key(other) == key()) == (name in objects.FREE_OF_TRAIN)


def test_what_is_around_the_stage_counts():
    flipped = frozen({"flip": True})
    others = [
        key(augmented=flipped),
        key(spec=SPEC.replace(augment_dim=9)),
        key(mesh=parallel.make_mesh(jax.devices()[:2])),
        key(own=("teacher",)),
    ]
    assert len({key(), *others}) == 5 and hash(key()) == hash(key())
    # A cache has the latents of flipped images: the program flips none.
    assert key(augmented=flipped, latents="cache") == key() != key(augmented=flipped)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(SPEC)])
def test_and_what_a_model_computes_but_not_what_is_said_of_it(name):
    """Of any role: `Networks.specs` has those of student and teacher."""
    given = OTHER_SPEC | SAID
    other = jobs.SPEC.replace(**{name: given[name]})
    assert other != jobs.SPEC
    apart = key(spec=other.defining()) != key()
    assert apart == (name in OTHER_SPEC)


@pytest.mark.parametrize("kept", [True, False])
def test_models_of_which_other_things_are_said_compute_the_same(kept):
    """The operations of a network, that of the defining fields and of another one."""
    other = jobs.SPEC.replace(**SAID)
    if not kept:
        other = other.replace(precondition=OTHER_SPEC["precondition"])
    assert (operations_of(other) == operations_of(SPEC)) == kept


def operations_of(spec):
    net, process = interop.build(spec)
    params = jax.eval_shape(net.init, jax.random.key(0))
    x_t, t, y = jnp.zeros((4, 1, 1, 2)), jnp.ones(4), jnp.arange(4)

    def noised(params):
        return net.apply(params, process.add_noise(x_t, x_t, t), t, y)

    return str(jax.make_jaxpr(noised)(params))


def test_a_program_reads_no_other_field_of_a_recipe():
    """Of the data, say, or the seed: what two jobs may differ in."""
    read = set()

    class Watched(Recipe):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    own = {f.name: getattr(job().recipe, f.name) for f in dataclasses.fields(Recipe)}
    watched = Watched(**own)
    read.clear()
    lines = steps_of(STAGE, watched)
    fields = read & own.keys()
    assert fields == {"augmented", "latents"} and lines == steps_of(STAGE)


def test_what_does_not_count_is_in_no_program():
    """Steps of stages that differ in all of that are the same, line by line."""
    several = {name: OTHER[name] for name in objects.FREE}
    train = STAGE.train._replace(**{n: OTHER_TRAIN[n] for n in objects.FREE_OF_TRAIN})
    other = dataclasses.replace(STAGE, **several, train=train)
    lines = steps_of(other)
    assert len(lines) > 100 and lines == steps_of(STAGE)
    rate = dataclasses.replace(STAGE, optim=frozen(dict(name="sgd", lr=0.2)))
    assert lines != steps_of(rate)


def steps_of(stage, recipe=None):
    """The operations of a step of the stage, one a line."""
    networks = build.Networks(toy.NETS, processes.cosine(), (SPEC,))
    about = dict(recipe=recipe or job().recipe, networks=networks, mesh=job().mesh)
    method, optim, programs = build.program({}, stage=stage, **about)
    given = {"student": toy.NETS["student"].init(jax.random.key(0))}
    state = init_state(method, optim, given, jax.random.key(1))
    batch = {k: toy.batch(0, 4)[k][None] for k in method.batch_keys}
    batch["x0"] = np.zeros(batch["x0"].shape, np.uint8)
    rest = one_student.stacked((toy.numbers(method), jax.random.key(0)))
    step = programs._one(method.phases)
    traced = jax.make_jaxpr(step)(state, {}, rest[0], batch, rest[1], np.int32(0))
    return str(traced).splitlines()


def test_one_that_is_held_is_given_again():
    held = {}
    networks = build.Networks(toy.NETS, processes.cosine(), (SPEC,))
    about = dict(held=held, recipe=job().recipe, networks=networks, mesh=job().mesh)
    one = build.program(stage=STAGE, **about)
    later = dataclasses.replace(STAGE, name="round_2")
    assert build.program(stage=later, **about) is one and len(held) == 1
    larger = dataclasses.replace(STAGE, train=STAGE.train._replace(batch_size=8))
    assert build.program(stage=larger, **about) is not one and len(held) == 2


def test_jobs_hold_programs_of_their_own():
    assert job().programs is not job().programs


def test_a_recipe_is_a_value():
    recipe = job().recipe
    assert hash(recipe) == hash(job().recipe) and recipe == job().recipe
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1  # pyright: ignore
    tree = {"a": [1, {"b": (2, 3)}], "c": None}
    assert thawed(frozen(tree)) == {"a": [1, {"b": [2, 3]}], "c": None}
    assert hash(frozen(tree)) == hash(frozen({"c": None, "a": [1, {"b": [2, 3]}]}))
