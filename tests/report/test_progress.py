"""Progress: plain lines in a log, a bar on a terminal, time left by an own clock."""

import io
import logging
import sys

import pytest

from kdiff_jax import start
from kdiff_jax.report.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def _run(stream, *, start=0):
    """Ten steps a call: 20 s for the first, which compiles, then 2 s and 4 s."""
    times = iter([0.0, 20.0, 22.0, 26.0])
    progress = Progress(
        "teacher",
        num_steps=100,
        batch_size=64,
        step=start,
        stream=stream,
        clock=lambda: next(times),
    )
    found = []
    for loss in (0.5, 0.25, 0.125):
        for _ in range(10):
            progress.advance()
        found.append(progress.log({"grad_norm": 9.0, "student/loss": loss}))
    progress.close()
    return found


def test_a_log_gets_one_plain_line_a_call():
    stream = io.StringIO()
    _run(stream)
    assert stream.getvalue().splitlines() == [
        "teacher  10/100  student/loss 0.5  32 images/s  3m00s left",
        "teacher  20/100  student/loss 0.25  320 images/s  16s left",
        "teacher  30/100  student/loss 0.125  160 images/s  21s left",
    ]
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_the_rate_goes_to_the_metrics_log():
    found = _run(io.StringIO(), start=50)
    assert found[-1] == {"images": 80 * 64, "images_per_second": 160}


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    _run(stream)
    assert "30/100  student/loss 0.125  160 images/s  21s left" in stream.getvalue()
    assert "━" in stream.getvalue()


def test_a_line_of_the_log_stands_above_the_bar(monkeypatch):
    """And not behind it: the logs begin before there is a bar."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    handler, terminal = start.ToStderr(), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("teacher", num_steps=100, batch_size=64)
    try:
        handler.emit(logging.makeLogRecord(dict(msg="compiling the step")))
    finally:
        progress.close()
    assert "\x1b[2Kcompiling the step\n" in terminal.getvalue()


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0s"),
        (59.6, "1m00s"),
        (125, "2m05s"),
        (3720, "1h02m"),
        (360_000, "100h00m"),
        (float("inf"), "?"),
        (float("nan"), "?"),
    ],
)
def test_durations_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text


def test_a_line_without_metrics_or_time_is_no_error():
    stream = io.StringIO()
    progress = Progress(
        "pairs", num_steps=5, batch_size=2, stream=stream, clock=lambda: 1.0
    )
    progress.log({})
    assert stream.getvalue() == "pairs  0/5  0 images/s  ? left\n"
