"""What frozen networks of other projects share: their files, and what they see.

Their modules carry the names of torchvision and timm, so that a parameter's path is its
name there: `features.0` / `kernel` is `features.0.weight`. `weights_files` finds files.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array
from jaxtyping import Float

from kdiff_jax import arrays
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.files import Unreadable
from kdiff_jax.formats import containers, lazy, torch_modules
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.formats.pickle_objects import Stub
from kdiff_jax.formats.torch_files import Persistent
from kdiff_jax.types import Params

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Features must not depend on the accelerator: TPUs and GPUs would multiply in less.
PRECISION = jax.lax.Precision.HIGHEST
BN_EPS = 1e-5  # PyTorch's
SIZE = 224  # of the images that all of these networks were trained on

Renaming = Callable[[dict[str, Lazy]], dict[str, Lazy]]
WRAPPERS = ("state_dict", "model")  # where training scripts put the weights
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


class FixedBatchNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias, with stored mean and var."""

    eps: float = BN_EPS

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        shape = x.shape[-1:]
        scale = self.param("scale", ones, shape)
        bias = self.param("bias", zeros, shape)
        mean = self.param("mean", zeros, shape)
        var = self.param("var", ones, shape)
        factor = scale / jnp.sqrt(var + self.eps)
        return x * factor[None, None, None] + (bias - mean * factor)[None, None, None]


def conv(
    num_channels: int,
    size: int,
    *,
    stride: int = 1,
    padding: int | str = 0,
    groups: int = 1,
    bias: bool = True,
    dtype: str,
    name: str,
) -> nn.Conv:
    """A convolution with PyTorch's padding, or "SAME" for TensorFlow's."""
    return nn.Conv(
        num_channels,
        (size, size),
        strides=stride,
        padding=[(padding, padding)] * 2 if isinstance(padding, int) else padding,
        feature_group_count=groups,
        use_bias=bias,
        precision=PRECISION,
        dtype=dtype,
        name=name,
    )


