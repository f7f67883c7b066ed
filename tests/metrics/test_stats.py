"""Files of statistics keep all that metrics read, and say what it is of."""

import numpy as np
import pytest

from kdiff_jax import metrics
from kdiff_jax.errors import DataError
from kdiff_jax.metrics import Moments, load_stats, save_stats, stats
from kdiff_jax.metrics.seen import Gaussian, Seen, of_rows

PIXELS = metrics.make("pixels")


def whole(num=9, dim=3):
    rng = np.random.default_rng(4)
    rows, labels = rng.normal(size=(num, dim)).astype("f4"), np.arange(num) % 2
    spatial = Gaussian(np.zeros(2), np.eye(2), num)
    seen = Seen(of_rows(rows), rows, 2 * rows, spatial, labels)
    about = dict(image_shape=(1, 1, 3), prepared={"crop": 140, "flip": False})
    return stats.of_seen(seen, PIXELS, data="abc", **about)


def test_files_keep_the_moments(tmp_path):
    moments = Moments().update(np.random.default_rng(4).normal(size=(9, 3)))
    save_stats(tmp_path / "ref.npz", moments, features="pixels")
    stats = load_stats(tmp_path / "ref.npz", features="pixels")
    np.testing.assert_array_equal(stats.mu, moments.mu)
    np.testing.assert_array_equal(stats.sigma, moments.sigma)
    assert (stats.num, stats.features) == (9, "pixels")
    assert [path.name for path in tmp_path.iterdir()] == ["ref.npz"]


def test_files_of_mu_and_sigma_alone_are_read(tmp_path):
    np.savez(tmp_path / "ref.npz", mu=np.zeros(2), sigma=np.eye(2))
    stats = load_stats(tmp_path / "ref.npz", features="resnet56")
    assert (stats.num, stats.features) == (None, None)


def test_bad_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "ref.npz"

    def refused(match, **keywords):
        with pytest.raises(DataError, match=match) as caught:
            load_stats(path, **keywords)
        assert "\n" not in str(caught.value)

    refused("no such file")
    path.write_bytes(b"not an archive")
    refused("not a readable .npz")
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    refused("not a readable .npz")
    np.savez(path, mu=np.array([object()]), sigma=np.eye(1))
    refused("not a readable .npz .*pickle")
    np.savez(path, mu=np.zeros(2))
    refused(r"holds \['mu'\], lacks \['sigma'\]")
    np.savez(path, mu=np.zeros(2), sigma=np.eye(3))
    refused(r"mu \(2,\) and sigma \(3, 3\)")
    save_stats(path, Moments().update(np.eye(3)), features="pixels")
    refused("made with features='pixels', not 'resnet56'", features="resnet56")
    path.write_bytes(path.read_bytes()[:-200])
    refused("not a readable .npz")


def test_files_keep_all_that_metrics_read(tmp_path):
    made, path = whole(), tmp_path / "ref.npz"
    stats.save(path, made)
    needs = {"moments", "rows", "logits", "spatial", "labels"}
    found = load_stats(path, features=PIXELS, image_shape=(1, 1, 3), needs=needs)
    for ours, theirs in zip(found.seen, made.seen, strict=True):
        np.testing.assert_equal(ours, theirs)
    assert found.provenance == {
        "num_images": 9,
        "features": "pixels",
        "preprocessing": "default",
        "weights_sha256": None,
        "data": "abc",
        "image_shape": [1, 1, 3],
        "prepared": {"crop": 140, "flip": False},
        "statistics": None,
    }


def test_other_features_preprocessing_weights_or_sizes_are_named(tmp_path):
    path = tmp_path / "ref.npz"
    about = dict(preprocessing="clean", sha256="aa")
    stats.save(path, whole()._replace(features="inception", **about))

    def refused(match, name="inception", image_shape=(1, 1, 3), **changes):
        own = dict(name=name, preprocessing="clean", sha256="aa") | changes
        features = PIXELS.__class__(extractor=PIXELS.extractor, params={}, **own)
        with pytest.raises(DataError, match=match):
            load_stats(path, features=features, image_shape=image_shape)

    refused("features='inception', not 'dinov2'", name="dinov2")
    refused("preprocessing='clean', not 'legacy'", preprocessing="legacy")
    refused("weights_sha256='aa', not 'bb'", sha256="bb")
    refused(r"images of \[1, 1, 3\], not \[1, 1, 1\]", image_shape=(1, 1, 1))


def test_what_a_file_lacks_is_asked_for(tmp_path):
    """EDM's fid-refs, clean-fid's and pytorch-fid's hold mu and sigma alone."""
    path = tmp_path / "ref.npz"
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2))
    load_stats(path, features=PIXELS, needs={"moments"})
    words = "holds no rows, which the metrics read; make it with --make_reference"
    with pytest.raises(DataError, match=words):
        load_stats(path, features=PIXELS, needs={"moments", "rows"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(mu=np.array([np.nan, 0])), "holds NaN or infinity"),
        (dict(sigma=np.eye(2) * 1j), "sigma complex128 must be real"),
        (dict(sigma=np.array([[1.0, 1.0], [0.0, 1.0]])), "sigma is not symmetric"),
        (dict(sigma=-np.eye(2)), "a covariance has none below 0"),
        (dict(sigma=np.diag([1.0, -5e-4])), "a covariance has none below 0"),
        (dict(sigma=np.eye(2)[:1]), r"sigma \(1, 2\) must be"),
        (dict(prepared="[1"), "prepared is no JSON"),
        (dict(num=1), "num=1 must be the number of images"),
        (dict(rows=np.zeros((3, 3))), r"rows float64\[3, 3\] are no finite features"),
        (dict(rows=np.full((3, 2), np.inf)), "are no finite features of 3 images"),
        (dict(logits=np.zeros((2, 5))), r"logits float64\[2, 5\] are no finite"),
        (dict(labels=np.zeros(3)), r"labels float64\[3\] are none of 3 images"),
        (dict(spatial_mu=np.zeros(2), spatial_sigma=-np.eye(2)), "below 0"),
    ],
)
def test_what_are_no_statistics_is_refused(change, words, tmp_path):
    path = tmp_path / "ref.npz"
    np.savez(path, **dict(mu=np.zeros(2), sigma=np.eye(2), num=3) | change)
    with pytest.raises(DataError, match=words):
        load_stats(path)


def test_files_of_kid_by_clean_fid_are_features(tmp_path):
    """f32[N, D] called feats, and nothing else."""
    path, feats = tmp_path / "set_kid.npz", np.random.default_rng(0).normal(size=(9, 3))
    np.savez_compressed(path, feats=feats.astype(np.float32))
    assert stats.is_stats(path)
    found = load_stats(path, features=PIXELS, dim=3, needs={"rows", "moments"})
    np.testing.assert_array_equal(found.seen.rows, feats.astype(np.float32))
    np.testing.assert_allclose(found.sigma, np.cov(feats.T), rtol=1e-5)
    assert found.num == 9 and found.features is None
    with pytest.raises(DataError, match="has 3 features, and pixels are 4"):
        load_stats(path, features=PIXELS, dim=4)
    for wrong in (feats[0], feats[:1], feats * np.nan, feats.astype(int), feats * 1j):
        np.savez(path, feats=wrong)
        with pytest.raises(DataError, match="feats .* are no finite features of two"):
            load_stats(path)
    np.savez(path, feats=feats, images=np.zeros((3, 4, 4, 3), np.uint8))
    assert not stats.is_stats(path)
