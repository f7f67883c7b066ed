"""Feature extractors: values, batches, one trace, and files that do not fit."""

import numpy as np
import pytest
import streams
import torch_resnet

from kdiff_jax import metrics
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.features import Extractor, resnet56
from kdiff_jax.features.resnet56 import ResNet


@pytest.fixture(scope="module")
def arrays():
    return torch_resnet.random_weights(np.random.default_rng(0), num_blocks=9)


def _images(num, size=8, channels=3):
    shape = (num, size, size, channels)
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)


def test_pixels_are_the_image_in_minus_one_to_one():
    images = np.array([[[[0], [255]], [[51], [204]]]], np.uint8)
    features = metrics.make("pixels")
    values = features.apply(images)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, [[-1, 1, -0.6, 0.6]], rtol=1e-15)
    assert metrics.figure_name(features, "fd") == "fd_pixels"


def test_resnet56_is_numpys_on_any_number_of_images_in_one_trace(
    arrays, tmp_path, monkeypatch
):
    traces = []

    class Counted(ResNet):
        def __call__(self, x):
            traces.append(x.shape)
            return super().__call__(x)

    monkeypatch.setattr(resnet56, "ResNet", Counted)
    # PyTorch's checkpoints count the training batches; that is no weight.
    np.savez(tmp_path / "w.npz", **arrays, **{"bn1.num_batches_tracked": np.array(7)})
    features = metrics.make("resnet56", weights=tmp_path / "w.npz", batch_size=2)
    images = _images(5)
    traces.clear()  # the one that asked for the shapes of the parameters
    values = features.apply(images)
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    std = np.array([0.229, 0.224, 0.225])[:, None, None]
    x = (images.transpose(0, 3, 1, 2) / 255 - mean) / std
    wanted, _ = torch_resnet.forward(arrays, x, num_blocks=9)
    assert values.shape == (5, 64) and values.dtype == np.float32
    # Fifty-five layers in float32; the fixtures' tolerance for network outputs.
    np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(features.apply(images[:1]), values[:1])
    assert features.apply(images[:0]).shape == (0, 64)
    assert traces == [(2, 8, 8, 3)]
    assert metrics.figure_name(features, "fd") == "fd_resnet56"


def test_the_public_file_of_resnet56_is_read(arrays, tmp_path):
    """In its form: torch.save of the training script's state, of DataParallel."""
    tensors = streams.Tensors()
    named = {f"module.{name}": tensors(array) for name, array in arrays.items()}
    whole = {"state_dict": named, "best_prec1": 93.39}
    path = tmp_path / resnet56.FILE.name
    for written in (streams.torch_zip, streams.torch_legacy):
        path.write_bytes(written(whole, tensors))
        found = metrics.make("resnet56", weights=path).params
        kernel = arrays["layer2.3.conv1.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(found["layer2.3"]["conv1"]["kernel"], kernel)


def test_few_images_do_not_cost_a_large_batch():
    shapes = []

    def extract(params, images, preprocessing):
        shapes.append(images.shape)
        return {"sums": images.astype("float32").sum(axis=(1, 2))}

    features = metrics.Features(
        "sums", Extractor({"sums": 3}, main="sums", extract=extract), {}, "default"
    )
    images = _images(33)
    np.testing.assert_array_equal(features.apply(images), images.sum(axis=(1, 2)))
    assert shapes == [(32, 8, 8, 3)]  # on a CPU; one program for both calls


def test_files_that_do_not_fit_are_refused_with_their_leaves(arrays, tmp_path):
    path = tmp_path / "w.npz"

    def refused(match):
        with pytest.raises(CheckpointError, match=match) as caught:
            metrics.make("resnet56", weights=path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    refused("no such file")
    path.write_bytes(b"not an archive")
    refused("not a readable .npz")
    few = {name: a for name, a in arrays.items() if name != "layer2.3.bn1.bias"}
    np.savez(path, **few)
    refused(r"layer2\.3\.bn1\.bias missing")
    np.savez(path, **arrays, **{"layer9.0.conv1.weight": np.zeros((1, 1, 3, 3))})
    refused(r"layer9\.0\.conv1\.weight unknown")
    np.savez(path, **{**arrays, "conv1.weight": np.zeros((16, 1, 3, 3))})
    refused(r"conv1\.weight has shape \(16, 1, 3, 3\)")
    np.savez(path, fc=np.zeros(3))
    refused("and 275 more; give resnet56-4bfd9763.th")


def test_wrong_usage_is_refused(arrays, tmp_path):
    with pytest.raises(
        ConfigError, match="features='vgg': unknown; choose one of .*pixels"
    ):
        metrics.make("vgg")
    with pytest.raises(ConfigError, match="pixels need none"):
        metrics.make("pixels", weights="w.npz")
    with pytest.raises(CheckpointError, match="resnet56 needs resnet56-4bfd9763.th"):
        metrics.make("resnet56")
    np.savez(tmp_path / "w.npz", **arrays)
    features = metrics.make("resnet56", weights=tmp_path / "w.npz")
    words = "features=resnet56: reads images of 3 channels, and these have 1; set"
    with pytest.raises(ConfigError, match=words):
        features.apply(_images(2, channels=1))
