"""Damaged and hostile data files: refused in one line, or read as they were."""

import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
from image_files import PICTURES, edm_files, fails, png, write_files, write_zip
from PIL import Image

from kdiff_jax import arrays, files
from kdiff_jax.data.images import load
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.metrics.npz import read_npz
from kdiff_jax.stages import students


def npz_set(folder):
    path = folder / "a.npz"
    np.savez(path, images=PICTURES, labels=np.arange(6))
    return path, lambda: load("npz", path=str(path))


def packed_set(folder):
    path = folder / "a.npz"
    np.savez_compressed(path, images=PICTURES, labels=np.arange(6))
    return path, lambda: load("npz", path=str(path))


def zip_set(folder):
    image_files, labels = edm_files()
    path = write_zip(folder / "a.zip", {**image_files, **labels, "read.me": "x"})
    return folder / "a.zip", lambda: load("edm_zip", path=path)


def folder_set(folder):
    content = {f"{i % 2}/{i}.png": png(PICTURES[i]) for i in range(3)}
    path = write_files(folder / "set", content)
    return folder / "set/1/1.png", lambda: load("folder", path=path)


def embeddings(folder):
    path = folder / "a.npy"
    np.save(path, np.arange(12.0).reshape(4, 3))
    return path, lambda: students._embeddings(str(path), None, 4)


def statistics(folder):
    path = folder / "stats.npz"
    np.savez(path, mu=np.arange(3.0), sigma=np.eye(3))

    def read():
        return read_npz("reference", path, error=DataError, wanted="an .npz")

    return path, read


def mutant(rng, data):
    """The content with one of what happens to files: bits, runs, ends, lengths."""
    data = bytearray(data)
    at = rng.randrange(len(data))
    match rng.randrange(7):
        case 0 | 1 | 2:
            data[at] ^= 1 << rng.randrange(8)
        case 3:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        case 4:
            del data[at:]
        case 5:
            del data[at : at + rng.randrange(1, 40)]
        case 6:
            data[at : at + 4] = rng.choice(
                [b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"]
            )
    return bytes(data)


def plain(found):
    """What was read, to be compared."""
    if isinstance(found, np.ndarray):
        return found.tolist()
    if isinstance(found, dict):
        return {name: array.tolist() for name, array in found.items()}
    return found.in_memory.tolist(), found.labels.tolist(), found.num_classes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make, inputs",
    [
        (npz_set, 80),
        (packed_set, 60),
        (zip_set, 100),
        (folder_set, 60),
        (statistics, 60),
    ],
)
def test_damage_is_refused_or_harmless(tmp_path, make, inputs):
    """All of these hold sums of what they hold. An .npy holds none: see below."""
    path, read = make(tmp_path)
    sound, before = path.read_bytes(), plain(read())
    rng, refused = random.Random(0), 0
    for number in range(inputs):
        path.write_bytes(mutant(rng, sound))
        try:
            assert plain(read()) == before, f"input {number} is silently another"
        except (ConfigError, DataError) as error:
            assert "\n" not in str(error) and str(path.parent) in str(error)
            refused += 1
    assert refused > inputs // 2  # that it is not the file of before that is read


def test_damaged_embeddings_are_refused_or_numbers(tmp_path):
    path, read = embeddings(tmp_path)
    sound, rng = path.read_bytes(), random.Random(0)
    for _ in range(60):
        path.write_bytes(mutant(rng, sound))
        try:
            assert np.isfinite(read()).all()
        except ConfigError as error:
            assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_damaged_pictures_raise_nothing_else(tmp_path, format):
    """These hold no sums: what a decoder reads, it reads. But it raises anything."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    options = dict(exif=exif) if format in ("JPEG", "WEBP", "TIFF") else {}
    rng = random.Random(1)
    for number in range(8):
        sound = png(PICTURES[number % 6], format, **options)
        path = write_files(tmp_path, {f"{i}.png": mutant(rng, sound) for i in range(8)})
        images = []
        for i in range(8):
            (tmp_path / "one").mkdir(exist_ok=True)
            (tmp_path / "one/a.png").write_bytes((tmp_path / f"{i}.png").read_bytes())
            try:
                images.append(load("folder", path=f"{path}/one").shape)
            except DataError as error:
                assert "a.png" in str(error) and "\n" not in str(error)


def write_npz(path, header, body=b"", compression=zipfile.ZIP_DEFLATED):
    """An .npz with one array whose header says `header`."""
    text = header.encode() + b" " * (63 - len(header) % 64) + b"\n"
    head = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("images.npy", head + body)
    return str(path)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000, 1000, 3)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8, 3)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': " + "(" * 5000,
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1e9,)}",
        "[" * 9000,
        "os.system('true')",
    ],
)
def test_a_header_that_claims_what_is_not_there(tmp_path, header):
    path = write_npz(tmp_path / "a.npz", header, b"x" * 100)
    assert fails("a.npz: not a readable .npz file", name="npz", path=path)
    single = zipfile.ZipFile(path).read("images.npy")
    (tmp_path / "a.npy").write_bytes(single)
    with pytest.raises(files.Unreadable):
        arrays.load_one(tmp_path / "a.npy")


def test_zeros_that_fill_the_memory(tmp_path, monkeypatch):
    """7 MB that unpack to 8 GB are refused by their claim, before they are unpacked."""
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (16, 256, 256, 3)}"
    path = write_npz(tmp_path / "a.npz", header, bytes(16 * 256 * 256 * 3))
    assert load("npz", path=path).num == 16
    monkeypatch.setattr(arrays, "LARGE", 2**20)
    fails(r"unpack to 31458\d\d, which no images", name="npz", path=path)
    monkeypatch.setattr(arrays, "memory", lambda: 2**20)
    fails(r"have 31458\d\d bytes, and the memory 1048576", name="npz", path=path)


def test_a_png_whose_pixels_were_flipped(tmp_path):
    """Pillow does not look at the sum of the parts that hold pixels."""
    content = bytearray(png(np.zeros((8, 8, 3), np.uint8)))
    at = content.index(b"IDAT")
    size = struct.unpack(">I", content[at - 4 : at])[0]
    other = zlib.compress(b"".join(b"\0" + bytes([9] * 24) for _ in range(8)))
    assert len(other) <= size + 8
    content[at + 4 + size] ^= 1  # the sum
    path = write_files(tmp_path, {"a.png": bytes(content)})
    fails("a.png: not a readable image", name="folder", path=path)
