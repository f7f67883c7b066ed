"""The projected discriminator: small trained heads on features that never train.

Sauer et al. 2021, arXiv:2111.01007, as Zheng & Yang 2024, arXiv:2405.20750, use it.
The features of a network are first mixed, by random convolutions that never train
either, across channels (CCM) and across sizes (CSM); then each size has a head.
"""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kdiff_jax import arrays
from kdiff_jax.discriminators.spectral import SpectralConv, torch_uniform
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.features import frozen
from kdiff_jax.files import Unreadable
from kdiff_jax.types import Params

TABLE = "embedding/embedding"  # of a head, end of the path of its leaf
SLOPE = 0.2  # of the leaky ReLUs
EMBEDDING_DIM = 320  # of a class: that of the authors' classifier


class Discriminator(nn.Module):
    """Logits of images from a list of feature maps of one network.

    With four maps of 56, 28, 14 and 7 pixels this is the network of the paper. In
    general there are L maps, c_0 (finest) to c_{L-1}, maps of equal size counting as
    one with the channels of both, and:

    - CCM takes c_i to `width` 2^i channels, CSM makes y_i with the size of c_{i-1}, and
      y_0 with twice the size of c_0;
    - head i reads y_i and has L - i blocks, the last of `width` 2^(L-1) channels. A
      block halves its map, unless that is smaller than 8 pixels: then a 3x3 convolution
      keeps it (the paper has no such maps);
    - the last convolution is 4x4, or as large as a smaller map, without padding.

    Attributes:
        width: Channels of the finest map; 64 in the paper.
        num_classes: Number of classes that the logits depend on; 0 if unconditional.
        cond_dim: Length of the vectors that conditions are; 0 for labels.
        group: Examples that share the statistics of a batch norm; must divide B.
        pyramid: Channels of `Pyramid`, finest first, for a network whose maps have one
            size; () leaves the maps as they are.
        embedding_dim: Width of the row that a head has for each class.
        dtype: Type of the convolutions' operands; norms and logits are float32.
    """

    width: int = 64
    num_classes: int = 0
    cond_dim: int = 0
    group: int = 1
    pyramid: tuple[int, ...] = ()
    embedding_dim: int = EMBEDDING_DIM
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        features: Sequence[Array],
        y: Int[Array, " B"] | Float[Array, "B D"] | None = None,
    ) -> Float[Array, "B L"]:
        """Every logit of every head, in float32; see `SpectralConv` for the state."""
        if self.pyramid:
            # Under the projection: it is random and never trains, as that.
            pyramid = Pyramid(self.pyramid, self.dtype, name="projection_pyramid")
            features = pyramid(features)
        maps = by_size(features)
        batch = maps[0].shape[0]
        if batch % self.group:
            raise ConfigError(
                f"virtual_local_batch={self.group}: does not divide the {batch} images"
                " of one device and microbatch; take a divisor, or fewer devices"
            )
        widths = tuple(self.width * 2**i for i in range(len(maps)))
        inputs = Projection(widths, self.dtype, name="projection")(maps)
        logits = []
        for i, x in enumerate(inputs):
            head = Head(
                widths[i:],
                self.num_classes,
                self.cond_dim,
                self.group,
                self.embedding_dim,
                dtype=self.dtype,
                name=f"head_{i}",
            )
            logits.append(head(x, y))
        return jnp.concatenate(logits, axis=1)


def trainable(path: str) -> bool:
    """Whether a leaf of the discriminator trains: all but pyramid, CCM and CSM."""
    return not any(part.startswith("projection") for part in path.split("/"))


