"""A folder with train/ and val/ in it: an ImageNet user means one of them."""

import logging

import pytest
from image_files import PICTURES, fails, png, write_files, write_zip

from kdiff_jax.data.images import load

IMAGENET = {
    "train/n01440764/0.png": png(PICTURES[0]),
    "train/n01443537/1.png": png(PICTURES[1]),
    "val/n01440764/2.png": png(PICTURES[2]),
    "devkit/readme.txt": "no image",
}


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="kdiff_jax")
    return caplog


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (("train", "val"), "train"),
        (("Train", "Test"), "Train"),
        (("val2017", "train2017", "annotations"), "train2017"),
        (("validation", "test"), "test"),
        (("bus", "testing", "training"), "training"),
    ],
)
def test_parts_of_a_set_are_no_classes(tmp_path, names, one):
    files = {f"{name}/a/{i}.png": png(PICTURES[i]) for i, name in enumerate(names)}
    path = write_files(tmp_path, files)
    error = fails(
        f"^data.path={path}: its folders .* set --config.data.path={path}/{one}, or",
        name="folder",
        path=path,
    )
    assert error.exit_code == 3


def test_both_ways_out_work(tmp_path, said):
    path = write_files(tmp_path, IMAGENET)
    training = load("folder", path=f"{path}/train")
    assert training.labels.tolist() == [0, 1] and training.num_classes == 2
    assert not said.messages
    every = load("folder", path=path, use_labels=False)
    assert (every.num, every.num_classes) == (3, 0)
    assert f"train, val are read as one set; {path}/train is one" in said.text
    said.clear()
    load("edm_zip", path=write_zip(tmp_path / "a.zip", IMAGENET))
    assert "train, val are read as one set" in said.text


@pytest.mark.parametrize("names", [("train", "bus"), ("test", "tube"), ("dev", "ops")])
def test_a_class_may_be_called_so(tmp_path, said, names):
    files = {f"{name}/{i}.png": png(PICTURES[i]) for i, name in enumerate(names)}
    assert load("folder", path=write_files(tmp_path, files)).num_classes == 2
    assert not said.messages


def test_labels_that_lie_deeper_are_named(tmp_path, said):
    files = {k: v for k, v in IMAGENET.items() if k.startswith("train")}
    path = write_files(tmp_path, files)
    assert load("folder", path=path).num_classes == 0
    (line,) = said.messages
    assert (
        f"only folder, train, so that they have no labels; data.path={path}/t" in line
    )
