"""Small sets as files, and what loading them says."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from kdiff_jax.data.images import load
from kdiff_jax.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)


def png(array, format="PNG", **options):
    """The bytes of an image file."""
    content = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(content, format, **options)
    return content.getvalue()


def write_files(folder, files):
    """Writes {path: bytes or text} below a folder; returns it as text."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(content)
    return str(folder)


def write_zip(file, files):
    """Writes {name or ZipInfo: content} as an archive; returns its path as text."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(file)


def edm_files(labels=(3, 0, 1)):
    """({name: image}, {"dataset.json": text}) of a set with these labels."""
    names = [f"00000/img0000000{i}.png" for i in range(len(labels))]
    files = {name: png(PICTURES[i]) for i, name in enumerate(names)}
    listed = [[n, label] for n, label in zip(names, labels, strict=True)][::-1]
    return files, {"dataset.json": json.dumps({"labels": listed})}


def fails(match, **keywords):
    """The error of loading a set, one line that has `match` in it."""
    with pytest.raises((ConfigError, DataError), match=match) as raised:
        load(**keywords)
    assert "\n" not in str(raised.value)
    return raised.value
