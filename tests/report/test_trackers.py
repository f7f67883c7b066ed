"""What trackers get, by packages that stand in for them; and what never happens."""

import json
import logging

import jax.numpy as jnp
import numpy as np
import points
import pytest

from kdiff_jax import recipe
from kdiff_jax.build import plain
from kdiff_jax.build.sections import Train
from kdiff_jax.errors import ConfigError
from kdiff_jax.report import metrics_log, trackers
from kdiff_jax.report.trackers import Tracker
from kdiff_jax.stages.hooks import Log

FAKE = '''
"""Writes what it is told beside itself, and asks on the terminal as W&B does."""

import json, os, pathlib

FILE = pathlib.Path(__file__).with_suffix(".log")


def tell(**said):
    with FILE.open("a") as file:
        file.write(json.dumps(said, default=str) + "\\n")


class Settings(dict):
    def __init__(self, **values):
        super().__init__(values)


class Image:
    def __init__(self, array):
        self.array = array

    def __str__(self):
        return f"image {self.array.shape}"


class Run:
    def define_metric(self, *names, **how):
        pass

    def log(self, values, step=None):
        if "bad" in values:
            raise ConnectionError("the server\\nis gone")
        tell(log=values, step=step)

    def finish(self):
        tell(finish=True)


def init(**about):
    print("wandb: (1) Create an account. Enter your choice:")
    if about.get("mode") in (None, "online") and os.environ.get("UNREACHABLE"):
        raise TimeoutError("no route")
    tell(init=about)
    return Run()
'''
CONFIG = {"name": "tiny", "seed": 3}


@pytest.fixture(params=trackers.NAMES)
def fake(request, tmp_path, monkeypatch):
    """(name of a tracker that is there, what it was told)."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / f"{request.param}.py").write_text(FAKE)
    monkeypatch.syspath_prepend(packages)
    monkeypatch.delitem(trackers.importlib.sys.modules, request.param, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    yield request.param, lambda: read(packages / f"{request.param}.log")
    trackers.importlib.sys.modules.pop(request.param, None)


def read(path):
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def init(told):
    return [one["init"] for one in told if "init" in one]


def test_the_log_of_a_stage_goes_there_too(fake, tmp_path, capsys):
    name, told = fake
    train = Train(num_steps=4, batch_size=2, tracker=name)
    log = Log(tmp_path / "w/student", "student", train, first_step=0, config=CONFIG)
    log.observe({"student/loss": [jnp.float32([6])]}, 2)
    log(2, None)
    log.figures(2, {"fid": 3.0}, 0.5)
    log.image(2, "samples", np.zeros((4, 5, 3), np.uint8))
    log.close()
    begun, *lines, end = told()
    assert begun["init"]["project"] == "tiny" and begun["init"]["config"] == CONFIG
    assert begun["init"]["group"] == "w" and end == {"finish": True}
    assert begun["init"]["name"].startswith("w/student")
    values = [line["log"] for line in lines]
    steps = [v.pop("step", line["step"]) for v, line in zip(values, lines, strict=True)]
    assert steps == [2, 2, 2]
    assert values[0]["student/loss"] == 3.0 and values[1] == {"fid": 3.0}
    assert values[2] == {"samples": "image (4, 5, 3)"}
    assert "Enter your choice" not in capsys.readouterr().out


def test_a_resumed_stage_goes_on_in_its_run(fake, tmp_path):
    name, told = fake
    for folder in ("student", "student", "other"):
        Tracker(name, tmp_path / "w" / folder, config=CONFIG).close()
    key = {"wandb": "id", "trackio": "name"}[name]
    one, again, other = (about[key] for about in init(told()))
    assert one == again != other
    assert {about["resume"] for about in init(told())} == {"allow"}


def test_what_fails_there_is_a_line_and_the_training_goes_on(fake, tmp_path, caplog):
    name, told = fake
    tracker = Tracker(name, tmp_path / "w/student", config=CONFIG)
    for step in range(3):
        tracker.scalars(step, {"bad": 1.0})
    tracker.image(3, "samples", np.zeros((4, 4, 1), np.uint8))
    tracker.close()
    (line,) = [one.getMessage() for one in caplog.records if "stopped" in one.message]
    assert line.startswith(
        f"train.tracker={name}: stopped (ConnectionError: the server"
    )
    assert "\n" not in line and "finish" not in str(told())


def test_grey_pictures_are_made_colour(fake, tmp_path):
    name, told = fake
    tracker = Tracker(name, tmp_path / "w/student", config=CONFIG)
    tracker.image(1, "samples", np.zeros((4, 5, 1), np.uint8))
    assert "image (4, 5, 3)" in str(told())


def test_none_writes_nothing(tmp_path):
    tracker = Tracker("", tmp_path / "w/student", config=CONFIG)
    tracker.scalars(1, {"loss": 1.0})
    tracker.image(1, "samples", np.zeros((4, 4, 1), np.uint8))
    tracker.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fake", ["wandb"], indirect=True)
@pytest.mark.parametrize(
    ("environment", "modes"),
    [
        ({}, ["offline"]),  # it would ask for a login
        ({"WANDB_MODE": "offline"}, ["offline"]),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}, ["disabled"]),
        ({"WANDB_API_KEY": "k"}, [None]),
        ({"WANDB_API_KEY": "k", "UNREACHABLE": "1"}, ["offline"]),
    ],
)
def test_wandb_is_offline_where_it_must_be(
    fake, tmp_path, monkeypatch, environment, modes, caplog
):
    caplog.set_level(logging.INFO, "kdiff_jax")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    trackers.check("train.tracker", "wandb")
    Tracker("wandb", tmp_path / "w/student", config=CONFIG).close()
    assert [about["mode"] for about in init(fake[1]())] == modes
    told = environment in ({}, {"WANDB_API_KEY": "k", "UNREACHABLE": "1"})
    assert ("offline" in caplog.text) == told


@pytest.mark.parametrize("fake", ["wandb"], indirect=True)
def test_a_key_of_the_netrc_counts_and_online_without_one_is_refused(
    fake, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(
        ConfigError, match="no key; set WANDB_API_KEY or WANDB_MODE=off"
    ):
        trackers.check("train.tracker", "wandb")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password k")
    trackers.check("train.tracker", "wandb")


def test_a_package_that_is_missing_is_refused_before_anything_is_trained(
    tmp_path, monkeypatch
):
    there = trackers.importlib.util.find_spec
    lacks = lambda name: None if name in trackers.NAMES else there(name)  # noqa: E731
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lacks)
    config = plain(points.config())
    config["stages"]["student"]["train"]["tracker"] = "trackio"
    message = r"--config.stages.student.train.tracker=trackio: .*; pip install trackio"
    with pytest.raises(ConfigError, match=message):
        recipe.make_job(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_another_name_is_refused(tmp_path):
    config = plain(points.config())
    config["train"]["tracker"] = "mlflow"
    with pytest.raises(
        ConfigError, match="tracker=mlflow: choose one of .*wandb, trackio"
    ):
        recipe.make_job(config, tmp_path / "w")


def test_metrics_stay_where_they_are(fake, tmp_path):
    train = Train(num_steps=4, batch_size=2, tracker=fake[0])
    log = Log(tmp_path / "w/s", "s", train, first_step=0, config=CONFIG)
    log.observe({"bad": [jnp.float32([6])]}, 2)
    log(2, None)
    log.close()
    assert metrics_log.read(tmp_path / "w/s/metrics.jsonl")[0]["bad"] == 3.0
