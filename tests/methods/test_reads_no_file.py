"""A method names its files and reads none: whoever trains it does, once."""

import builtins
import io
import os
import pathlib

import pytest
import toy

from kdiff_jax import methods
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.errors import CheckpointError
from kdiff_jax.method import Net

ENCODER = Net(lambda key: {}, lambda *args: None, image_shape=(8, 8, 3))
RGB = {
    role: net._replace(image_shape=(8, 8, 3), own_space=None)
    for role, net in toy.NETS.items()
}
LPIPS = dict(lpips_weights="vgg.pth", lpips_heads="heads.pth")
# Method -> its networks, and options with all files that it can be given.
FILES = {
    "autoencoder": ({"student": ENCODER}, dict(lpips_weight=1.0, **LPIPS)),
    "denoising_student": (RGB, dict(loss="lpips", **LPIPS)),
    "dmd": (RGB, dict(distance="lpips", **LPIPS)),
    "gdd": (
        RGB,
        dict(
            features=("resnet56",),
            feature_files=("resnet.pth",),
            class_embedding="table.npy",
        ),
    ),
}


def refusing(function, folder):
    """A function of a path, which none in the folder may be given."""

    def call(path, *args, **keywords):
        if str(path).startswith(str(folder)):
            raise AssertionError(f"{path}: is read, or looked for, by a method")
        return function(path, *args, **keywords)

    return call


def make(name, folder):
    """The method with its files in a folder; nothing may be asked of the disk."""
    nets, options = FILES[name]

    def placed(key, value):
        if key.endswith(("_weights", "_heads", "_embedding")):
            return str(folder / value)
        return tuple(str(folder / one) for one in value) if "files" in key else value

    options = {key: placed(key, value) for key, value in options.items()}
    return methods.make(name, nets=nets, process=cosine(), **options)


@pytest.mark.parametrize("name", FILES)
def test_made_without_its_files(name, tmp_path, monkeypatch):
    make(name, tmp_path)  # whatever Python imports by then is imported
    with monkeypatch.context() as patched:
        for module, function in (
            *((builtins, "open"), (io, "open"), (os, "open"), (os, "stat")),
            *((os.path, "isfile"), (os.path, "exists")),
            *((pathlib.Path, "open"), (pathlib.Path, "is_file")),
        ):
            watched = refusing(getattr(module, function), tmp_path)
            patched.setattr(module, function, watched)
        method = make(name, tmp_path)
    assert method.pretrained
    for found in method.pretrained.values():
        with pytest.raises(CheckpointError, match="no such file"):
            found.read()


@pytest.mark.parametrize(
    "name", [*methods.names(), *methods.names(stage="autoencoder")]
)
def test_every_keyword_that_names_a_file_is_tried(name):
    _, options = FILES.get(name, ({}, {}))
    ends = ("_weights", "_heads", "_files", "_embedding", "_path", "_file")
    named = {key for key in methods.keywords(name) if key.endswith(ends)}
    assert named <= {*options}
