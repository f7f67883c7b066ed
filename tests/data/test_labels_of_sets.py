"""Labels as people's files have them: taken as they are, or refused in one line."""

import json
import logging

import numpy as np
import pytest
from image_files import PICTURES, edm_files, fails, write_files, write_zip

from kdiff_jax.data.images import load

WAY_OUT = "--config.data.use_labels=False"


def npz(folder, **found):
    np.savez(folder / "a.npz", **found)
    return str(folder / "a.npz")


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.array([0, 1, 2, 3, 4, 2**63], np.uint64), "from 0 to 9223372036854775808;"),
        (np.array([0, 1, 2, 3, 4, 10**12]), "from 0 to 1000000000000; .* 0 .. 1048575"),
        (np.array([0, 1, 2, 3, 4, -1]), "from -1 to 4"),
        (np.arange(6.0), r"labels float64\[6\] for 6 images"),
        (np.full(6, np.nan), r"labels float64\[6\]"),
        (np.ones(6, bool), r"labels bool\[6\]"),
        (np.array(list("abcdef")), r"labels <U1\[6\]"),
        (np.arange(6)[None], r"labels int64\[1, 6\]"),
    ],
)
def test_labels_of_an_npz_that_are_none(tmp_path, labels, message):
    path = npz(tmp_path, images=PICTURES, labels=labels)
    error = fails(message, name="npz", path=path)
    assert error.exit_code == 3 and WAY_OUT in str(error)
    assert load("npz", path=path, use_labels=False).labels.tolist() == [0] * 6


@pytest.mark.parametrize("dtype", ["u1", "u8", ">i4", "i2"])
def test_labels_of_any_integer_type(tmp_path, dtype):
    found = np.array([0, 1, 2, 3, 4, 99], dtype)
    images = load("npz", path=npz(tmp_path, images=PICTURES, labels=found))
    assert images.labels.tolist() == [0, 1, 2, 3, 4, 99]
    assert images.labels.dtype == np.int32 and images.num_classes == 100


def test_images_in_the_order_of_fortran(tmp_path):
    path = npz(tmp_path, images=np.asfortranarray(PICTURES))
    np.testing.assert_array_equal(load("npz", path=path).in_memory, PICTURES)


def test_classes_without_an_image_are_named(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="kdiff_jax")
    found = dict(images=PICTURES, labels=[0, 0, 0, 0, 0, 2], classes=list("abcd"))
    load("npz", path=npz(tmp_path, **found))
    assert "2 of 4 classes have no image, and keep their numbers: b, d" in caplog.text


def test_labels_of_another_name_are_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="kdiff_jax")
    images = load("npz", path=npz(tmp_path, images=PICTURES, target=np.arange(6)))
    assert images.num_classes == 0
    assert "no labels among its arrays; target not read" in caplog.text


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 1, 2**64], "from 0 to 18446744073709551616; they must be 0 .. 1048575"),
        ([0, 1, 10**12], "labels from 0 to 1000000000000"),
        ([0, 1, -1], "labels from -1 to 1"),
        ([0, 1, 2.0], "is 2.0; every image must have an integer"),
        ([0, 1, True], "is True; every image must have an integer"),
        ([0, 1, float("nan")], "is nan; every image must have an integer"),
        ([0, 1, "2"], "is 2; every image must have an integer"),
        ([0, 1, None], "is None; every image must have an integer"),
    ],
)
def test_labels_of_dataset_json_that_are_none(tmp_path, labels, message):
    files, listed = edm_files(labels)
    for name, path in (
        ("edm_zip", write_zip(tmp_path / "a.zip", {**files, **listed})),
        ("folder", write_files(tmp_path / "a", {**files, **listed})),
    ):
        error = fails(message, name=name, path=path)
        assert error.exit_code == 3 and WAY_OUT in str(error)
        assert load(name, path=path, use_labels=False).num == 3


def altered(change):
    files, listed = edm_files()
    pairs = json.loads(listed["dataset.json"])["labels"]
    return {**files, "dataset.json": json.dumps({"labels": change(pairs)})}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: [*p, ["b.png", 1]], "1 images are listed and not there .*'b.png'"),
        (lambda p: [*p, p[0]], "1 images are listed twice .*img00000002.png"),
        (lambda p: p[1:], "1 images have no label .*img00000002.png"),
        (lambda p: [[f"./{n}", y] for n, y in p], "3 images have no label"),
        (lambda p: dict(p), "must be"),
    ],
)
def test_a_dataset_json_of_other_images(tmp_path, change, message):
    path = write_zip(tmp_path / "a.zip", altered(change))
    assert fails(message, name="edm_zip", path=path).exit_code == 3
    assert load("edm_zip", path=path, use_labels=False).num == 3


def test_a_dataset_json_nested_deep(tmp_path):
    files = {**edm_files()[0], "dataset.json": "[" * 100_000}
    path = write_zip(tmp_path / "a.zip", files)
    fails("dataset.json: must be", name="edm_zip", path=path)


def test_which_dataset_json(tmp_path):
    files, listed = edm_files()
    text = listed["dataset.json"]
    two = {**files, "dataset.json": text, "00000/dataset.json": text}
    fails("2 files dataset", name="edm_zip", path=write_zip(tmp_path / "2.zip", two))
    beside = {**files, "set/dataset.json": text}
    path = write_zip(tmp_path / "beside.zip", beside)
    fails("lies beside the folder of 'set/dataset.json'", name="edm_zip", path=path)
    hidden = {**files, "__MACOSX/dataset.json": text}
    path = write_zip(tmp_path / "hidden.zip", hidden)
    assert load("edm_zip", path=path).num_classes == 0


def test_one_label_too_many_for_the_names(tmp_path):
    found = dict(images=PICTURES, labels=np.arange(6), classes=list("abc"))
    fails("labels from 0 to 5; .* 0 .. 2", name="npz", path=npz(tmp_path, **found))
    found["classes"] = np.zeros((2, 2))
    fails("classes float64", name="npz", path=npz(tmp_path, **found))


def test_no_images_and_no_pixels(tmp_path):
    for shape in ((0, 8, 8, 3), (6, 0, 8, 3)):
        path = npz(tmp_path, images=np.zeros(shape, np.uint8))
        fails("the array is empty", name="npz", path=path)
