"""A run is read as it lies there: whole, half written, damaged, not yet, or none."""

import io
import os
import time

import numpy as np
import pytest
from rich.console import Console

from kdiff_jax import sealed
from kdiff_jax.build.stages import halvings
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.report import blocks, metrics_log, terminal, watched
from kdiff_jax.report.grid import save_png

CONFIG = {
    "name": "tiny",
    "order": ["teacher", "pairs", "student", "progressive", "evaluate"],
    "train": {"num_steps": 7},
    "stages": {
        "teacher": {"method": {"name": "denoise"}, "train": {"num_steps": 400}},
        "pairs": {"kind": "pairs", "num_pairs": 90, "shard_size": 40},
        "student": {"method": {"name": "dmd"}},
        "progressive": {
            "method": {"name": "progressive"},
            "rounds": {"start_steps": 8, "end_steps": 1, "last_train_steps": 30},
            "train": {"num_steps": 20},
        },
        "evaluate": {"kind": "evaluate"},
    },
}


def lines(num: int, every: int = 100):
    return [
        {"step": every * i, "time": 5.0 * i, "loss": 4.0 / i, "loss/0": 9.0}
        | {"images_per_second": 12.5, "train_seconds": 50.0 * i}
        for i in range(1, num + 1)
    ]


@pytest.fixture
def run(tmp_path):
    """A run whose teacher has finished, and whose student is at work."""
    sealed.write_json(tmp_path / "config.json", {"config": CONFIG})
    metrics_log.write(tmp_path / "teacher/metrics.jsonl", lines(4))
    sealed.write_json(tmp_path / "teacher/done.json", {"train_steps": 400})
    for k in range(2):
        shard = tmp_path / f"pairs/train/shard-{k:05d}"
        shard.mkdir(parents=True)
        (shard / "checksums.json").write_text("{}")
    figures = [{"step": 2, "fd_n9": 3.0, "figure_seconds": 1.0}]
    figures += [{"step": 4, "fd_n9": 5.0, "figure_seconds": 1.0}]
    metrics_log.write(tmp_path / "student/metrics.jsonl", [*lines(4, 1), *figures])
    (tmp_path / "student/checkpoints").mkdir()
    (tmp_path / ".lock").touch()
    age(tmp_path / "teacher", 90)
    age(tmp_path / "pairs", 60)
    return tmp_path


def age(folder, seconds):
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - seconds,) * 2)


def shown(found, width=100, **how):
    console = Console(file=io.StringIO(), width=width, height=50, **how)
    console.print(terminal.page(found, console))
    return console.file.getvalue()


def by_name(found):
    return {stage.name: stage for stage in found.stages}


def test_stages_steps_and_pace(run):
    found = watched.read(run)
    stages = by_name(found)
    rounds = ["progressive_4", "progressive_2", "progressive_1"]
    assert list(stages) == ["teacher", "pairs", "student", *rounds, "evaluate"]
    assert [s.num_steps for s in found.stages] == [400, 90, 7, 20, 30, 30, 7]
    assert [s.step for s in found.stages] == [400, 80, 4, 0, 0, 0, 0]
    assert [s.is_done for s in found.stages] == [True] + [False] * 6
    assert found.current is stages["student"] and found.lives and not found.is_done
    assert stages["student"].seconds_left == 150.0  # three steps of 50 s
    text = shown(found)
    assert "tiny  running" in text and "4/7" in text and "2m30s left" in text
    assert "400/400" in text and "in 3m20s" in text and "80/90" in text
    assert "loss/0" not in text and "fd_n9" in text and "best 3 at 2" in text


@pytest.mark.parametrize(("start", "end"), [(64, 1), (16, 4), (4, 2), (2, 1)])
@pytest.mark.parametrize("last", [None, 30])
def test_rounds_are_those_of_the_recipe(start, end, last):
    rounds = dict(start_steps=start, end_steps=end, last_train_steps=last)
    stages = {"kd": {"rounds": rounds, "train": {"num_steps": 20}}}
    planned = watched._planned({"order": ["kd"], "stages": stages})
    found = [(name, section["train"]["num_steps"]) for name, section in planned]
    expected = halvings(**rounds)
    assert found == [(f"kd_{steps}", train or 20) for steps, train in expected]


def test_a_run_that_nobody_works_in_says_so(run):
    age(run, 7300)
    text = shown(watched.read(run))
    assert "not running, wrote last 2h01m ago" in text and "left once it runs" in text


