"""The metrics log: each step once, valid JSON, nothing lost but a torn line."""

import itertools
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax import sealed
from kdiff_jax.files import json_text, write_atomically
from kdiff_jax.report import metrics_log
from kdiff_jax.report.metrics_log import MetricsLog


def _write(path, steps, *, start=0, loss=1.0):
    log = MetricsLog(path, step=start, clock=lambda: 12.5)
    for step in steps:
        log.write(step, {"loss": loss})
    log.close()


def test_a_line_holds_step_time_and_every_metric(tmp_path):
    path = tmp_path / "teacher" / "metrics.jsonl"
    log = MetricsLog(path, clock=lambda: 12.5)
    log.write(10, {"student/loss": jnp.float32(0.5), "images": np.int64(640)})
    # Flushed at once: a killed run keeps it.
    assert sealed.parse(path.read_text()) == {
        "step": 10,
        "time": 12.5,
        "student/loss": 0.5,
        "images": 640,
    }
    log.close()


def test_a_resumed_run_has_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    _write(path, range(10, 60, 10), loss=1.0)
    _write(path, range(40, 80, 10), start=30, loss=2.0)
    lines = metrics_log.read(path)
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60, 70]
    assert [line["loss"] for line in lines] == [1, 1, 1, 2, 2, 2, 2]
    _write(path, [10])
    assert [line["step"] for line in metrics_log.read(path)] == [10]


def test_a_damaged_line_is_left_out_and_counted(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    _write(path, [10, 20, 30])
    path.write_text(path.read_text().replace('"loss": 1.0', '"loss": 3.0', 1))
    assert [line["step"] for line in metrics_log.read(path)] == [20, 30]
    assert "1 damaged lines are left out" in caplog.text
    caplog.clear()
    _write(path, [10, 20])
    path.write_text(path.read_text().replace('"step": 20', '"step": 21'))
    assert [line["step"] for line in metrics_log.read(path)] == [10]
    assert "1 damaged lines are left out" in caplog.text  # the last one, too
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": "2"}\n[]\n{"step": 3}\n')
    assert [line["step"] for line in metrics_log.read(path)] == [1, 3]  # of before


def test_every_torn_end_is_survived(tmp_path):
    path = tmp_path / "metrics.jsonl"
    _write(path, [10, 20])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        _write(path, [20, 30], start=10)
        steps = [
            line["step"] for line in map(json.loads, path.read_text().splitlines())
        ]
        assert steps == [10, 20, 30]


def test_a_whole_line_that_lacks_its_end_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "time": 0.0}')
    _write(path, [20], start=10)
    assert [line["step"] for line in metrics_log.read(path)] == [10, 20]


def test_a_torn_end_is_not_read_while_the_run_is_dead(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "time": 0.0}\n{"step": 2, "ti')
    assert [line["step"] for line in metrics_log.read(path)] == [1]
    assert metrics_log.read(tmp_path / "none.jsonl") == []


def test_nan_is_valid_json_and_reads_as_nan(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step, value in enumerate([math.nan, math.inf, jnp.float32("nan")]):
        _write(path, [step], start=step - 1, loss=value)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    for text in path.read_text().splitlines():
        assert json.loads(text, parse_constant=refuse)["loss"] is None
    assert all(math.isnan(line["loss"]) for line in metrics_log.read(path))


def test_json_of_arrays_and_numbers_of_any_library():
    tree = {
        "a": (np.float64(0.5), jnp.bfloat16(1.5), np.bool_(True), None),
        1: jnp.arange(2),
        "b": np.array([np.nan, 1]),
    }
    wanted = {"a": [0.5, 1.5, True, None], "1": [0, 1], "b": [None, 1]}
    assert json.loads(json_text(tree)) == wanted
    with pytest.raises(TypeError, match="JSON holds numbers"):
        json_text({"a": object()})


def test_an_interrupted_write_leaves_the_former_file(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_atomically(path, "old")

    def crash(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("kdiff_jax.files.os.fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_tensorboard_gets_scalars_and_images(tmp_path):
    from kdiff_jax.report.tensorboard import TensorBoard

    board = TensorBoard(tmp_path, step=0)
    board.scalars(10, {"loss": jnp.float32(0.5)})
    board.image(10, "samples", np.zeros((4, 4, 1), np.uint8))
    board.close()
    (events,) = itertools.islice(tmp_path.iterdir(), 2)
    assert b"loss" in events.read_bytes() and b"samples" in events.read_bytes()
