"""Inception-v3 of 2015 as the Frechet Inception Distance has it, frozen.

It is the network of TensorFlow's `inception-2015-12-05.tgz`, which PyTorch's files are
translations of. From torchvision's it differs in three things: average pools that do
not count their padding, a max pool in the last block, and 1008 logits.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Num

from kdiff_jax.features import Extractor, WeightsFile, frozen, inception_names
from kdiff_jax.features.frozen import PRECISION
from kdiff_jax.features.resize import resize
from kdiff_jax.types import Params

FILE = WeightsFile(
    "pt_inception-2015-12-05-6726825d.pth",
    "github.com/mseitzer/pytorch-fid, release fid_weights",
    95_628_359,
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    "Apache-2.0",
    # NVIDIA's inception-2015-12-05.pt, which clean-fid reads, too.
    ("f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",),
)
SIZE = 299  # of the images that it sees
NUM_LOGITS = 1008
BN_EPS = 1e-3
NUM_SPATIAL = 7  # channels, so that there are about as many features as pooled ones
DIMS = {
    "64": 64,  # means over the image, of the two max pools, the blocks "6" and "7"
    "192": 192,
    "768": 768,
    "2048": 2048,
    "logits": NUM_LOGITS,
    "logits_unbiased": NUM_LOGITS,  # without the bias, which the first code left out
    "spatial": 17 * 17 * NUM_SPATIAL,
}

# A branch is a list of layers: (name, channels, size of the kernel), a pool, or a list
# of convolutions side by side. A fourth entry is the stride, of those that change the
# size.
HALF, MAX = "max, stride 2", "max"
POOLED = "branch_pool, averaged"


def _block_a(pooled):
    return [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [
            ("branch3x3dbl_1", 64, 1),
            ("branch3x3dbl_2", 96, 3),
            ("branch3x3dbl_3", 96, 3),
        ],
        [(POOLED, pooled, 1)],
    ]


BLOCK_B = [
    [("branch3x3", 384, 3, 2)],
    [
        ("branch3x3dbl_1", 64, 1),
        ("branch3x3dbl_2", 96, 3),
        ("branch3x3dbl_3", 96, 3, 2),
    ],
    [HALF],
]


def _block_c(num):
    return [
        [("branch1x1", 192, 1)],
        [
            ("branch7x7_1", num, 1),
            ("branch7x7_2", num, (1, 7)),
            ("branch7x7_3", 192, (7, 1)),
        ],
        [
            ("branch7x7dbl_1", num, 1),
            ("branch7x7dbl_2", num, (7, 1)),
            ("branch7x7dbl_3", num, (1, 7)),
            ("branch7x7dbl_4", num, (7, 1)),
            ("branch7x7dbl_5", 192, (1, 7)),
        ],
        [(POOLED, 192, 1)],
    ]


BLOCK_D = [
    [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)],
    [
        ("branch7x7x3_1", 192, 1),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4", 192, 3, 2),
    ],
    [HALF],
]


def _block_e(pooled):
    return [
        [("branch1x1", 320, 1)],
        [
            ("branch3x3_1", 384, 1),
            [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))],
        ],
        [
            ("branch3x3dbl_1", 448, 1),
            ("branch3x3dbl_2", 384, 3),
            [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))],
        ],
        pooled,
    ]


BLOCKS: dict[str, list] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": BLOCK_B,
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": BLOCK_D,
    "Mixed_7b": _block_e([(POOLED, 192, 1)]),
    "Mixed_7c": _block_e([MAX, ("branch_pool", 192, 1)]),
}


class Conv(nn.Module):
    """Convolution without a bias, fixed batch norm, ReLU.

    Attributes:
        size: Side of the kernel, or (height, width).
        stride: 1, or 2.
        same: Padding with zeros, so that a stride of 1 keeps the size; else none.
        averages: Over windows of 3 pixels, of which padding is no part. The network
            averages what a kernel of 1 reads; that is the same, and of more channels.
    """

    num_channels: int
    size: int | tuple[int, int]
    stride: int = 1
    same: bool = True
    averages: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        fields: dict[str, Any] = dict(
            strides=self.stride,
            padding="SAME" if self.same else "VALID",
            use_bias=False,
            precision=PRECISION,
            name="conv",
        )
        x = nn.Conv(self.num_channels, size, **fields)(x)
        if self.averages:
            x = nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)
        return nn.relu(frozen.FixedBatchNorm(eps=BN_EPS, name="bn")(x))


class Inception(nn.Module):
    """Inception-v3 with 1008 logits; 23,850,960 parameters, the statistics not counted.

    Source: Szegedy et al. 2016, arXiv:1512.00567; the released graph of 2015-12-05.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B _D"]]:
        """Features by the names of `DIMS`.

        Args:
            x: Images of 299 pixels in [-1, 1], see `PREPROCESSINGS`.
        """
        found = {}
        x = Conv(32, 3, 2, same=False, name="Conv2d_1a_3x3")(x)
        x = Conv(32, 3, same=False, name="Conv2d_2a_3x3")(x)
        x = _max_pool(Conv(64, 3, name="Conv2d_2b_3x3")(x))
        found["64"] = x.mean(axis=(1, 2))
        x = Conv(80, 1, name="Conv2d_3b_1x1")(x)
        x = _max_pool(Conv(192, 3, same=False, name="Conv2d_4a_3x3")(x))
        found["192"] = x.mean(axis=(1, 2))
        for block, branches in BLOCKS.items():
            ends = [_branch(block, layers, x) for layers in branches]
            if block == "Mixed_6d":
                kept = ends[0][..., :NUM_SPATIAL]
                found["spatial"] = kept.reshape(len(kept), -1)
            x = jnp.concatenate(ends, axis=-1)
            if block == "Mixed_6e":
                found["768"] = x.mean(axis=(1, 2))
        found["2048"] = x.mean(axis=(1, 2))
        dense: Any = nn.Dense(
            NUM_LOGITS, use_bias=False, precision=PRECISION, name="fc"
        )
        found["logits_unbiased"] = dense(found["2048"])
        bias = self.param("fc.bias", nn.initializers.zeros, (NUM_LOGITS,))
        found["logits"] = found["logits_unbiased"] + bias[None]
        return found


