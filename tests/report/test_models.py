"""Tables of several students and of groups of labels."""

import pytest
from test_html import Reader
from test_summary import row

from kdiff_jax.report import models

GROUPS = {str(k): {"num_images": 5, "fd_pixels": k + 0.5} for k in range(2)}
SPLIT = {"groups": [[0, 1], [2, 3]], "borders": [0.0, 0.25, 1.0]}


def words(text):
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader.words


def test_every_student_stands_with_what_it_owns_and_the_figures_of_its_classes():
    """Two groups of classes by two ranges of time: the ranges share their figures."""
    many = row(num_students=4, partition=SPLIT, groups=GROUPS, train_steps=7)
    found = words(models.students([row(), many], ["teacher", "student"]))
    assert found[:7] == [
        "student: 4 students and what each owns",
        *("student", "owns", "share", "updates", "images", "fd_pixels"),
    ]
    cells = [word for word in found[7:] if word.strip()]
    rows = [cells[i : i + 6] for i in range(0, 24, 6)]
    assert [r.pop(2) for r in rows] == [
        f"50 % of labels, range {i} of 2" for i in (1, 2, 1, 2)
    ]
    assert [r[0] for r in rows] == ["0", "1", "2", "3"]
    assert "0-1" in rows[1][1] and "0.25 < t <= 1" in rows[1][1]
    assert [r[2:] for r in rows] == [["7", "5", "0.5"]] * 2 + [["7", "5", "1.5"]] * 2
    assert models.students([row()], ["teacher"]) == ""


@pytest.mark.parametrize(
    ("groups", "per", "wanted"),
    [
        ([[1], [0]], {"per": "class"}, ["1.5", "0.5"]),
        ([[1], [0]], {"per": "student"}, ["0.5", "1.5"]),
        ([[1], [0]], {}, []),  # a row of before: nothing tells which
        ([[0], [1]], {}, ["0.5", "1.5"]),  # either way
        ([[0, 3], [1, 2]], {"per": "class"}, []),  # classes 2 and 3 had few images
        ([[0, 3], [1, 2]], {}, ["0.5", "1.5"]),
    ],
)
def test_a_student_stands_with_figures_of_what_it_owns(groups, per, wanted):
    """Figures of as many classes as there are students are not those of students."""
    about: dict = dict(num_students=2, groups=GROUPS, **per)
    split = {"groups": groups, "borders": []}
    found = words(models.students([row(partition=split, **about)], ["student"]))
    assert [w for w in found if w in ("0.5", "1.5")] == wanted
    assert ("fd_pixels" in found) == bool(wanted)


def test_a_student_whose_images_were_too_few_has_no_figures():
    split, own = {"groups": [[0, 1], [2, 3]], "borders": []}, {"1": GROUPS["1"]}
    about: dict = dict(partition=split, groups=own, per="student", num_students=2)
    found = words(models.students([row(**about)], ["student"]))
    assert "fd_pixels" in found and "1.5" in found and "0.5" not in found


def test_groups_of_all_models_stand_side_by_side():
    rows = [row(groups=GROUPS), row(groups={"1": GROUPS["1"]}), row()]
    found = [w for w in words(models.groups(rows, ["a", "b", "c"])) if w.strip()]
    assert found[1:4] == ["group", "a: fd_pixels", "b: fd_pixels"]
    assert found[4:] == ["0", "0.5", "1", "1.5", "1.5"]  # "b" has none of group 0
    many = {str(k): {"num_images": 2, "fd_pixels": 1.0} for k in range(100)}
    assert "36 more are in report.json" in models.groups([row(groups=many)], ["a"])
    assert models.groups([row()], ["a"]) == ""
