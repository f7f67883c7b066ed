"""What real folders and archives hold beside images, and which class an image has."""

import logging
import os
import zipfile

import numpy as np
import pytest
from image_files import PICTURES, edm_files, fails, png, write_files, write_zip
from PIL import Image

from kdiff_jax.data import encoded
from kdiff_jax.data.images import load

LITTER = {
    ".DS_Store": "x",
    ".ipynb_checkpoints/a.png": "no image",
    "@eaDir/a.png": "no image",
    "__MACOSX/imgs/._0.png": "no image",
    "a/.thumbs/1.png": "no image",
    "a/._1.png": "no image",
    "a/Thumbs.db": "x",
}


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="kdiff_jax")
    return caplog


def classes(count=3):
    """An image each for the classes a, b, c ..."""
    return {f"{'abc'[i]}/{i}.png": png(PICTURES[i]) for i in range(count)}


def test_what_is_hidden_is_no_class_and_no_image(tmp_path, said):
    path = write_files(tmp_path, {**classes(), **LITTER, "notes.txt": "x"})
    images = load("folder", path=path)
    assert images.labels.tolist() == [0, 1, 2] and images.num_classes == 3
    (line,) = said.messages
    assert "left out 7 hidden (.DS_Store, .ipynb_checkpoints, @eaDir, ...)" in line
    assert "1 of other kinds (notes.txt)" in line


def test_what_is_hidden_in_a_zip_is_no_image(tmp_path, said):
    files, labels = edm_files()
    path = write_zip(tmp_path / "a.zip", {**files, **labels, **LITTER, "read.me": "x"})
    images = load("edm_zip", path=path)
    assert images.labels.tolist() == [3, 0, 1]
    assert "1 of other kinds (read.me)" in said.messages[0]
    assert "7 hidden" in said.messages[0] and "__MACOSX" not in files


def test_an_empty_class_keeps_its_number(tmp_path, said):
    path = write_files(tmp_path, {**classes(2), "d/1.png": png(PICTURES[3])})
    (tmp_path / "c").mkdir()
    images = load("folder", path=path)
    assert images.labels.tolist() == [0, 1, 3] and images.num_classes == 4
    (line,) = said.messages
    assert "1 of 4 classes have no image, and keep their numbers: c" in line


def test_a_class_that_is_a_link_is_followed(tmp_path):
    write_files(tmp_path / "else", {"cat/2.png": png(PICTURES[2])})
    path = write_files(tmp_path / "set", classes(2))
    os.symlink(tmp_path / "else/cat", tmp_path / "set/aa")
    os.symlink(tmp_path / "else/cat/2.png", tmp_path / "set/a/9.png")
    images = load("folder", path=path)
    assert images.labels.tolist() == [0, 0, 1, 2]
    np.testing.assert_array_equal(images.in_memory, PICTURES[[0, 2, 2, 1]])


@pytest.mark.parametrize("target", ["", "..", "a"])
@pytest.mark.parametrize("place", ["back", "a/back", "a/deep/back"])
def test_links_that_lead_back_end(tmp_path, said, place, target):
    files = {**classes(2), "a/deep/1.png": png(PICTURES[2])}
    path = write_files(tmp_path / "set", files)
    os.symlink(tmp_path / "set" / target, f"{path}/{place}")
    images = load("folder", path=path)
    if (place, target) == ("back", "a"):  # a class of its own
        assert images.labels.tolist() == [0, 0, 1, 2, 2]
    else:
        assert images.labels.tolist() == [0, 0, 1]
        assert "left out 1 links" in said.messages[0]


def test_a_link_to_nothing_is_refused(tmp_path):
    path = write_files(tmp_path, classes(2))
    os.symlink("/no/such/disk/cats", tmp_path / "aa")
    fails("aa: a link to /no/such/disk/cats, which is not", name="folder", path=path)


def test_a_link_to_nothing_that_is_no_image_is_left_out(tmp_path, said):
    path = write_files(tmp_path, classes(2))
    os.symlink("/no/such/disk/notes.txt", tmp_path / "a" / "notes.txt")
    assert load("folder", path=path).num == 2
    assert "left out 1 of other kinds (a/notes.txt)" in said.messages[0]


def test_pipes_devices_and_folders_that_cannot_be_read_end_at_once(tmp_path):
    path = write_files(tmp_path, classes(2))
    os.mkfifo(tmp_path / "a/pipe.png")
    fails("pipe.png: no regular file; delete it", name="folder", path=path)
    os.remove(tmp_path / "a/pipe.png")
    os.symlink("/dev/zero", tmp_path / "a/zero.png")
    fails("zero.png: no regular file; delete it", name="folder", path=path)
    os.remove(tmp_path / "a/zero.png")
    os.mkfifo(tmp_path / "pipe")
    fails("no such folder", name="folder", path=f"{path}/pipe")
    for name in ("npz", "edm_zip"):
        fails("not a regular file", name=name, path=f"{path}/pipe")
        fails("not a regular file", name=name, path="/dev/zero")


