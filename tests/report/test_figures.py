"""Names of figures, and what the page says of rows."""

import pytest
from test_summary import STUDENT, row

from kdiff_jax.report import details, figures, html


@pytest.mark.parametrize(
    "name, which",
    [
        ("fid", "lower"),
        ("fd_pixels", "lower"),
        ("fd_inf_resnet56", "lower"),
        ("kid_std", None),
        ("precision_inception", "higher"),
        ("inception_score", "higher"),
        ("fd_pixels_low", None),
        ("nearest_pixels", None),
        ("memorised_pixels", None),
        ("accuracy", None),
    ],
)
def test_which_way_is_better(name, which):
    assert figures.better(name) == which


def test_fid_comes_before_other_distances():
    metrics = {"fd_pixels": 1.0, "recall": 0.5, "fid": 3.0, "fid_low": 2.0}
    assert figures.distances([row(metrics=metrics)]) == ["fid", "fd_pixels"]


def test_the_spread_of_a_figure_stands_beside_it():
    ends = {"fd_pixels": 2.0, "fd_pixels_low": 1.5, "fd_pixels_high": 2.5}
    assert figures.spread(ends, "fd_pixels") == ("interval", 1.5, 2.5)
    assert details.spread_text(ends, "fd_pixels") == "1.5 to 2.5"
    assert details.spread_text({"kid": 1.0, "kid_std": 0.25}, "kid") == "± 0.25"
    assert details.spread_text({"kid": 1.0}, "kid") == ""
    assert details.figure_names([row(metrics=ends)]) == ["fd_pixels"]


def test_models_of_one_stage_are_told_apart():
    rows = [row(nfe=64), row(nfe=1), row(stage="student")]
    assert figures.names(rows) == [
        "teacher, 64 evaluations",
        "teacher, 1 step",
        "student",
    ]


def test_the_result_in_a_sentence_has_both_ratios():
    student = row(
        stage="student",
        role="student",
        nfe=1,
        metrics={"fd_pixels": 0.27648},
        images_per_second=9321.0,
        latency_ms=0.2469,
    )
    rows = [row(), row(nfe=1, metrics={"fd_pixels": 6.0}), student]
    (text,) = html.results(rows, figures.names(rows))
    assert text == (
        "student: 1 step where the teacher takes 64. fd_pixels 0.2765, the teacher's"
        " 0.1843 (1.5 x), of 1,797 images. 100 x as many images per second (9,321 and"
        " 93.21); one image alone takes 0.2469 ms where it took 12.35 ms (50 x)."
    )


def test_a_result_that_is_nan_or_was_not_measured_is_left_out():
    rows = [row(), {**STUDENT, "images_per_second": None}]
    assert html.results(rows, figures.names(rows)) == [
        "round_1: 1 step where the teacher takes 64."
    ]
    assert html.results([row()], ["teacher"]) == []


def test_a_row_of_before_says_what_it_does_not_hold():
    added = ("average", "precision", "seed", "features", "compared_with")
    old = {k: v for k, v in row().items() if k not in added}
    facts = dict(details.of_row(old, {"device": "TPU v5e", "num_devices": 4}))
    assert facts["features"] == facts["reference"] == details.UNKNOWN
    assert facts["weights of the model"] == details.UNKNOWN
    assert facts["images"] == "1,797, seed not recorded"
    assert facts["device"] == "4 x TPU v5e"


def test_every_fact_of_a_figure_is_told():
    full = row(
        metrics={"fid": 2.5, "fid_low": 2.0, "fid_high": 3.0},
        features={
            "name": "inception",
            "preprocessing": "clean",
            "weights_sha256": "ab",
        },
        compared_with={"num_images": 50_000, "data": "cd"},
        timing={
            "batch_size": 250,
            "images_per_second": {"low": 90.0, "high": 95.0},
            "latency_ms": {"low": 12.0, "high": 13.0},
        },
        measured={"device": "cpu", "num_devices": 2, "time": "2026-11-30T03:00Z"},
    )
    facts = dict(details.of_row(full, {"device": "other"}))
    assert facts["fid"] == "2.5 (2 to 3)"
    assert facts["images"] == "1,797, seed 0"
    assert facts["features"] == "inception, clean, weights sha256 ab"
    assert facts["reference"] == "50,000 images, data sha256 cd"
    assert facts["weights of the model"] == "moving average 'ema'"
    assert facts["sampler"] == "ddim(num_steps=4)"
    assert facts["images a second"].startswith(
        "93.21 (median; half of the rounds 90 to"
    )
    assert facts["images a second"].endswith(", 250 at once")
    assert facts["one image alone"] == "12.35 ms (median; half of the rounds 12 to 13)"
    assert facts["device"] == "2 x cpu" and facts["measured"] == "2026-11-30T03:00Z"