def with_table(params: Params, table: Float[Array, "N D"]) -> Params:
    """Parameters of discriminators whose heads all have this table of the classes.

    Args:
        params: Those of one or several `Discriminator` with `num_classes` = N and
            `embedding_dim` = D.
        table: The rows of the classes.
    """

    def of(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return table if name.endswith(TABLE) else leaf

    return jax.tree_util.tree_map_with_path(of, params)


def load_embedding(
    path: str | os.PathLike, num_classes: int, dim: int
) -> Float[Array, "{num_classes} {dim}"]:
    """A table of the classes from a file, one row each.

    Args:
        path: An .npy, or an .npz, safetensors or pickle that holds one array [N, D], as
            the authors' pickle of an Embedding does; no code in it is run.
        num_classes: Number of classes; if the table has more rows, the first are taken,
            as the authors take those of ImageNet for CIFAR-10.
        dim: D.

    Raises:
        CheckpointError: If it is missing or damaged, or no such table.
    """
    path = pathlib.Path(os.path.expanduser(path))
    start = f"class_embedding={path}"
    wanted = (
        "an .npy, .npz, safetensors or pickle of one table"
        f" [{num_classes} or more, {dim}]"
    )
    if path.suffix == ".npy" and path.is_file():
        try:
            found = [arrays.load_one(path)]
        except (OSError, Unreadable) as error:
            raise CheckpointError(
                f"{start}: not a readable .npy ({error}); give {wanted}"
            ) from None
    else:
        leaves = frozen.read("class_embedding", path, wanted)
        found = [leaf.read() for leaf in leaves.values()]
    if len(found) != 1:
        raise CheckpointError(f"{start}: {len(found)} arrays; give {wanted}")
    (table,) = found
    if table.ndim != 2 or len(table) < num_classes or not table.size:
        raise CheckpointError(f"{start}: its shape is {table.shape}; give {wanted}")
    if table.shape[1] != dim:
        raise CheckpointError(
            f"{start}: its rows have {table.shape[1]} entries, and"
            f" class_embedding_dim={dim}; set class_embedding_dim={table.shape[1]}"
        )
    if table.dtype.kind not in "fiu" or not np.isfinite(table).all():
        raise CheckpointError(f"{start}: holds no finite numbers; give {wanted}")
    return jnp.asarray(table[:num_classes], jnp.float32)


def by_size(features: Sequence[Array]) -> list[Array]:
    """Finest first; maps of equal size are one map with the channels of all."""
    sizes = sorted({f.shape[1:3] for f in features}, reverse=True)
    return [
        jnp.concatenate([f for f in features if f.shape[1:3] == size], axis=-1)
        for size in sizes
    ]


class Pyramid(nn.Module):
    """Four sizes from four maps of one size, as of a vision transformer's blocks.

    Map i gets widths[i] channels by a 1x1 convolution, and then 4, 2, 1 and 1/2 times
    its size: by transposed convolutions of that size and stride, nothing, and a 3x3
    convolution of stride 2. Random convolutions, which never train.

    Attributes:
        widths: Channels, finest first.

    Source: Ranftl et al. 2021, arXiv:2103.13413, Section 3, as the code of Zheng & Yang
        2024, arXiv:2405.20750, has it.
    """

    widths: tuple[int, ...]
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "B H W C"]]
    ) -> list[Float[Array, "B _H _W _C"]]:
        x, y, z, w = (
            _conv(x, width, f"to_{i}", self.dtype)
            for i, (x, width) in enumerate(zip(maps, self.widths, strict=True))
        )
        init = torch_uniform(9 * w.shape[-1])
        halve = nn.Conv(
            w.shape[-1],
            (3, 3),
            strides=2,
            padding=((1, 1), (1, 1)),
            kernel_init=init,
            bias_init=init,
            dtype=self.dtype,
            name="down_3",
        )
        enlarged = _times(x, 4, "up_0", self.dtype), _times(y, 2, "up_1", self.dtype)
        return [*enlarged, z, halve(w)]


class Projection(nn.Module):
    """CCM, then CSM: y_i = conv1x1(up(y_{i+1} + c_i)) from the coarsest map on.

    Attributes:
        widths: Channels of the mixed maps, finest first; y_i has those of c_{i-1}.
    """

    widths: tuple[int, ...]
    dtype: str = "float32"

    @nn.compact
    def __call__(self, maps: Sequence[Array]) -> list[Array]:
        mixed = [
            _conv(x, width, f"ccm_{i}", self.dtype)
            for i, (x, width) in enumerate(zip(maps, self.widths, strict=True))
        ]
        outs, y = [], None
        for i in reversed(range(len(mixed))):
            y = mixed[i] if y is None else y + mixed[i]
            twice = (2 * y.shape[1], 2 * y.shape[2])
            size = mixed[i - 1].shape[1:3] if i else twice
            width = self.widths[max(i - 1, 0)]
            y = _conv(enlarge(y, size), width, f"csm_{i}", self.dtype)
            outs.append(y)
        return outs[::-1]


