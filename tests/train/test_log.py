"""What a line of the log holds, and what stops a run there."""

import math

import jax.numpy as jnp
import pytest

from kdiff_jax.build.sections import Train
from kdiff_jax.errors import NumericsError
from kdiff_jax.report import metrics_log
from kdiff_jax.stages.hooks import Log

TRAIN = Train(num_steps=20, batch_size=8)


@pytest.fixture
def log(tmp_path):
    made = Log(tmp_path, "student", TRAIN, first_step=0)
    yield made
    made.close()


def test_a_line_has_the_means_of_the_phases_that_ran_since_the_last(log, tmp_path):
    for step in range(10):
        sums = {"disc/loss": [jnp.float32([step])]}
        if step % 5 == 0:
            sums["student/loss"] = [jnp.float32([10 + step])]
        log.observe(sums, 1)
    log(10, None)
    log.observe({"disc/loss": [jnp.float32([3])]}, 2)
    log(12, None)
    first, second = metrics_log.read(tmp_path / "metrics.jsonl")
    assert (first["disc/loss"], first["student/loss"]) == (4.5, 12.5)
    assert second["disc/loss"] == 1.5 and "student/loss" not in second


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_step_that_is_not_finite_stops_the_run_at_the_next_line(log, bad):
    for step in range(10):
        log.observe({"student/loss": [jnp.float32([bad if step == 3 else 1])]}, 1)
    with pytest.raises(NumericsError, match="steps 1 to 10: student/loss is (nan|inf)"):
        log(10, None)


def test_metrics_of_students_are_their_means_and_each(tmp_path):
    log = Log(
        tmp_path, "student", TRAIN, first_step=0, num_students=4, students=range(4)
    )
    rounds = [jnp.float32([1, 3]), jnp.float32([2, 4])]
    log.observe({"kd/loss": rounds}, 1)
    log.observe({"kd/loss": rounds}, 1)
    log(2, None)
    log.close()
    (line,) = metrics_log.read(tmp_path / "metrics.jsonl")
    assert line["kd/loss"] == 2.5
    assert [line[f"kd/loss/{k}"] for k in range(4)] == [1, 2, 3, 4]


def test_figures_have_lines_of_their_own_which_are_no_losses(tmp_path):
    log = Log(tmp_path, "student", TRAIN, first_step=0, late=True)
    log.observe({"student/loss": [jnp.float32([10])]}, 10)
    log(10, None)
    log.figures(10, {"fid_n9_ema": 3.0}, 0.5)  # the late line comes first
    log.close()
    loss, figure = metrics_log.read(tmp_path / "metrics.jsonl")
    assert loss["student/loss"] == 1 and figure.keys() == {
        *("step", "time", "fid_n9_ema", "figure_seconds")
    }
    again = Log(tmp_path, "student", TRAIN, first_step=10)
    assert again.seconds == loss["train_seconds"]
    assert again.has_figures(10, "_n9_ema") and not again.has_figures(10, "_n8_ema")
    again.close()


def test_a_late_line_is_read_when_the_next_one_is_due(tmp_path):
    """And is the same: so is what other hooks have added to it."""
    for late in (False, True):
        log = Log(tmp_path / str(late), "student", TRAIN, first_step=0, late=late)
        for step in range(0, 20, 5):
            log.observe({"student/loss": [jnp.float32([step])]}, 5)
            log.add(score=10.0 + step)
            log(step + 5, None)
            written = len(metrics_log.read(tmp_path / str(late) / "metrics.jsonl"))
            behind = late and step < 15
            assert written == step // 5 + 1 - behind
        log.close()
    now, later = (
        metrics_log.read(tmp_path / name / "metrics.jsonl")
        for name in ("False", "True")
    )
    for line, same in zip(now, later, strict=True):
        timed = ("train_seconds", "images_per_second", "time")
        assert {k: v for k, v in line.items() if k not in timed} == {
            k: v for k, v in same.items() if k not in timed
        }


def test_a_late_line_stops_the_run_and_is_written_by_one_that_stops(tmp_path):
    log = Log(tmp_path, "student", TRAIN, first_step=0, late=True)
    log.observe({"student/loss": [jnp.float32([math.nan])]}, 5)
    log(5, None)
    log.observe({"student/loss": [jnp.float32([1])]}, 5)
    with pytest.raises(NumericsError, match="steps 1 to 5: student/loss is nan"):
        log(10, None)
    log.close()
    assert [line["step"] for line in metrics_log.read(tmp_path / "metrics.jsonl")] == [
        *(5, 10)
    ]