def resize(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B {size} {size} C"]:
    """Bilinear, pixel centres at halves (align_corners False), no antialiasing."""
    shape = (x.shape[0], size, size, x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def normalise(
    x: Float[Array, "B H W 3"],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Float[Array, "B H W 3"]:
    """Images in [-1, 1] as a network expects them: ((x + 1) / 2 - mean) / std."""
    shift, scale = 2 * jnp.array(mean) - 1, 2 * jnp.array(std)
    return (x - shift[None, None, None]) / scale[None, None, None]


def check_rgb(x: Array, network: str) -> None:
    """Raises ConfigError if images have no three channels."""
    if x.ndim != 4 or x.shape[-1] != 3:
        raise ConfigError(
            f"images={x.shape}: {network} reads RGB, [B, H, W, 3]; repeat grey channels"
        )


def shapes(module: Any) -> Params:
    """Shapes of the parameters of a Flax module, without its file."""
    return _shapes(module)


@functools.cache
def _shapes(module: Any) -> Params:
    images = jnp.zeros((1, SIZE, SIZE, 3))
    return jax.eval_shape(lambda: module.init(jax.random.key(0), images)["params"])


def load(
    module: nn.Module,
    path: str | os.PathLike,
    *,
    network: str,
    wanted: str,
    ignored: tuple[str, ...] = (),
    rename: Renaming = dict,
) -> Params:
    """The parameters of `module` from a state dict of torchvision or timm.

    Float32, whatever type of floating point the file has.

    Args:
        module: Called with images f32[1, 224, 224, 3].
        path: A .pth of torch.save, safetensors or .npz, with PyTorch's names.
        network: Name of the network in messages.
        wanted: File to give, and where it is from, for messages.
        ignored: Starts of names that the features do not need, such as classifiers.
        rename: Arrays of the file -> the same under PyTorch's names.

    Raises:
        CheckpointError: If the file is missing, damaged, or of another network.
    """
    found = rename(read("weights", path, wanted))
    about = f"weights={path}: not {network}", wanted
    return params_of(module, found, *about, ignored=ignored)


def params_of(
    module: nn.Module,
    arrays: Mapping[str, Lazy],
    start: str,
    wanted: str,
    ignored: tuple[str, ...] = (),
) -> Params:
    """As `load`, of arrays under PyTorch's names.

    Args:
        module: See `load`.
        arrays: Arrays of a file.
        start: Start of the message of an error, see `check`.
        wanted: See `load`.
        ignored: See `load`.

    Raises:
        CheckpointError: If they are another network's, or not finite.
    """
    leaves: dict = traverse_util.flatten_dict(shapes(module))
    names = {leaf: torch_name(leaf) for leaf in leaves}
    found = {
        name: array
        for name, array in arrays.items()
        # BatchNorm's counter of training steps: PyTorch stores it, nothing reads it.
        if not name.startswith(ignored) and not name.endswith("num_batches_tracked")
    }
    check(
        start,
        found,
        {names[leaf]: _torch_shape(leaf, x.shape) for leaf, x in leaves.items()},
        wanted,
    )
    params, wild = {}, []
    for leaf, name in names.items():
        value = _array(leaf, found[name])
        wild += [] if np.isfinite(value).all() else [f"{name} has NaN or infinity"]
        params[leaf] = jnp.asarray(value)
    _refuse(start, wild, wanted)
    return traverse_util.unflatten_dict(params)


def read(argument: str, path: str | os.PathLike, wanted: str) -> dict[str, Lazy]:
    """The arrays of a file by name; nothing in it is executed.

    Args:
        argument: What held the path, for messages.
        path: See `load`.
        wanted: See `load`.

    Raises:
        CheckpointError: If it is missing or damaged, or holds no arrays by name.
    """
    path = pathlib.Path(os.path.expanduser(path))
    if not path.is_file():
        raise CheckpointError(f"{argument}={path}: no such file; give {wanted}")
    if path.suffix == ".npz":
        try:
            return {name: lazy.of(array) for name, array in arrays.load(path).items()}
        except (OSError, Unreadable) as error:
            raise CheckpointError(
                f"{argument}={path}: not a readable .npz ({error}); give {wanted}"
            ) from None
    try:
        content = containers.open(path).content
    except CheckpointError as error:  # its text begins with the path
        raise CheckpointError(f"{argument}={error}; give {wanted}") from error
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping | Stub | Persistent):
        raise CheckpointError(f"{argument}={path}: no state dict; give {wanted}")
    return torch_modules.arrays(content)


def check(
    start: str,
    found: Mapping[str, Lazy],
    shapes: Mapping[str, tuple[int, ...]],
    wanted: str,
) -> None:
    """Raises CheckpointError, naming the first wrong arrays, unless all fit.

    Args:
        start: Start of the message: the argument, and what the file is not.
        found: The arrays of the file.
        shapes: Expected shapes, by name.
        wanted: File to give, for the message.
    """
    wrong = [
        *(f"{name} missing" for name in shapes if name not in found),
        *(f"{name} unknown" for name in found if name not in shapes),
        *(
            f"{name} has shape {found[name].shape}"
            for name, shape in shapes.items()
            if name in found and found[name].shape != shape
        ),
        *(
            f"{name} is {found[name].dtype}, no floating point"
            for name in shapes
            if name in found and not jnp.issubdtype(found[name].dtype, jnp.floating)
        ),
    ]
    _refuse(start, wrong, wanted)


def _refuse(start: str, wrong: list[str], wanted: str) -> None:
    """Raises CheckpointError if anything is wrong, of which it names the first."""
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{start}: {', '.join(wrong[:3])}{more}; give {wanted}")


def torch_name(leaf: tuple[str, ...]) -> str:
    """("features.0", "kernel") -> "features.0.weight"."""
    return ".".join([*leaf[:-1], LEAVES.get(leaf[-1], leaf[-1])])


def _torch_shape(leaf, shape):
    """HWIO -> OIHW, [in, out] -> [out, in]; all that is no kernel as it is."""
    if leaf[-1] != "kernel":
        return shape
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _array(leaf, array):
    if leaf[-1] == "kernel":
        axes = (2, 3, 1, 0) if len(array.shape) == 4 else (1, 0)
        array = array.transpose(*axes)
    return np.asarray(array.read(), np.float32)
