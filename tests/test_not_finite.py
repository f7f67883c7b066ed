"""A model that makes NaN ends every stage that asks it, and nothing of it stays."""

import drawn
import jax
import jax.numpy as jnp
import jobs
import numpy as np
import points
import pytest
import recipes

from kdiff_jax import interop, partition, recipe
from kdiff_jax.errors import NumericsError
from kdiff_jax.stages import grids
from kdiff_jax.stages.hooks import Log, Saver
from kdiff_jax.stages.roles import Roles
from kdiff_jax.stages.students import Students
from kdiff_jax.train import loop, parallel
from kdiff_jax.train.state import NetState, TrainState


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model folder whose parameters are all NaN."""
    spec = points.sections()["model"]
    net, _ = interop.build(spec)
    params = jax.tree.map(lambda x: np.full_like(x, np.nan), drawn.params(net))
    folder = tmp_path_factory.mktemp("teacher") / "model"
    return interop.save(folder, params=params, spec=spec)


@pytest.mark.parametrize(
    ("stage", "named"),
    [("pairs", "stage 'pairs', teacher="), ("evaluate", "models, 'teacher@2'")],
)
def test_of_pairs_and_of_an_evaluation(teacher, tmp_path, stage, named):
    recipes.load("digits_student", "tiny")
    from configs import common

    stages = dict(
        pairs=common.tiny_pairs(),
        evaluate=dict(kind="evaluate", models=("teacher@2",)),
    )
    config = common.config(
        "nan", order=tuple(stages), stages=stages, **points.sections()
    )
    config.init.teacher = str(teacher)
    with pytest.raises(NumericsError, match=f"{named}.*: image [0-9]+ is NaN"):
        recipe.run(config, tmp_path, only=stage, devices=jax.devices()[:1])
    left = {path.name for path in (tmp_path / stage).rglob("*") if path.is_file()}
    assert left <= {"pairs.json", "reference_pixels.npz", "reference_pixels.npz.crc"}


def test_a_teachers_pictures_are_no_matter_of_its_student(
    teacher, tmp_path, monkeypatch
):
    """They are made before the first step: no step of the student is set aside."""
    called = []
    monkeypatch.setattr(loop, "run", lambda *_, **__: called.append("a step"))
    monkeypatch.setattr(Saver, "go_back", lambda self: called.append("back") or "")
    from configs import common

    student = dict(
        method=dict(name="tsm"),
        optim=dict(lr=1e-3),
        train=dict(num_steps=2, batch_size=4),
    )
    config = common.config(
        "nan", order=("student",), stages=dict(student=student), **points.sections()
    )
    config.init.teacher = str(teacher)
    named = f"^stage 'student', teacher={teacher}: image 0 is NaN"
    with pytest.raises(NumericsError, match=named):
        recipe.run(config, tmp_path, devices=jax.devices()[:1])
    assert not called


def test_of_a_picture_during_training(teacher, tmp_path):
    model = interop.load(teacher)
    mesh = parallel.make_mesh(jax.devices()[:1])
    stage = jobs.training(train=dict(batch_size=20))
    log = Log(tmp_path / "log", "student", stage.train, first_step=0)
    hook = grids.of_stage(
        jobs.job([stage], tmp_path, mesh),
        stage,
        Roles({"student": model.net}, model.process, model.spec, {}, {}),
        Students(partition.ONE, (0,), mesh),
        log,
    )
    net = NetState(model.students, (), {})
    state = TrainState(jnp.int32(0), {"student": net}, {})
    with pytest.raises(NumericsError, match="stage 'student': image 0 is NaN"):
        hook(3, state)
    log.close()
    assert not (tmp_path / "student").exists()
