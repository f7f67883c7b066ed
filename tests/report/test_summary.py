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
        "nfe": 64,
        "num_params": 426_123,
        "num_images": 1797,
        "seed": 0,
        "metrics": {"fd_pixels": 0.18432},
        "images_per_second": 93.21,
        "train_steps": 2500,
        "train_seconds": 145.3,
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


def test_the_file_has_the_schema_that_scripts_rely_on(tmp_path):
    path = tmp_path / "report.json"
    summary.write(path, summary.make_report("digits_student", [row(), STUDENT]))
    report = json.loads(path.read_text(), parse_constant=lambda name: 1 / 0)
    assert sorted(report) == ["config", "hardware", "rows", "versions"]
    assert report["config"] == "digits_student"
    assert list(report["rows"][0]) == [
        "stage",
        "role",
        "method",
        "sampler",
        "nfe",
        "num_params",
        "num_images",
        "seed",
        "metrics",
        "images_per_second",
        "train_steps",
        "train_seconds",
    ]
    assert report["rows"][0] == row()
    assert report["rows"][1]["metrics"] == {"fd_pixels": None, "accuracy": 0.99}
    assert report["hardware"]["num_devices"] == 8  # the suite's pretend devices
    assert {"python", "jax", "flax", "optax"} <= set(report["versions"])
    assert summary.read(path) == report


def test_the_terminal_table():
    text = summary.text_table([row(), STUDENT]).splitlines()
    cells = [line.split() for line in text]
    assert cells[0][:7] == "stage role method sampler nfe fd_pixels accuracy".split()
    assert cells[2][4:8] == ["64", "0.1843", "93.21", "426,123"]  # no accuracy measured
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
    """Images per second, parameters, images, train steps, train time."""
    bare = row(images_per_second=None, num_images=None, train_steps=None)
    assert summary.table([bare])[1][-5:] == ["", "426,123", "", "", "2m25s"]


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
    assert {line.replace("\\|", "").count("|") for line in lines} == {13}


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
