"""Out of memory: the line names the option that says how many images are at once."""

import types

import drawn
import jax
import jobs
import numpy as np
import points
import pytest
import recipes

from kdiff_jax import command, interop, memory, partition, recipe, storage
from kdiff_jax.errors import ConfigError
from kdiff_jax.stages import grids
from kdiff_jax.stages.hooks import Log
from kdiff_jax.stages.roles import Roles
from kdiff_jax.stages.students import Students
from kdiff_jax.train import generate, parallel

FULL = "RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\n[tf-allocator]"


@pytest.fixture
def model():
    spec = interop.Spec.of(points.sections()["model"])
    net, process = interop.build(spec)
    params = jax.tree.map(np.zeros_like, drawn.params(net))
    return interop.Model(net, params, process, spec)


@pytest.fixture
def full(monkeypatch):
    """A device in which no batch of images fits."""

    def program(*_):
        raise RuntimeError(FULL)

    monkeypatch.setattr(generate.Generator, "program", program)


def refused(act) -> str:
    with pytest.raises(ConfigError) as caught:
        act()
    line = str(caught.value)
    assert "\n" not in line and "train.batch_size" not in line.partition("=")[2]
    return line


def test_samples_name_the_option_of_their_command(model, full):
    mesh = parallel.make_mesh(jax.devices()[:2])
    make = generate.of_model(model, model.sampler(), mesh=mesh, name="--checkpoint=x")
    about = dict(seed=0, labels=np.zeros(9, np.int32))
    line = refused(lambda: make.images(model.students, batch_size=5, **about))
    assert line.startswith("--batch_size=6: out of memory; lower it, --checkpoint=x")
    assert "99 bytes" in line
    line = refused(lambda: make.images(model.students, batch_size=1, **about))
    assert "does not fit: take a larger device" in line


@pytest.mark.parametrize(
    ("stage", "start"),
    [
        ("pairs", "--config.stages.pairs.batch_size=8: out of memory; lower it"),
        ("evaluate", "--config.evaluate.batch_size=20: out of memory; lower it"),
    ],
)
def test_stages_name_their_own_batch(model, full, tmp_path, stage, start):
    recipes.load("digits_student", "tiny")
    from configs import common

    folder = interop.save(tmp_path / "t", params=model.params, spec=model.spec)
    stages = dict(
        pairs=common.tiny_pairs() | dict(batch_size=8),
        evaluate=dict(kind="evaluate", models=("teacher@2",)),
    )
    config = common.config(
        "full", order=tuple(stages), stages=stages, **points.sections()
    )
    config.init.teacher = str(folder)
    run = dict(only=stage, devices=jax.devices()[:1])
    line = refused(lambda: recipe.run(config, tmp_path / "w", **run))
    assert line.startswith(start)


def test_pictures_during_training_are_no_larger_than_its_batches(model, full, tmp_path):
    mesh = parallel.make_mesh(jax.devices()[:1])
    stage = jobs.training(init={"teacher": "t"}, train=dict(spike_factor=0.0))
    log = Log(tmp_path, "student", stage.train, first_step=0)
    hook = grids.of_stage(
        jobs.job([stage], tmp_path, mesh),
        stage,
        Roles(
            {"student": model.net}, model.process, model.spec, {"teacher": model}, {}
        ),
        Students(partition.ONE, (0,), mesh),
        log,
    )
    with pytest.raises(
        ConfigError, match="^--config.stages.student.train.batch_size=4"
    ):
        hook.begin()
    log.close()


def test_elsewhere_the_command_says_what_it_has(monkeypatch):
    error = RuntimeError(FULL)
    for options, words in (({}, "lower --batch_size"), ({"config": 0}, "microbatches")):
        known = types.SimpleNamespace(FLAGS=options)
        monkeypatch.setattr(command, "flags", known)
        line, code = command._line(error)
        assert line.startswith("out of memory: ") and words in line and code == 2
    assert memory.is_out(MemoryError())
    full_disk = RuntimeError("RESOURCE_EXHAUSTED: /x: No space left on device")
    assert not memory.is_out(full_disk) and storage.error_of(full_disk)
