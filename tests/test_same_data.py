"""A run goes on with the images that it began with, and says so where it cannot."""

import json
import logging

import jax
import jobs
import numpy as np
import pytest
import recipes
from PIL import Image

from kdiff_jax import recipe
from kdiff_jax.data import identity
from kdiff_jax.data.images import load
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.files import json_text
from kdiff_jax.stages import same_data
from kdiff_jax.train import parallel, peers

PICTURES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)


def folder(path, numbers=range(12)):
    path.mkdir(parents=True)
    for i in numbers:
        Image.fromarray(PICTURES[i]).save(path / f"{i:02d}.png")
    return load("folder", path=str(path))


def job(workdir):
    workdir.mkdir(exist_ok=True)
    return jobs.job([jobs.evaluating()], workdir, parallel.make_mesh())


def test_the_same_images_elsewhere_are_the_same(tmp_path):
    assert identity.of(folder(tmp_path / "a")) == identity.of(folder(tmp_path / "b/c"))


@pytest.mark.parametrize(
    "numbers, words",
    [(range(5), "num_images was 12, is 5"), ([*range(1, 12), 0], None)],
)
def test_other_images_are_refused(tmp_path, numbers, words):
    first = folder(tmp_path / "a")
    if words:
        other = folder(tmp_path / "b", numbers)
    else:  # the same names, and another picture below one of them
        other = folder(tmp_path / "b")
        Image.fromarray(PICTURES[0]).save(tmp_path / "b/07.png")
        other = load("folder", path=str(tmp_path / "b"))
    here = job(tmp_path / "w")
    same_data.check(here, first, force=False)
    same_data.check(here, first, force=False)
    with pytest.raises(DataError, match=words or "sha256 was") as raised:
        same_data.check(here, other, force=False)
    assert "--config.data.path" in str(raised.value)


class OtherHost:
    """The coordination service, on which process 1 has told what it found."""

    def __init__(self, found):
        self._found = json_text({"data": found})

    def key_value_set(self, key, value):
        setattr(self, key, value)

    def blocking_key_value_get(self, key, milliseconds):
        del milliseconds
        return json.dumps(self._found) if key.endswith("/1") else getattr(self, key)


def test_hosts_with_other_images_are_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    mine, theirs = folder(tmp_path / "a"), folder(tmp_path / "b", range(5))
    service = OtherHost(identity.of(theirs))
    here = job(tmp_path / "w")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(peers, "client", lambda: service)
    with pytest.raises(ConfigError, match="data.num_images is 12 and 5") as raised:
        same_data.check(here, mine, force=True)
    assert "--config.data.path" in str(raised.value)
    assert not list(here.workdir.iterdir())


def test_other_labels_and_pixels_of_arrays_are_others(tmp_path):
    def of(**found):
        np.savez(tmp_path / "a.npz", **found)
        return identity.of(load("npz", path=f"{tmp_path}/a.npz"))

    first = of(images=PICTURES, labels=np.arange(12))
    assert of(images=PICTURES, labels=np.arange(12)) == first
    assert of(images=PICTURES, labels=np.arange(12)[::-1]) != first
    changed = PICTURES.copy()
    changed[7, 0, 0, 0] ^= 1
    assert of(images=changed, labels=np.arange(12)) != first


def test_force_takes_others_unless_a_reference_was_made(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="kdiff_jax")
    here = job(tmp_path / "w")
    same_data.check(here, folder(tmp_path / "a"), force=False)
    same_data.check(here, folder(tmp_path / "b", range(5)), force=True)
    assert "num_images was 12, is 5" in caplog.text
    (tmp_path / "w/evaluate").mkdir()
    (tmp_path / "w/evaluate/reference_pixels.npz").write_bytes(b"")
    with pytest.raises(DataError, match="evaluate was measured against"):
        same_data.check(here, load("folder", path=f"{tmp_path}/a"), force=True)


def test_a_recipe_compares_before_it_goes_on(tmp_path, monkeypatch):
    for kind in recipe.KINDS:
        monkeypatch.setitem(recipe.KINDS, kind, lambda job, stage: None)
    config = recipes.load("digits_teacher", "tiny")
    config.data.name = "npz"
    config.data.path = f"{tmp_path}/a.npz"
    grey = PICTURES[..., :1]
    labels = np.arange(12) % 10
    np.savez(tmp_path / "a.npz", images=grey, labels=labels)
    recipe.run(config, tmp_path / "w")
    # A record of a version that knew neither the file nor some options of today.
    about = json.loads((tmp_path / "w/config.json").read_text())
    for key in ("channels", "background"):
        del about["config"]["data"][key]
    about.pop("digest", None)
    (tmp_path / "w/config.json").write_text(json.dumps(about))
    (tmp_path / "w/data.json").unlink()
    recipe.run(config, tmp_path / "w")
    config.data.path = f"{tmp_path}/b.npz"
    np.savez(tmp_path / "b.npz", images=grey, labels=labels)
    recipe.run(config, tmp_path / "w")
    np.savez(tmp_path / "b.npz", images=grey[:10], labels=labels[:10])
    with pytest.raises(DataError, match="num_images was 12, is 10"):
        recipe.run(config, tmp_path / "w")
