"""Runs side by side: what may be ranked, and what is shown apart."""

import json

import pytest
from test_html import Reader
from test_summary import row

from kdiff_jax import sealed
from kdiff_jax.errors import DataError
from kdiff_jax.report import compare, compare_page, summary

OF = dict(
    features={"name": "inception", "preprocessing": "tf1", "weights_sha256": "ab" * 32},
    compared_with={"num_images": 50_000, "data": "cd" * 32, "image_shape": [32, 32, 3]},
)


BEST = {"headline": "best", "by": "fid"}
BEST["each"] = [{"seed": i, "metrics": {"fid": i + 0.5}} for i in (1, 2)]
MEAN = {"headline": "mean", "each": BEST["each"]}
PREPARED = {"crop": None, "resize": 32, "filter": "bicubic"}


def run(folder, *rows, name="c"):
    folder.mkdir(parents=True)
    summary.write(folder / "report.json", summary.make_report(name, rows))
    return folder


def fid(value, **changes):
    changes = {"labels": "arange", **OF, **changes}
    return row(metrics={"fid": value, "recall_inception": value / 10}, **changes)


def words(text):
    reader = Reader()
    reader.feed(text)
    return reader.words


def student(value, **changes):
    return fid(value, stage="student", role="student", nfe=1, **changes)


def test_runs_are_ranked_together_and_the_best_is_marked(tmp_path):
    a = run(tmp_path / "a", fid(2.0), student(3.0))
    b = run(tmp_path / "b", student(2.5))
    (group,) = compare.groups(compare.read([a, b]))
    assert group.names == ("a: teacher", "a: student", "b: student")
    assert group.apart == ""
    assert group.best == {"fid": 0, "recall_inception": 1}
    text = compare.markdown([group])
    assert "| a: teacher | ddim | 64 | **2** |" in text
    assert text.count("**") == 4
    # What the table leaves out stands below it, of each model.
    about = "seed 0; labels arange; weights: moving average 'ema'; ddim(num_steps=4); "
    assert f"* a: student: {about}" in text and text.count("\n* ") == 3


@pytest.mark.parametrize(
    "changes, why",
    [
        (dict(num_images=10_000), "images 10,000, and 1,797 above"),
        (
            dict(seeds=BEST),
            "figures best of 2 seeds by fid, and of one seed above",
        ),
        (dict(seeds=MEAN), "figures mean of 2 seeds, and of one seed above"),
        (dict(labels="random"), "labels random, and arange above"),
        (dict(labels=None), "labels none, and arange above"),
        (
            dict(compared_with={**OF["compared_with"], "prepared": PREPARED}),
            "filter bicubic",
        ),
        (dict(features={"name": "inception", "preprocessing": "clean"}), "clean"),
        (
            dict(features={**OF["features"], "weights_sha256": "ef" * 32}),
            "efefefefefef..",
        ),
        (
            dict(compared_with={"num_images": 50_000, "data": "ef" * 32}),
            "reference 50,000",
        ),
        (dict(features={}), "not recorded by b"),
    ],
)
def test_figures_of_another_kind_are_shown_apart_and_it_is_said_why(
    tmp_path, changes, why
):
    a = run(tmp_path / "a", fid(2.0), student(3.0))
    b = run(tmp_path / "b", student(1.0, **changes))
    first, other = compare.groups(compare.read([b, a]))
    assert first.names == ("a: teacher", "a: student") and first.best["fid"] == 0
    assert other.names == ("b: student",) and other.best == {}
    assert why in other.apart
    assert why in "".join(words(compare_page.text([first, other], ".html")))
    assert "Not compared with the first table" in compare.markdown([first, other])


def test_several_seeds_are_ranked_with_as_many_chosen_alike(tmp_path):
    """The lowest of three is lower than that of two, and by another figure another."""
    three = [*BEST["each"], {"seed": 3, "metrics": {"fid": 3.5}}]
    others = [BEST, {**BEST, "by": "kid"}, {**BEST, "each": three}, MEAN]
    rows = [student(i + 1.0, seeds=one) for i, one in enumerate([BEST, *others])]
    folder = run(tmp_path / "a", *rows)
    found = compare.groups(compare.read([folder]))
    assert [len(one.rows) for one in found] == [2, 1, 1, 1]
    assert [bool(one.best) for one in found] == [True, False, False, False]


