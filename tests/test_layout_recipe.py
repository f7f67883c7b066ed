"""A recipe whose state lies in parts: what it leaves, and where it resumes."""

import shutil

import jax
import numpy as np
import points
import pytest
from commands import everything
from jax.sharding import PartitionSpec as P
from tolerance import REORDER

from configs import common, digits
from kdiff_jax import interop, plan, recipe
from kdiff_jax.train import layout, loop


def config(name):
    teacher = digits.teacher(tiny=True)
    teacher["optim"] |= points.OPTIM
    train = dict(log_every=2, sample_every=2, save_every=2, layout=name)
    return common.config(
        "layout",
        order=("teacher",),
        stages=dict(teacher=teacher),
        train=train,
        **points.sections(),
    )


def run(name, workdir, num_devices):
    recipe.run(config(name), workdir, devices=jax.devices()[:num_devices])
    return interop.load(workdir / "teacher").params


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory):
    """(workdir, params) of a run on four devices, with leaves of a small network."""
    begun, run_loop = [], loop.run

    def watched(programs, state, **keywords):
        begun.append(state.nets["student"].params["dense_0"]["kernel"].sharding.spec)
        return run_loop(programs, state, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "SMALLEST", 16)
        patch.setattr(loop, "run", watched)
        workdir = tmp_path_factory.mktemp("in_parts")
        params = run("zero1", workdir, 4)
    assert begun == [P("student", None, "data")]
    return workdir, params


def test_a_run_resumes_in_another_layout_on_other_devices(in_parts, tmp_path):
    """And all three ways leave the same, as what differs is the rounding alone."""
    workdir, params = in_parts
    resumed = shutil.copytree(workdir, tmp_path / "resumed")
    shutil.rmtree(resumed / "teacher" / "checkpoints" / "4")
    shutil.rmtree(resumed / "teacher" / "model")
    (resumed / "teacher" / "done.json").unlink()
    half = run("replicated", resumed, 2)
    whole = run("replicated", tmp_path / "whole", 2)
    for found in (half, params):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, **REORDER), found, whole
        )


def test_a_step_of_a_run_in_parts_is_read_as_any_other(in_parts):
    workdir, params = in_parts
    folder = workdir / "teacher" / "checkpoints" / "4"
    found = interop.load(folder).params
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert (workdir / "teacher" / "samples" / "2.png").is_file()


def test_the_plan_says_what_part_of_the_state_a_device_has(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "SMALLEST", 16)
    job = recipe.make_job(config("zero1"), tmp_path, devices=jax.devices()[:4])
    (stage,) = job.stages
    needs = plan.needs(job, stage)
    assert needs.saved // 4 < needs.held.state < needs.saved // 2
    (line,) = (x for x in plan.text(job).splitlines() if x.startswith("  teacher: "))
    state, saved = needs.held.state / 1e3, needs.saved / 1e3
    assert f"{state:.3g} KB of it state, a part of {saved:.3g} KB on 4" in line


@pytest.mark.slow  # pairs and their student are two programs more
def test_the_best_average_is_found_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "SMALLEST", 16)
    found = []
    for name in ("replicated", "zero1"):
        several = everything.get_config("4").unlock()
        several.order = ("teacher", "pairs", "student")
        several.train.layout = name
        for stage in ("teacher", "student"):
            several.stages[stage].optim.update(points.OPTIM)
        several.stages.student.train.validate_every = 2
        recipe.run(several, tmp_path / name, devices=jax.devices()[:4])
        found.append(interop.load(tmp_path / name / "student").params)
    assert (tmp_path / "zero1" / "student" / "best.safetensors").is_file()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, **REORDER), *found)


@pytest.mark.slow
def test_students_trained_apart_in_parts_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "SMALLEST", 16)

    def start(name, workdir, **only):
        several = points.config(**only).unlock()
        several.train.layout = name
        several.order = ("teacher", "student")
        recipe.run(several, workdir, devices=jax.devices()[:4])
        folder = workdir / "student"
        return interop.load(folder / f"only_{only['only']}" if only else folder)

    together = start("replicated", tmp_path / "together").params
    shutil.copytree(tmp_path / "together" / "teacher", tmp_path / "apart" / "teacher")
    alone = [start("zero1", tmp_path / "apart", only=k).params for k in (0, 1)]
    joined = start("zero1", tmp_path / "apart")
    for k, own in enumerate(alone):
        jax.tree.map(np.testing.assert_array_equal, joined.student(k).params, own)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, **REORDER),
        *(together, joined.params),
    )