class Head(nn.Module):
    """Blocks of convolution, batch norm and leaky ReLU; a last convolution.

    With labels the last convolution has 64 channels, and a logit is their product with
    an embedding of the label, over sqrt(64) (Miyato & Koyama 2018, arXiv:1802.05637).
    """

    widths: tuple[int, ...]
    num_classes: int
    cond_dim: int
    group: int
    embedding_dim: int
    condition_dim: int = 64
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        y: Int[Array, " B"] | Float[Array, "B D"] | None,
    ) -> Float[Array, "B L"]:
        for i, width in enumerate(self.widths):
            halves = min(x.shape[1:3]) >= 8
            size, stride = (4, 2) if halves else (3, 1)
            fields: dict[str, Any] = dict(padding=1, dtype=self.dtype, name=f"conv_{i}")
            x = SpectralConv(width, size, stride, **fields)(x)
            x = GroupedBatchNorm(self.group, name=f"norm_{i}")(x)
            x = nn.leaky_relu(x, SLOPE)
        width = self.condition_dim if self.num_classes else 1
        size = min(4, *x.shape[1:3])
        last = SpectralConv(width, size, use_bias=False, dtype=self.dtype, name="last")
        x = last(x).astype(jnp.float32)
        if self.num_classes:
            embedded: Any = y
            dim = self.cond_dim
            if not dim:
                dim = self.embedding_dim
                embedded = nn.Embed(
                    self.num_classes,
                    dim,
                    embedding_init=nn.initializers.normal(1.0),
                    name="embedding",
                )(y)
            dense = nn.Dense(
                width, kernel_init=nn.initializers.normal(1.0), name="condition"
            )
            # The kernel is N(0, 1) and its gain stands outside, as in StyleGAN.
            rows = dense(embedded / math.sqrt(dim))
            rows = math.sqrt(2) * nn.leaky_relu(rows, SLOPE)
            x = (x * rows[:, None, None]).sum(axis=-1) / math.sqrt(width)
        return x.reshape(x.shape[0], -1)


class GroupedBatchNorm(nn.Module):
    """Batch norm in training mode, with the statistics of `group` examples each.

    Groups are neighbours in the global batch, so that the result does not depend on how
    many devices share it. There is no evaluation mode: a discriminator never needs it.
    """

    group: int
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        x = x.astype(jnp.float32)
        parts = x.reshape(-1, self.group, *x.shape[1:])
        mean = parts.mean(axis=(1, 2, 3), keepdims=True)
        var = jnp.mean((parts - mean) ** 2, axis=(1, 2, 3), keepdims=True)
        x = ((parts - mean) * jax.lax.rsqrt(var + self.eps)).reshape(x.shape)
        return x * scale[None, None, None] + bias[None, None, None]


def enlarge(x: Float[Array, "B H W C"], size) -> Float[Array, "B H2 W2 C"]:
    """Bilinear interpolation to (height, width); corners stay corners."""
    rows, columns = (
        _interpolation(old, new).astype(x.dtype)
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum("ih,bhwc->biwc", rows, x, precision=exact)
    return jnp.einsum("jw,biwc->bijc", columns, x, precision=exact)


def _interpolation(old: int, new: int) -> Float[Array, "new old"]:
    at = np.arange(new) * (old - 1) / max(new - 1, 1)
    distance = np.abs(at[:, None] - np.arange(old)[None])
    return jnp.asarray(np.maximum(1 - distance, 0), jnp.float32)


def _times(x, factor, name, dtype):
    width = x.shape[-1]
    # PyTorch takes the channels that come out for the fan-in of a transposed one.
    init = torch_uniform(factor**2 * width)
    size = (factor, factor)
    fields: dict[str, Any] = dict(kernel_init=init, bias_init=init, dtype=dtype)
    return nn.ConvTranspose(width, size, size, "VALID", **fields, name=name)(x)


def _conv(x, width, name, dtype):
    init = torch_uniform(x.shape[-1])
    fields: dict[str, Any] = dict(kernel_init=init, bias_init=init, dtype=dtype)
    return nn.Conv(width, (1, 1), **fields, name=name)(x)