def _branch(block, layers, x):
    for layer in layers:
        if isinstance(layer, str):
            x = _max_pool(x) if layer == HALF else _max_pool(x, 1, "SAME")
        elif isinstance(layer, list):
            x = jnp.concatenate([_branch(block, [part], x) for part in layer], axis=-1)
        else:
            name, num_channels, size, *stride = layer
            fields: dict[str, Any] = dict(same=not stride, averages=name == POOLED)
            name = f"{block}.{name.removesuffix(', averaged')}"
            x = Conv(num_channels, size, 2 if stride else 1, **fields, name=name)(x)
    return x


def _max_pool(x, stride=2, padding="VALID"):
    return nn.max_pool(x, (3, 3), (stride, stride), padding)


class Preprocessing(NamedTuple):
    """How images of bytes become what the network sees.

    Attributes:
        resize: To 299 pixels, see `resize`.
        scale: 0, ..., 255 to about [-1, 1].
    """

    resize: str
    scale: Callable[[Array], Array]


def _by_128(x):
    return (jnp.clip(x, 0, 255) - 128) / 128


def _by_255(x):
    return 2 * x / 255 - 1


PREPROCESSINGS = {
    "torch-fidelity": Preprocessing("tf1", _by_128),
    "nvidia": Preprocessing("tf1", _by_128),  # EDM's too
    "pytorch-fid": Preprocessing("torch", _by_255),
    "clean-fid": Preprocessing("bicubic", _by_128),
    "legacy-pytorch": Preprocessing("torch", _by_128),  # clean-fid's name of it
}


def extract(
    params: Params, images: Num[Array, "B H W 3"], preprocessing: str
) -> dict[str, Float[Array, "B _D"]]:
    """Features by the names of `DIMS`.

    Args:
        params: Parameters from `load`.
        images: In 0, ..., 255, of any size.
        preprocessing: One of `PREPROCESSINGS`.
    """
    how = PREPROCESSINGS[preprocessing]
    x = resize(images.astype(jnp.float32), (SIZE, SIZE), how.resize)
    return Inception().apply({"params": params}, how.scale(x))  # type: ignore[return-value]


def load(path: str | os.PathLike) -> Params:
    """Parameters from a file of pytorch-fid, torch-fidelity or NVIDIA; see `frozen`.

    Args:
        path: The .pth of `FILE`, an .npz with the same names, or NVIDIA's pickle or
            TorchScript archive of the same network.

    Raises:
        CheckpointError: If the file is missing, damaged, or of another network.
    """
    return frozen.load(
        Inception(),
        path,
        network="FID's Inception-v3",
        wanted=FILE.wanted,
        rename=inception_names.renamed,
    )


EXTRACTOR = Extractor(
    DIMS,
    main="2048",
    extract=extract,
    preprocessings=tuple(PREPROCESSINGS),
    logits="logits_unbiased",
    spatial="spatial",
    figures={"fd": "fid", "kd": "kid", "sfd": "sfid", "fd_inf": "fid_inf"},
    cpu_batch=4,  # buffers of 64 MiB and more are got from the kernel in every call
)
