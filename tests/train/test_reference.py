"""Images that are not square are compared as they are; of others squares are cut."""

import numpy as np
import pytest
from PIL import Image

from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.metrics import features
from kdiff_jax.train import coco_protocols, reference


def test_the_size_is_that_of_the_model(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "wide.npz"
    images = rng.integers(0, 256, (30, 8, 16, 1), np.uint8)
    np.savez(path, images=images)
    pixels = features.make("pixels")
    mu, sigma, *_ = reference.of(str(path), path, pixels, (8, 16, 1))
    np.testing.assert_allclose(mu, images.reshape(30, -1).mean(0) / 127.5 - 1)
    assert sigma.shape == (128, 128)
    middle = reference.of(str(path), path, pixels, (8, 8, 1)).mu
    np.testing.assert_allclose(middle, mu.reshape(8, 16)[:, 4:12].ravel())
    with pytest.raises(DataError, match=r"images of \[8, 16, 1\], and .* \[16, 8, 1\]"):
        reference.of(str(path), path, pixels, (16, 8, 1))


def refused(path, kind=DataError) -> str:
    with pytest.raises(kind) as error:
        reference.of(str(path), path, features.make("pixels"), (4, 4, 3))
    return str(error.value)


def test_what_cannot_be_compared_names_no_option_that_evaluate_lacks(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "one.npz", images=images[:1])
    np.savez(tmp_path / "wide.npz", images=images[:, None])
    (tmp_path / "mixed").mkdir()
    Image.fromarray(images[0][..., 0]).save(tmp_path / "mixed" / "0.png")
    Image.fromarray(images[0]).save(tmp_path / "mixed" / "1.png")
    said = {
        "one.npz": "a single image has no covariance; give two",
        "none.npz": "no such file; or give others",
        "none.zip": "no such file; or give others",
        "mixed": "make all colour or all grey; or give others",
        "wide.npz": "they must be uint8",
    }
    for name, words in said.items():
        text = refused(tmp_path / name)
        start = "/1.png: " if name == "mixed" else ": "
        assert text.startswith(f"reference={tmp_path / name}{start}") and words in text
        assert "data." not in text and text.count(str(tmp_path / name)) == 1
    for name in ("none", "npz", "folder", "weights.npy"):
        path = tmp_path / name
        assert "no folder, .npz or .zip, and none" in refused(path, ConfigError)


def test_a_path_is_said_once_and_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(b"no picture")
    (tmp_path / "none").mkdir()
    pixels, protocol = features.make("pixels"), coco_protocols.make("coco_dmd2")
    for how in (None, protocol):
        for name, start in (("set", "/a.png: not a"), ("none", ": no images in it")):
            with pytest.raises(DataError) as error:
                about = f"~/{name}", tmp_path / name, pixels, (4, 4, 3)
                reference.of(*about, protocol=how)
            text = str(error.value)
            assert text.startswith(f"reference=~/{name}{start}"), text
            assert str(tmp_path) not in text


def test_labels_of_a_reference_do_not_count(tmp_path):
    path = tmp_path / "from_one.npz"
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), np.uint8)
    np.savez(path, images=images, labels=np.full(9, -1))
    mu = reference.of(str(path), path, features.make("pixels"), (4, 4, 3)).mu
    np.testing.assert_allclose(mu, images.reshape(9, -1).mean(0) / 127.5 - 1)


def test_images_of_several_sizes_name_the_flag_that_resizes_them(tmp_path):
    rng, pixels = np.random.default_rng(0), features.make("pixels")
    for name, side in (("0", 4), ("1", 5)):
        image = rng.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match="in a set of 4x4; give .* has --image_size$"):
        reference.made(str(tmp_path), tmp_path, pixels)
    assert reference.made(str(tmp_path), tmp_path, pixels, size=4).num == 2