def test_two_runs_that_say_nothing_are_not_compared(tmp_path):
    """Rows of before: each may have been measured in its own way."""
    silent = dict(features=None, compared_with=None)
    rows = [fid(2.0, **silent), student(3.0, **silent)]
    a, b = run(tmp_path / "a", *rows), run(tmp_path / "b", *rows)
    assert [len(g.rows) for g in compare.groups(compare.read([a, b]))] == [2, 2]


def test_reports_of_before_on_pixels_of_the_same_data_are_compared(tmp_path):
    """The fingerprint of their data is in data.json, and pixels have no weights."""
    folders = []
    for name, data in (("a", "cd"), ("b", "cd"), ("c", "ef")):
        one = row(stage="student", role="student")
        old = {k: v for k, v in one.items() if k not in (*OF, "groups")}
        folder = tmp_path / name
        folder.mkdir()
        report = {"config": "c", "rows": [old], "hardware": {"device": "cpu"}}
        sealed.write_json(folder / "report.json", report)
        sealed.write_json(folder / "data.json", {"num_images": 9, "sha256": data})
        folders.append(folder)
    found = compare.groups(compare.read(folders))
    assert [g.names for g in found] == [("a: student", "b: student"), ("c: student",)]
    assert found[0].rows[0]["measured"] == {"device": "cpu"}


def test_a_row_of_evaluate_stands_beside_a_report(tmp_path):
    a = run(tmp_path / "a", fid(2.0))
    own = {k: v for k, v in fid(1.0).items() if k not in ("stage", "role", "groups")}
    path = tmp_path / "other.json"
    path.write_text(
        json.dumps({**own, "checkpoint": "W/student", "reference": "x.npz"})
    )
    (group,) = compare.groups(compare.read([a, path]))
    assert group.names == ("a: teacher", "other: student") and group.best["fid"] == 1


def test_names_of_runs_tell_them_apart(tmp_path):
    paths = [run(tmp_path / f"{x}/w", fid(1.0)) for x in "ab"]
    rows = compare.read([*paths, paths[0] / "report.json"])
    assert len({row["run"] for row in rows}) == 3
    assert [row["run"] for row in compare.read(paths)] == ["a/w", "b/w"]


@pytest.mark.parametrize(
    "content, why",
    [
        (None, "there is no report.json"),
        ("{", "is damaged"),
        ('{"rows": [{"stage": "x"}]}', "holds no rows of a report"),
        ('{"rows": []}', "holds no rows of a report"),
        ("[1]", "is damaged"),
    ],
)
def test_a_run_without_a_sound_report_is_named(tmp_path, content, why):
    folder = tmp_path / "w"
    folder.mkdir()
    if content is not None:
        (folder / "report.json").write_text(content)
    with pytest.raises(DataError, match=f"compare={folder}: .*{why}.*run its recipe"):
        compare.read([folder])


def test_a_report_that_was_changed_is_refused(tmp_path):
    path = run(tmp_path / "a", fid(2.0)) / "report.json"
    path.write_text(path.read_text().replace('"fid": 2.0', '"fid": 1.0'))
    with pytest.raises(DataError, match="digest is another"):
        compare.read([path])


def test_the_page_of_a_comparison(tmp_path):
    a = run(tmp_path / "a", fid(2.0), student(3.0))
    b = run(tmp_path / "b", student(1.0, num_images=10))
    found = compare.groups(compare.read([a, b]))
    reader = Reader()
    reader.feed(compare_page.text(found, ".html"))
    assert reader.open == [] and reader.tags.count("table") == 2
    assert [a["class"] for _, a in reader.elements if a.get("class") == "best"] == [
        "best"
    ] * 2
    assert "images 10, and 1,797 above" in "".join(reader.words)
    assert len(reader.ids) == len(set(reader.ids))
    plain = json.loads(compare_page.text(found, ".json"))
    assert plain["groups"][0]["best"] == {
        "fid": "a: teacher",
        "recall_inception": "a: student",
    }


def test_only_a_comparison_is_replaced(tmp_path):
    found = compare.groups(compare.read([run(tmp_path / "a", fid(2.0))]))
    for suffix in (".html", ".md", ".json"):
        path = tmp_path / f"x{suffix}"
        path.write_text(compare_page.text(found, suffix))
        assert compare_page.is_one(path)
        path.write_text("something else")
        assert not compare_page.is_one(path)
