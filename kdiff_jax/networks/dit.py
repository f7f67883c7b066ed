"""DiT: a transformer on patches; time and class set its norms (adaLN-Zero).

SiT is the same network, which reads t in [0, 1] as it is.
"""

import math
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdiff_jax.arguments import Count, NotNegative, Positive, Whole
from kdiff_jax.errors import ConfigError
from kdiff_jax.networks import layers
from kdiff_jax.networks.network import Network
from kdiff_jax.types import Keys

REVISION = 1  # see `networks.revision`
CLASS_LAYER = "class_table"  # reads one-hot labels
# Paths of the leaves that GDD-I freezes, see `freeze`: what stands in a transformer for
# the convolutions of a U-Net's blocks [inferred; the paper has U-Nets alone].
CONVOLUTIONS = r"blocks_\d+/(fc[12]|attn_out)/[^/]+"
FREQUENCIES = 256  # sines and cosines of the time

XAVIER = nn.initializers.xavier_uniform()
NORMAL = nn.initializers.normal(0.02)
ZEROS = nn.initializers.zeros
GELUS = {"tanh": True, "exact": False}  # whether it is the approximation


class Block(nn.Module):
    """Attention and MLP, each behind a norm whose scale, shift and gate are given.

    Attributes:
        num_heads: Heads of the attention.
        mlp_width: Size of the hidden layer of the MLP.
        mlp_norm_eps: Epsilon of the norm before the MLP.
        gelu: See `DiT`.
        qkv_bias: See `DiT`.
        dropout: Dropout rate, behind attention and within the MLP.
        dtype: Type of the activations and products.
    """

    num_heads: int
    mlp_width: int
    mlp_norm_eps: float
    gelu: str
    qkv_bias: bool
    dropout: float
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], emb: Float[Array, "B C"], keys: Keys | None
    ) -> Float[Array, "B H W C"]:
        width = x.shape[-1]

        def dense(width, name, **fields: Any):
            fields = {"kernel_init": XAVIER, "dtype": self.dtype, **fields}
            return nn.Dense(width, name=name, **fields)

        # shift, scale, gate of the attention, then of the MLP
        chunks = nn.Dense(6 * width, kernel_init=ZEROS, name="modulation")(nn.silu(emb))
        chunks = jnp.split(chunks[:, None, None, :], 6, axis=-1)

        h = modulated(x, *chunks[:2], eps=1e-6).astype(self.dtype)
        heads = (*x.shape[:3], self.num_heads, width // self.num_heads)
        q, k, v = (
            dense(width, name, use_bias=self.qkv_bias)(h).reshape(heads)
            for name in ("to_q", "to_k", "to_v")
        )
        h = layers.attend(q, k, v).reshape(x.shape)
        h = dense(width, "attn_out")(h)
        h = layers.Dropout(self.dropout, name="attn_dropout")(h, keys)
        x = x + (chunks[2] * h).astype(self.dtype)

        h = modulated(x, *chunks[3:5], eps=self.mlp_norm_eps).astype(self.dtype)
        h = nn.gelu(dense(self.mlp_width, "fc1")(h), approximate=GELUS[self.gelu])
        h = layers.Dropout(self.dropout, name="mlp_dropout")(h, keys)
        h = dense(width, "fc2")(h)
        return x + (chunks[5] * h).astype(self.dtype)


class DiT(Network):
    """F(x, c_noise, y). The defaults are DiT-XL/2, but for its outputs of a variance.

    A transformer has tokens of one size from end to end; what others call levels are
    parts of its depth. `encode` gives the tokens after the first quarter and the first
    half of the blocks, which is the bottleneck; `with_features` gives those after three
    quarters and all blocks as well. Each is a map, f32[B, H / patch, W / patch, C], and
    networks of other widths and depths have as many.

    No class, the last row of the authors' table, is a layer of its own, `null_class`.
    With `cond_dim` a linear layer without bias is in the place of both.

    Attributes:
        channels: Width of a token; even, and a multiple of 4 and of `num_heads`.
        num_blocks: Number of blocks.
        num_heads: Heads of the attention.
        patch_size: Side of a patch, in pixels of the latents.
        mlp_ratio: Size of the MLP's hidden layer over the width.
        freq_shift: Frequencies of the time are 10000^(-i / (128 - freq_shift)): 0 in
            the authors' definition, 1 in diffusers'.
        mlp_norm_eps: Epsilon of the norm before the MLP: 1e-6 in the authors'
            definition, 1e-5 in diffusers'. Other norms have 1e-6.
        gelu: "tanh", the approximation, or "exact".
        qkv_bias: Whether queries, keys and values have a bias.
        learned_variance: Whether as many output channels follow, for a variance. They
            are kept, and nothing here reads them.
        own_embeddings: Whether each block has layers of its own that embed time and
            class, as in folders that diffusers trained on; the last layer has the first
            block's.
        channel_mult, attn_resolutions: Fields of U-Nets; not read.

    The others are those of `Network`.

    Source: Peebles & Xie 2022, arXiv:2212.09748; Ma et al. 2024, arXiv:2401.08740.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import networks
        >>> fields = dict(channels=8, num_blocks=4, num_heads=2, num_classes=10)
        >>> module = networks.make("dit", **fields)
        >>> x = jnp.zeros((2, 8, 8, 4))
        >>> init = module.init_with_output
        >>> out, params = jax.eval_shape(init, jax.random.key(0), x, jnp.zeros(2))
        >>> out.shape, sum(leaf.size for leaf in jax.tree.leaves(params))
        ((2, 8, 8, 4), 7728)
    """

    channels: Count = 1152
    channel_mult: tuple[Count, ...] = (1,)
    num_blocks: Count = 28
    attn_resolutions: tuple[Count, ...] = ()
    out_channels: Count = 4
    num_classes: Whole = 1000
    num_heads: Count = 16
    patch_size: Count = 2
    mlp_ratio: Positive = 4.0
    freq_shift: NotNegative = 0.0
    mlp_norm_eps: Positive = 1e-6
    gelu: Literal["tanh", "exact"] = "tanh"
    qkv_bias: bool = True
    learned_variance: bool = False
    own_embeddings: bool = False

    @nn.compact
    def trunk(self, x, c_noise, cond, keys):
        self.check(x.shape)
        side = self.patch_size
        h = nn.Conv(
            self.channels,
            (side, side),
            strides=side,
            padding="VALID",
            kernel_init=_xavier_of_patches,
            dtype=self.dtype,
            name="patches",
        )(x)
        h = (h + positions(*h.shape[1:3], self.channels)[None]).astype(self.dtype)
        fields: dict[str, Any] = dict(
            num_heads=self.num_heads,
            mlp_width=int(self.mlp_ratio * self.channels),
            mlp_norm_eps=self.mlp_norm_eps,
            gelu=self.gelu,
            qkv_bias=self.qkv_bias,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        block_class = nn.remat(Block) if self.remat else Block
        beside = self.beside(cond)
        embs, tokens = [], []
        for i in range(self.num_blocks):
            if self.own_embeddings or not i:
                prefix = f"blocks_{i}_" if self.own_embeddings else ""
                embs.append(self.embed(c_noise, cond.rows, prefix) + beside)
            h = block_class(**fields, name=f"blocks_{i}")(h, embs[-1], keys)
            tokens.append(h)
        features = [tokens[math.ceil(k * len(tokens) / 4) - 1] for k in (1, 2, 3, 4)]
        out = self.last(h, embs[0])
        return out.astype(jnp.float32), features[:2], features[2:]

    def embed(self, c_noise, rows, prefix):
        """f32[B, C] of time and class, before the silu of the blocks."""

        def dense(name, **fields: Any):
            fields = {"kernel_init": NORMAL, **fields}
            return nn.Dense(self.channels, name=f"{prefix}{name}", **fields)

        times = layers.sinusoid(c_noise, FREQUENCIES, freq_shift=self.freq_shift)
        times = jnp.roll(times, FREQUENCIES // 2, axis=-1)  # the cosines come first
        emb = dense("time_1")(nn.silu(dense("time_0")(times)))
        if not self.width_of_rows:
            return emb
        exact: dict[str, Any] = dict(use_bias=False, precision="highest")  # picks a row
        emb += dense(CLASS_LAYER, **exact)(rows)
        if self.cond_dim:
            return emb
        return emb + dense("null_class", **exact)(1 - rows.sum(-1, keepdims=True))

    def beside(self, cond):
        """f32[B, C], what else the embedding has: augmentation and guidance."""
        emb = jnp.zeros((len(cond.rows), self.channels))
        if self.augment_dim:
            dense = nn.Dense(
                self.channels, use_bias=False, kernel_init=ZEROS, name="augment"
            )
            emb = dense(cond.augment)
        return self.add_guidance(emb, cond.guidance)

    def last(self, h, emb):
        """[B, H, W, C2], the output of tokens."""
        side, channels = self.patch_size, self.out_channels
        channels *= 2 if self.learned_variance else 1
        modulation = nn.Dense(2 * self.channels, kernel_init=ZEROS, name="modulation")
        chunks = jnp.split(modulation(nn.silu(emb))[:, None, None, :], 2, axis=-1)
        h = modulated(h, *chunks, eps=1e-6).astype(self.dtype)
        dense = nn.Dense(
            side * side * channels, kernel_init=ZEROS, dtype=self.dtype, name="out"
        )
        batch, rows, columns, _ = h.shape
        out = dense(h).reshape(batch, rows, columns, side, side, channels)
        out = out.transpose(0, 1, 3, 2, 4, 5)
        return out.reshape(batch, rows * side, columns * side, channels)

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses images that are not whole patches, and widths that do not divide.

        Raises:
            ConfigError: Names the field.
        """
        _, height, width, _ = shape
        if height % self.patch_size or width % self.patch_size:
            raise ConfigError(
                f"images of {height}x{width}: patch_size={self.patch_size} needs"
                " multiples of it; take another patch_size"
            )
        if self.channels % 4 or self.channels % self.num_heads:
            raise ConfigError(
                f"channels={self.channels}: must be a multiple of 4 and of"
                f" num_heads={self.num_heads}"
            )


def modulated(
    x: Float[Array, "B H W C"],
    shift: Float[Array, "B 1 1 C"],
    scale: Float[Array, "B 1 1 C"],
    *,
    eps: float,
) -> Float[Array, "B H W C"]:
    """norm(x) (1 + scale) + shift in float32; the norm has no parameters."""
    norm = nn.LayerNorm(
        epsilon=eps,
        use_bias=False,
        use_scale=False,
        dtype=jnp.float32,
        use_fast_variance=False,
    )
    return norm(x) * (1 + scale) + shift


def positions(rows: int, columns: int, width: int) -> Float[np.ndarray, "H W C"]:
    """Fixed sines and cosines of a grid of patches: column in the first half, then row.

    Of each, sines and then cosines of place * 10000^(-4 i / width), in float64.

    Args:
        rows: Patches from top to bottom.
        columns: Patches from left to right.
        width: Width of a token, a multiple of 4.
    """
    frequencies = 1e4 ** (-np.arange(width // 4) / (width / 4))

    def waves(length):
        angle = np.arange(length)[:, None] * frequencies
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)

    grid = np.zeros((rows, columns, width))
    grid[..., : width // 2] = waves(columns)[None]
    grid[..., width // 2 :] = waves(rows)[:, None]
    return grid.astype(np.float32)


def _xavier_of_patches(key, shape, dtype=jnp.float32):
    """The authors': as a linear layer on the entries of a patch."""
    return XAVIER(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)


make = DiT
