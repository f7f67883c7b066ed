"""`report.json` as scripts know it, and its tables."""

import json
import math

import pytest

from kdiff_jax.report import summary


def row(**changes):
    base = {
        "stage": "teacher",
        "role": "teacher",
        "method": "denoise",
        "sampler": "ddim",
        "sampler_options": {"num_steps": 4},
        "nfe": 64,
        "num_params": 426_123,
        "num_students": 1,
        "num_params_total": 426_123,
        "precision": "float32",
        "macs": 5_678_900,
        "num_images": 1797,
        "seed": 0,
        "metrics": {"fd_pixels": 0.18432},
        "groups": {},
        "features": {"name": "pixels"},
        "compared_with": {"num_images": 1797},
        "images_per_second": 93.21,
        "latency_ms": 12.345,
        "train_steps": 2500,
        "train_seconds": 145.3,
        "average": "ema",
    }
    return {**base, **changes}


STUDENT = row(
    stage="round_1",
    role="student",
    method="progressive|x",
    nfe=1,
    metrics={"fd_pixels": math.nan, "accuracy": 0.99},
    images_per_second=5310.2,
    train_seconds=None,
)


def test_a_row_is_said_in_a_line():
    speed = "93.21 images/s, one alone in 12.35 ms"
    assert summary.said(row()) == f"fd_pixels 0.1843 of 1,797 images; {speed}"
    assert summary.said(row(images_per_second=None, metrics={"fd": 1.5, "kd": 2})) == (
        "fd 1.5, kd 2 of 1,797 images"
    )
    bare = row(images_per_second=None, metrics={})
    assert summary.said(bare) == "no figure of 1,797 images (none asked for)"
    assert summary.said(bare, "inception") == (
        "no figure of 1,797 images (the weights of inception are missing)"
    )


def test_the_file_has_the_schema_that_scripts_rely_on(tmp_path):
    path = tmp_path / "report.json"
    summary.write(path, summary.make_report("digits_student", [row(), STUDENT]))
    report = json.loads(path.read_text(), parse_constant=lambda name: 1 / 0)
    assert sorted(report) == ["config", "digest", "hardware", "rows", "versions"]
    assert report["config"] == "digits_student"
    assert list(report["rows"][0]) == [
        "stage",
        "role",
        "method",
        "sampler",
        "sampler_options",
        "nfe",
        "num_params",
        "num_students",
        "num_params_total",
        "precision",
        "macs",
        "num_images",
        "seed",
        "metrics",
        "groups",
        "features",
        "compared_with",
        "images_per_second",
        "latency_ms",
        "train_steps",
        "train_seconds",
        "average",
    ]
    assert report["rows"][0] == row()
    assert report["rows"][1]["metrics"] == {"fd_pixels": None, "accuracy": 0.99}
    assert report["hardware"]["num_devices"] == 8  # the suite's pretend devices
    assert {"python", "jax", "flax", "optax"} <= set(report["versions"])
    del report["digest"]
    assert summary.read(path) == report


def test_the_terminal_table():
    text = summary.text_table([row(), STUDENT]).splitlines()
    cells = [line.split() for line in text]
    assert cells[0][:7] == "stage role method sampler nfe fd_pixels accuracy".split()
    # No accuracy was measured of the teacher.
    assert cells[2][4:8] == ["64", "0.1843", "93.21", "12.35"]
    assert cells[2][8:10] == ["5,678,900", "426,123"]
    assert cells[3][4:8] == ["1", "nan", "0.99", "5,310"]
    assert cells[2][-1] == "2m25s" and cells[3][-1] == "2,500"
    # Numbers end where their heads end.
    ends = [
        line.index(part) + len(part)
        for line, part in zip(
            (text[0], text[2], text[3]), ("fd_pixels", "0.1843", "nan"), strict=True
        )
    ]
    assert len(set(ends)) == 1


def test_what_was_not_measured_stays_empty():
    """Images per second, ms, MACs, parameters, images, train steps, train time."""
    bare = row(images_per_second=None, num_images=None, train_steps=None)
    assert summary.table([bare])[1][-5:] == ["5,678,900", "426,123", "", "", "2m25s"]
    assert summary.table([bare])[1][-7] == ""


def test_students_are_counted_where_there_are_several():
    many = row(num_students=4, num_params_total=4 * 426_123)
    head, one, four = summary.table([row(), many])
    place = head.index("students")
    assert head[place - 1 : place + 2] == ["parameters", "students", "all students'"]
    assert one[place - 1 : place + 2] == ["426,123", "1", "426,123"]
    assert four[place - 1 : place + 2] == ["426,123", "4", "1,704,492"]
    assert "students" not in summary.table([row()])[0]


def test_a_report_of_before_a_column_existed_is_still_read():
    added = ("num_students", "num_params_total", "macs", "latency_ms", "precision")
    old = {name: value for name, value in row().items() if name not in added}
    head, cells = summary.table([old])
    assert cells[head.index("MACs")] == "" and cells[head.index("images")] == "1,797"


def test_the_table_is_the_same_before_and_after_the_file(tmp_path):
    rows = [row(), STUDENT]
    summary.write(tmp_path / "r.json", summary.make_report("c", rows))
    read = summary.read(tmp_path / "r.json")["rows"]
    assert summary.text_table(read) == summary.text_table(rows)


def test_the_markdown_table():
    lines = summary.markdown_table([row(), STUDENT]).splitlines()
    assert lines[1].startswith("| --- | --- | --- | --- | ---: |")
    assert lines[3].startswith(
        "| round_1 | student | progressive\\|x | ddim | 1 | nan |"
    )
    assert {line.replace("\\|", "").count("|") for line in lines} == {15}


def test_a_row_may_hold_more_that_rows_of_before_do_not():
    full = row(timing={"batch_size": 250}, measured={"time": "now"}, partition=None)
    rows = summary.make_report("c", [row(), full])["rows"]
    assert rows == [row(), full]
    assert summary.is_whole(row()) and summary.is_whole(full)
    assert not summary.is_whole(row(fid=1.0)) and not summary.is_whole({"role": "x"})


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "nan"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (0.0, "0"),
        (1234567, "1,234,567"),
        (0.000123456, "0.0001235"),
        (12345.6, "12,346"),
        (-3.21987, "-3.22"),
        ("", ""),
    ],
)
def test_numbers_as_text(value, text):
    assert summary.number_text(value) == text


def test_rows_with_other_keys_are_refused():
    with pytest.raises(ValueError, match=r"row='teacher': keys \['fid'\] miss or are"):
        summary.make_report("c", [row(fid=1.0)])
    with pytest.raises(ValueError, match="role='pupil': choose 'teacher' or 'student'"):
        summary.make_report("c", [row(role="pupil")])
