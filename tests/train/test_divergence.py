"""A run that diverges stops, and goes on from before."""

import logging

import jax
import numpy as np
import points
import pytest

from configs import common, digits
from kdiff_jax import build, recipe
from kdiff_jax.errors import Interrupted, NumericsError
from kdiff_jax.report import metrics_log
from kdiff_jax.train import loop
from kdiff_jax.train.divergence import Watch


def watched(values, *, last=False, **options):
    """The watch after lines 1, 2, ... with these losses, and where it gave up."""
    watch = Watch(**{"factor": 100.0, "lines": 3, **options})
    for step, value in enumerate(values, 1):
        watch.line(step, {"kd/loss": value})
        if watch.diverged(last and step == len(values)):
            return watch, step
    return watch, None


HEALTHY = {
    "falls by a factor of a million": list(np.geomspace(1e3, 1e-3, 60)),
    "a discriminator that wins and loses again": [0.7] * 10 + [1e-5] * 300 + [2.0] * 9,
    "two lines with a spike": [1.0] * 9 + [1e6, 1e6] + [1.0] * 9,
    "grows with the student of a GAN": list(np.linspace(0.7, 40, 50)),
    "sums over pixels": [2e5, 1e5, 9e4, 1.5e5, 1e4, 2e4],
    "begins at zero": [0.0] * 5 + [1e-7, 1e-3, 0.5, 3.0, 8.0, 2.0, 7.0],
    "changes its sign": [-3.0, 2.0, -8.0, 0.0, 5.0],
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_healthy_runs_do_is_no_divergence(name):
    assert watched(HEALTHY[name], last=True)[1] is None


def test_three_lines_in_turn_or_the_last_one_are_a_divergence():
    assert watched([1.0] * 9 + [1e4] * 5)[1] == 12
    assert watched([1.0] * 9 + [1e4], last=True)[1] == 10
    assert watched([1.0] * 9 + [1e4] * 5, factor=0.0)[1] is None
    assert watched([1.0] * 9 + [1e4] * 5, lines=1)[1] == 10
    # As lr = -1 does it: no line is far above the one before.
    assert watched([float(k) ** 12 for k in range(1, 60)])[1] is not None


def test_the_first_step_is_what_a_first_line_is_compared_with():
    watch = Watch(factor=100.0, lines=3)
    watch.begin({"kd/loss": 2.0})
    watch.line(100, {"kd/loss": 1e9})
    assert watch.diverged(last=True) and "kd/loss is 1e+09, and was 2" in watch.what


def test_one_student_of_many_is_watched_as_all_are():
    """The mean of a hundred hides a factor of a hundred in one of them."""
    watch = Watch(factor=100.0, lines=3)
    for step in range(1, 7):
        one = 1.0 if step < 4 else 300.0
        watch.line(step, {"kd/loss": 1 + one / 100, "kd/loss/7": one})
    assert watch.diverged(last=False) and watch.what.startswith("kd/loss/7 is 300")


def test_a_step_is_good_once_healthy_lines_have_followed():
    watch, _ = watched([1.0] * 3)
    assert (watch.confirmed, watch.healthy) == (0, 3)
    watch, _ = watched([1.0] * 9)
    assert (watch.confirmed, watch.healthy) == (6, 9)
    watch, _ = watched([1.0] * 9 + [1e4, 1e4])
    assert (watch.confirmed, watch.healthy, watch.num_spikes) == (6, 9, 2)
    watch, _ = watched([1.0] * 9 + [1e4, 1e4, 1.0])
    assert (watch.confirmed, watch.healthy, watch.num_spikes) == (6, 12, 0)


def test_a_run_that_resumes_goes_on_watching():
    values = [1.0] * 9 + [1e4, 1e4]
    whole, _ = watched(values)
    lines = [{"step": k, "kd/loss": v} for k, v in enumerate(values, 1)]
    lines[9]["spikes"], lines[10]["spikes"] = 1, 2
    resumed = Watch(factor=100.0, lines=3, before=lines)
    facts = [(w.confirmed, w.healthy, w.num_spikes) for w in (whole, resumed)]
    assert facts[0] == facts[1]
    resumed.line(12, {"kd/loss": 1e4})
    assert resumed.diverged(last=False)


def config(lr, **train):
    """A teacher of points in the plane."""
    sections = points.sections()
    teacher = digits.teacher(tiny=True)
    teacher["train"] = dict(num_steps=40, batch_size=8)
    teacher["optim"] = dict(lr=lr, ema_decay=0.5)
    sections["train"] = dict(log_every=2, save_every=4, sample_every=1000) | train
    return common.config(
        "points", order=("teacher",), stages=dict(teacher=teacher), **sections
    )


def run(found, workdir, **keywords):
    recipe.run(build.plain(found), workdir, devices=jax.devices()[:1], **keywords)


def saved(workdir):
    folder = workdir / "teacher" / "checkpoints"
    names = sorted(p.name for p in folder.iterdir())
    return sorted(int(n) for n in names if n.isdigit()), [
        n for n in names if not n.isdigit()
    ]


@pytest.mark.parametrize(("lr", "log_every"), [(30.0, 2), (1e6, 100), (1e30, 2)])
def test_from_the_start_nothing_is_kept_and_nothing_else_is_said(
    lr, log_every, tmp_path
):
    with pytest.raises(NumericsError) as caught:
        run(config(lr, log_every=log_every), tmp_path)
    text = str(caught.value)
    assert "no step is kept" in text and "the same command begins anew" in text
    assert "intact" not in text and "\n" not in text and caught.value.exit_code == 5
    assert "Lower --config.stages.teacher.optim.lr or set" in text
    steps, aside = saved(tmp_path)
    assert steps == [] and not (tmp_path / "teacher" / "done.json").exists()
    assert all(name.startswith("diverged_") for name in aside)
    # It says what is true: the next run begins anew, and with another rate it ends.
    run(config(1e-3), tmp_path, force=True)
    assert metrics_log.read(tmp_path / "teacher" / "metrics.jsonl")[0]["step"] == 2


def test_a_step_from_before_is_kept_and_the_same_command_resumes_there(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(loop, "_should_stop", lambda step, num: step == 20)
    with pytest.raises(Interrupted):
        run(config(1e-3), tmp_path)
    monkeypatch.undo()
    # Lines 16 to 20 are healthy: what was saved up to 14 is known to be good.
    assert saved(tmp_path)[0] == [12, 16, 20]
    with pytest.raises(NumericsError, match="step 12, from before, is kept"):
        run(config(30.0), tmp_path, force=True)
    steps, aside = saved(tmp_path)
    assert steps == [12]
    # The two newest, and the one that might have been good next.
    assert aside == ["diverged_16_0", "diverged_20_0", "diverged_24_0"]
    with pytest.raises(NumericsError, match="step 12, from before, is kept"):
        run(config(30.0), tmp_path, force=True)
    again = saved(tmp_path)
    # Again, and no more of them: those of the attempt before are gone.
    assert again[0] == [12] and len(again[1]) <= 3
    with caplog.at_level(logging.INFO):
        run(config(1e-3), tmp_path, force=True)
    assert "resumes at step 12" in caplog.text
    lines = metrics_log.read(tmp_path / "teacher" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(2, 41, 2))
    assert max(line["denoise/loss"] for line in lines) < 100
