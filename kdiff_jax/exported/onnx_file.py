"""A model as an ONNX file, by jax2onnx, checked against itself by onnxruntime."""

import importlib
import importlib.util
from typing import Any

import jax
import numpy as np

from kdiff_jax.errors import ConfigError, NumericsError
from kdiff_jax.exported import about
from kdiff_jax.exported.about import Images, Read
from kdiff_jax.interop import asked
from kdiff_jax.interop.model import Model
from kdiff_jax.networks import norms
from kdiff_jax.samplers import Sampler

MAX_BYTES = 2**31 - 2**20  # of weights: a file of protobuf ends at 2 GiB
_LIBRARIES = ("jax2onnx", "onnxruntime")
TOLERANCE = 1e-4  # of images in [-1, 1]


def onnx(
    model: Model,
    sampler: Sampler | None,
    *,
    batch_size: int,
    images: Images = "uint8",
    read: Read | None = None,
) -> tuple[bytes, float]:
    """(an ONNX file, how far its results are from the model's).

    Its inputs are z f32[B, h, w, D] ~ N(0, I) and y, its output `images`; or x_t, t and
    y, and `x0_hat`. Conversion takes functions as they stand, which fixes B.

    Args:
        model: One student.
        sampler: Sampler that makes the images and draws no noise; None for the denoiser
            alone, see `stablehlo.denoiser`.
        batch_size: B.
        images: See `stablehlo.generator`.
        read: See `stablehlo.generator`.

    Raises:
        ConfigError: If jax2onnx or onnxruntime is not installed, there are several
            students, the sampler draws noise, or the weights are too large.
        NumericsError: If results are further apart than 1e-4.
    """
    _check(model, sampler)
    if sampler is not None and images != "latents":
        about.check_decoder(model, images)
    y, x = about.y_of(model, read), (batch_size, *model.net.image_shape)
    given = {"y": np.zeros((batch_size, *y.shape), y.dtype)}
    noise = np.random.default_rng(0).standard_normal(x).astype(np.float32)
    if sampler is None:
        function, result = _denoiser(model), "x0_hat"
        times = model.process.t_max * np.full(batch_size, 0.5, np.float32)
        given = {"x_t": noise, "t": times.astype(np.float32), **given}
    else:
        function, result = _generator(model, sampler, images), "images"
        given = {"z": noise, **given}
    # First: while it converts, jax2onnx has its own of many functions of JAX.
    expected = np.asarray(jax.jit(function)(*given.values()))
    with norms.barriers(False):
        content = _converted(function, given, result)
    difference = _difference(content, given, expected)
    if not difference <= (1 if expected.dtype == np.uint8 else TOLERANCE):
        raise NumericsError(
            f"--target=onnx: results differ from the model's by {difference:.2g}; take"
            " --target=stablehlo"
        )
    return content, difference


def _check(model: Model, sampler: Sampler | None) -> None:
    for library in _LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise ConfigError(
                f"--target=onnx: needs {library}; pip install 'kdiff_jax[onnx]'"
            )
    if model.num_students > 1:
        raise ConfigError(
            f"--target=onnx: holds one network, and this model has"
            f" {model.num_students} students; choose one with --student=0 to"
            f" {model.num_students - 1}, or take --target=stablehlo"
        )
    if sampler is not None and about.draws_noise(sampler):
        raise ConfigError(
            f"--target=onnx: the sampler {sampler.name!r} draws noise in each step;"
            " take one that does not, as --sampler=ddim, or --target=stablehlo"
        )
    leaves = jax.tree.leaves((model.params, dict(model.frozen)))
    if (size := sum(x.nbytes for x in leaves)) > MAX_BYTES:
        raise ConfigError(
            f"--target=onnx: the weights take {size / 1e9:.3g} GB, and a file holds"
            f" {MAX_BYTES / 1e9:.3g}; take --target=stablehlo"
        )


def _generator(model: Model, sampler: Sampler, images: Images):
    net, frozen = model.net, model.frozen

    def run(z, y):
        def denoise(x_t, t, y, **told):
            return net.apply(model.params, x_t, t, y, **told)

        x0 = sampler.sample(denoise, z, net.conditions.take(frozen, y))
        if images == "latents":
            return x0
        space = net.space
        return (space.to_pixels if images == "uint8" else space.to_images)(frozen, x0)

    return run


def _denoiser(model: Model):
    def run(x_t, t, y):
        t = 1 - t if model.is_reversed else t
        told = asked.guidance_keyword(None, x_t.shape[0], model.spec)
        cond = model.net.conditions.take(model.frozen, y)
        return model.net.apply(model.params, x_t, t, cond, **told)

    return run


def _converted(function, given: dict[str, np.ndarray], result: str) -> bytes:
    jax2onnx: Any = importlib.import_module("jax2onnx")  # an extra
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in given.values()]
    names: dict[str, Any] = dict(input_names=[*given], output_names=[result])
    converted: Any = jax2onnx.to_onnx(function, shapes, model_name="kdiff_jax", **names)
    return converted.SerializeToString()


def _difference(content: bytes, given, expected: np.ndarray) -> float:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    onnxruntime.set_default_logger_severity(3)  # of what it leaves out it warns
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    read = {node.name for node in session.get_inputs()}
    (found,) = session.run(None, {k: v for k, v in given.items() if k in read})
    return float(np.abs(np.asarray(found, np.float64) - expected).max())
