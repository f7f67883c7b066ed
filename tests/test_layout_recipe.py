"""A recipe whose state lies in parts: what it leaves, and where it resumes."""

import shutil

import jax
import numpy as np
import points
import pytest
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