def test_a_finished_run_shows_its_report_and_picture(run):
    for stage in [*by_name(watched.read(run))][1:]:
        sealed.write_json(run / stage / "done.json", {})
    rows = [{"stage": "student", "nfe": 1, "metrics": {"fid": 3.25, "is": 9.0}}]
    sealed.write_json(run / "report.json", {"rows": rows})
    save_png(run / "samples.png", np.full((20, 40, 3), (255, 0, 0), np.uint8))
    found = watched.read(run)
    assert found.is_done and found.picture == run / "samples.png"
    text = shown(found)
    assert "tiny  done" in text and "fid" in text and "3.25" in text
    coloured = shown(found, force_terminal=True, color_system="truecolor")
    assert "38;2;255;0;0;48;2;255;0;0m▀" in coloured
    assert "▀" not in text and f"{run.name}/samples.png" in text


def test_the_newest_picture_of_the_stage_at_work(run):
    for step in (90, 100, 9):
        save_png(run / f"student/samples/{step}.png", np.zeros((4, 4, 3), np.uint8))
    assert by_name(watched.read(run))["student"].picture.name == "100.png"
    (run / "student/samples/100.png").write_bytes(b"\x89PNG half")
    console = Console(force_terminal=True, file=io.StringIO(), color_system="256")
    console.print(terminal.page(watched.read(run), console))
    assert "samples/100.png" in console.file.getvalue()


@pytest.mark.parametrize(
    "harm",
    [
        lambda run: (run / "student/metrics.jsonl").open("a").write('{"step": 5, "lo'),
        lambda run: (run / "student/metrics.jsonl").open("ab").write(b"\xff\x00{}\n"),
        lambda run: (run / "config.json").write_text("{"),
        lambda run: (run / "config.json").unlink(),
        lambda run: sealed.write_json(run / "config.json", {"config": [1]}),
        lambda run: sealed.write_json(run / "config.json", {"config": {"order": 3}}),
        lambda run: sealed.write_json(run / "report.json", {"rows": [None, {}]}),
        lambda run: (run / "report.json").write_text("[" * 10**5),
        lambda run: (run / ".lock").unlink(),
    ],
)
def test_what_is_torn_or_damaged_is_left_out(run, harm):
    harm(run)
    found = watched.read(run)
    assert by_name(found)["student"].step == 4 and "loss" in shown(found)


def test_metrics_that_are_not_finite_are_shown_as_such(tmp_path):
    several = [{"step": i, "loss": None, "kd/loss": v} for i, v in enumerate([1, None])]
    metrics_log.write(tmp_path / "metrics.jsonl", several)
    text = shown(watched.read(tmp_path))
    assert "not finite" in text and "nan" in text


def test_the_folder_of_one_stage(run):
    found = watched.read(run / "student")
    assert [stage.name for stage in found.stages] == ["student"] and found.lives


def test_jobs_of_one_student_each(run):
    metrics_log.write(run / "student/only_3/metrics.jsonl", lines(2, 1))
    assert by_name(watched.read(run))["student/only_3"].step == 2


def test_a_long_log_is_thinned_and_keeps_its_end_and_figures(tmp_path):
    several = lines(3000, 1)
    several[1001] = {"step": 1002, "fd_n9": 3.0, "figure_seconds": 1.0}
    metrics_log.write(tmp_path / "metrics.jsonl", several)
    (stage,) = watched.read(tmp_path).stages
    assert len(stage.lines) < 500 and stage.step == 3000
    assert [line["step"] for line in stage.figures] == [1002]


def test_nothing_there_yet(tmp_path):
    (tmp_path / ".lock").touch()
    assert watched.read(tmp_path) is None and watched.read(tmp_path / "no") is None


def test_what_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="is a file; name the workdir"):
        watched.read(tmp_path / "thesis.tex")
    with pytest.raises(ConfigError, match="no workdir of a run.*; name the folder"):
        watched.read(tmp_path)


def test_what_cannot_be_read(run, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(watched.os, "listdir", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\); let"):
        watched.read(run)


def test_letters_that_a_terminal_lacks_are_not_used(run):
    save_png(run / "student/samples/1.png", np.zeros((4, 4, 3), np.uint8))
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(file=file, width=80, force_terminal=True)
    console.print(terminal.page(watched.read(run), console))
    file.flush()
    assert b"4/7" in raw.getvalue() and b"loss" in raw.getvalue()


def test_all_of_it_fits_where_it_must(run):
    save_png(run / "student/samples/1.png", np.zeros((400, 400, 3), np.uint8))
    about = dict(width=90, force_terminal=True, color_system="truecolor")
    console = Console(file=io.StringIO(), height=40, **about)
    page = terminal.page(watched.read(run), console, fits=True)
    assert 30 < len(console.render_lines(page)) <= 40


def test_curves():
    assert blocks.curve([]) == ""
    assert blocks.curve([1.0, 1.0]) == "▁▁"
    assert blocks.curve([1.0, 2.0, float("nan"), 8.0]) == "▁▂ █"
    assert blocks.curve([1.0, 10.0, 100.0]) == "▁▅█"  # logarithmic
    assert len(blocks.curve([float(i) for i in range(1000)])) == 24
    assert blocks.curve([float("nan")] * 3) == "   "
