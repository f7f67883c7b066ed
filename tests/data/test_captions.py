"""Images with captions as people have them, and prompts."""

import gzip
import io
import json
import logging
import tarfile

import numpy as np
import pytest
from image_files import png, write_files

from kdiff_jax.data import captions
from kdiff_jax.errors import DataError


def picture(value):
    return png(np.full((6, 8, 3), value, np.uint8))


def images(folder, names=("a.png", "sub/b.png", "c.png")):
    write_files(folder, {name: picture(i) for i, name in enumerate(names)})
    return folder


def test_text_files_beside_images(tmp_path, caplog):
    images(tmp_path)
    (tmp_path / "a.txt").write_text("  ein Hund,\n läuft ", encoding="utf-8")
    (tmp_path / "sub/b.txt").write_text("a cat")
    with caplog.at_level(logging.INFO):
        found = captions.read(str(tmp_path))
    assert found.names == ("a.png", "sub/b.png")
    assert found.captions == (("ein Hund,\n läuft",), ("a cat",))
    assert "left out 1 without a caption (c.png)" in caplog.text
    loaded = found.images(4, 3)
    assert loaded.read([0, 1])[:, 0, 0, 0].tolist() == [0, 1]
    assert loaded.shape == (4, 4, 3) and loaded.prepared["resize"] == 4
    (tmp_path / "sub/b.txt").write_text("a dog")
    assert captions.read(str(tmp_path)).sha256 != found.sha256


def test_metadata_of_each_folder(tmp_path):
    images(tmp_path)
    rows = [("a.png", "one"), ("./c.png", "three"), ("a.png", "uno")]
    lines = [json.dumps({"file_name": k, "text": v, "more": 1}) for k, v in rows]
    (tmp_path / "metadata.jsonl").write_text("\n".join([*lines, "", ""]))
    text = 'text,file_name\n"two, or\nmore",b.png\n'
    (tmp_path / "sub/metadata.csv").write_text(text)
    found = captions.read(str(tmp_path))
    assert dict(zip(found.names, found.captions, strict=True)) == {
        "a.png": ("one", "uno"),
        "c.png": ("three",),
        "sub/b.png": ("two, or\nmore",),
    }


def coco(file, names=("a.png", "sub/b.png"), **changes):
    content = {
        "images": [{"id": 7 + i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [
            {"image_id": 8, "caption": "a cat"},
            {"image_id": 7, "caption": "a dog "},
            {"image_id": 7, "caption": "a hound"},
        ],
    }
    file.write_text(json.dumps(content | changes))
    return str(file)


def test_captions_of_coco(tmp_path):
    folder = images(tmp_path / "val")
    found = captions.read(coco(tmp_path / "c.json"), str(folder))
    assert found.names == ("a.png", "sub/b.png")
    assert found.captions == (("a dog", "a hound"), ("a cat",))
    assert found.fetch(1)[0] == "sub/b.png"
    beside = captions.read(coco(folder / "c.json"))  # the images lie where it lies
    assert beside.sha256 == found.sha256


def pack(path, **files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_tars_as_webdataset_has_them(tmp_path):
    one = {"0/a.png": picture(1), "0/a.json": b'{"caption": "no", "url": "x"}'}
    one |= {"0/a.txt": b" a dog\n", "0/b.c.png": picture(2), "0/b.json": b"{}"}
    two = {"a.json": b'{"text": "a cat"}', "a.png": picture(3), "a.cls": b"7"}
    pack(tmp_path / "1.tar", **one)
    (tmp_path / "sub").mkdir()
    pack(tmp_path / "sub/2.tar", **two)
    found = captions.read(str(tmp_path))
    assert found.names == ("1.tar/0/a.png", "sub/2.tar/a.png")
    assert found.captions == (("a dog",), ("a cat",))
    assert found.images(4, 3).read([1, 0])[:, 0, 0, 0].tolist() == [3, 1]
    single = captions.read(str(tmp_path / "1.tar"))
    assert single.names == ("0/a.png",)
    data = (tmp_path / "1.tar").read_bytes()
    for wrong, line in (
        (data[:1500], "is no whole .tar without compression"),
        (gzip.compress(data), "is no whole .tar without compression"),
        (b"", "is no whole .tar"),
    ):
        (tmp_path / "1.tar").write_bytes(wrong)
        with pytest.raises(DataError, match=line) as caught:
            captions.read(str(tmp_path / "1.tar"))
        assert "\n" not in str(caught.value)
    pack(tmp_path / "1.tar", **{"a.png": picture(1), "a.json": b"[1]"})
    with pytest.raises(DataError, match=r"1\.tar/a\.json: is no caption in UTF-8"):
        captions.read(str(tmp_path))


def test_prompts_one_a_line(tmp_path):
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffa\r\n\r\n b c \n".encode())
    found = captions.read(str(file))
    assert (found.names, found.captions) == ((), (("a", "b c"),))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"a.txt": b"\xff\xfe"}, r"a\.txt: is no UTF-8 text"),
        ({"metadata.jsonl": b"{"}, "metadata.jsonl, line 1: is no JSON"),
        ({"metadata.jsonl": b'{"file_name": "a.png"}'}, "no file_name or no text"),
        ({"metadata.jsonl": b"[1]"}, "no file_name or no text"),
        ({"metadata.csv": b"file_name,text\na.png"}, "no file_name or no text"),
        (
            {"metadata.csv": b"file_name,text\nx.png,1\ny.png,2"},
            r"x\.png: has a caption, and is no image that is there, as 1 more",
        ),
        ({}, "no image in it has a caption; write NAME.txt"),
        ({"a.txt": b"  "}, "no image in it has a caption"),
    ],
)
def test_folders_that_are_wrong(content, line, tmp_path):
    images(tmp_path, ["a.png"])
    write_files(tmp_path, content)
    with pytest.raises(DataError, match=line) as caught:
        captions.read(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_else_is_refused(tmp_path):
    images(tmp_path, ["a.png"])
    file = coco(tmp_path / "c.json")
    with pytest.raises(DataError, match=r"sub/b\.png: is not there, and .*--images"):
        captions.read(file)
    with pytest.raises(DataError, match=r"x: does not exist; give the folder of the"):
        captions.read(file, str(tmp_path / "x"))
    for change in (
        dict(images=3),
        dict(annotations=[{"image_id": 1}]),
        dict(images=[]),
    ):
        with pytest.raises(DataError, match="is no file of COCO's captions"):
            captions.read(coco(tmp_path / "c.json", **change))
    for name, line in {
        "x": "does not exist",
        "a.png": "is no folder of images, no .tar",
    }.items():
        with pytest.raises(DataError, match=line):
            captions.read(str(tmp_path / name))
    (tmp_path / "p.txt").write_text("\n\n")
    with pytest.raises(DataError, match="no prompts in it; write one a line"):
        captions.read(str(tmp_path / "p.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in it"):
        captions.read(str(tmp_path / "empty"))


def test_only_a_line_feed_ends_a_line(tmp_path):
    """U+2028 and U+0085 may stand in prompts, and raw in JSON strings."""
    (tmp_path / "prompts.txt").write_text("a\u2028b\nc\x85d\r\n\n", newline="")
    found = captions.read(str(tmp_path / "prompts.txt"))
    assert found.captions == (("a\u2028b", "c\x85d"),)