def test_a_file_without_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    path = write_files(tmp_path, {"a.png": png(PICTURES[0])})
    monkeypatch.setattr("kdiff_jax.data.folder.MAX_BYTES", 100)
    fails("a.png: larger than the limit of 100 bytes", name="folder", path=path)


@pytest.mark.parametrize("format", sorted(set(encoded.FORMATS) - {"DIB"}))
def test_every_format_is_read(tmp_path, format):
    options = {"WEBP": dict(lossless=True), "AVIF": dict(quality=100)}.get(format, {})
    grey = np.repeat(PICTURES[:2, ..., :1], 3, axis=-1)
    suffixes = [s for s, f in Image.registered_extensions().items() if f == format]
    content = [png(array, format, **options) for array in grey]
    files = {f"{i}{s.upper()}": content[i] for i, s in enumerate(suffixes[:2])}
    images = load("folder", path=write_files(tmp_path, files), channels=1)
    assert images.num == len(files)
    exact = format not in ("JPEG", "AVIF")
    found = images.in_memory.astype(int) - grey[: len(files), ..., :1]
    assert abs(found).max() <= (0 if exact else 40)


def test_of_an_animation_the_first_frame_is_taken(tmp_path, said):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "lime", "blue")]
    options = dict(save_all=True, append_images=frames[1:])
    path = write_files(tmp_path, {"a.gif": png(frames[0], "GIF", **options)})
    images = load("folder", path=path)
    assert (images.in_memory == [255, 0, 0]).all()
    assert "a.gif: the first of its 3 frames is taken" in said.messages[0]


def test_labels_of_dataset_json_come_before_folders(tmp_path):
    """An unpacked EDM set: its folders hold a thousand images each, and no classes."""
    files, labels = edm_files()
    files["00001/img00000003.png"] = png(PICTURES[3])
    labels = labels["dataset.json"].replace(
        '[["', '[["00001/img00000003.png", 2], ["', 1
    )
    for prefix in ("", "set/"):
        every = {f"{prefix}{name}": content for name, content in files.items()}
        every[f"{prefix}dataset.json"] = labels
        folder = write_files(tmp_path / f"of{len(prefix)}", every)
        archive = write_zip(tmp_path / f"{len(prefix)}.zip", every)
        for name, path in (("folder", folder), ("edm_zip", archive)):
            images = load(name, path=path)
            assert images.labels.tolist() == [3, 0, 1, 2] and images.num_classes == 4


def test_a_zip_of_class_folders_says_that_it_has_no_labels(tmp_path, said):
    load("edm_zip", path=write_zip(tmp_path / "a.zip", classes()))
    assert "no dataset.json, so no labels" in said.messages[0]


def test_images_anywhere_without_labels(tmp_path):
    files = {**classes(), "9.png": png(PICTURES[3]), "dataset.json": "no labels"}
    path = write_files(tmp_path, files)
    images = load("folder", path=path, use_labels=False)
    assert images.num == 4 and images.num_classes == 0


def test_home_is_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_files(tmp_path / "set", classes(2))
    assert load("folder", path="~/set").num == 2
    np.savez(tmp_path / "a.npz", images=PICTURES)
    assert load("npz", path="~/a.npz").num == 6


def test_a_zip_whose_list_is_not_whole(tmp_path):
    """A flipped length hides members from Python's zipfile, without a word."""
    path = write_zip(tmp_path / "a.zip", classes())
    content = bytearray((tmp_path / "a.zip").read_bytes())
    at = content.index(b"PK\1\2")
    content[at + 32] = content[at + 33] = 255  # the length of the first's comment
    (tmp_path / "a.zip").write_bytes(content)
    fails("lists 1 members where 3 are announced|Bad magic", name="edm_zip", path=path)
    path = write_zip(tmp_path / "b.zip", {**classes(), "b/9.png": png(PICTURES[3])})
    content = bytearray((tmp_path / "b.zip").read_bytes())
    content[content.rindex(b"9.png") + 4] ^= 1  # its kind, in the list alone
    (tmp_path / "b.zip").write_bytes(content)
    fails("b/9.pnf: damaged .File name in directory", name="edm_zip", path=path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(2):
            archive.writestr("a.png", png(PICTURES[i]))
    fails("two members are called 'a.png'", name="edm_zip", path=f"{tmp_path}/a.zip")


def test_whatever_a_decoder_raises_is_the_files(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise AttributeError("'tuple' object has no attribute 'x'\nof EXIF")

    path = write_files(tmp_path, {"a.jpg": png(PICTURES[0], "JPEG")})
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", broken)
    error = fails(
        "a.jpg: not a readable image .'tuple' object", name="folder", path=path
    )
    assert error.exit_code == 3
