"""What every denoising network has in common: its call, and the fields behind it."""

import abc
from collections.abc import Mapping
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdiff_jax.arguments import Below1, Count, Whole
from kdiff_jax.errors import ConfigError
from kdiff_jax.networks import GUIDANCE, layers
from kdiff_jax.types import Keys

# Labels; vectors; texts, alone or with what else a network reads beside them.
Text = Float[Array, "B L D"] | Mapping[str, Float[Array, "B ..."]]
Cond = Int[Array, " B"] | Float[Array, "B D"] | Text


ZEROS = nn.initializers.zeros


class Conditioning(NamedTuple):
    """What a network reads beside images and noise level.

    Attributes:
        rows: f32[B, K], one-hot labels, or vectors; zeros for none. f32[B, L, D] where
            the network reads texts.
        augment: f32[B, A], augmentation labels; zeros for none.
        guidance: f32[B], the strength of guidance; ones for none.
        added: f32[B, A], what goes into the embedding beside a text; None for none.
    """

    rows: Array
    augment: Array
    guidance: Array
    added: Array | None = None


class Network(nn.Module):
    """A denoising network on images; a family adds its fields and writes `trunk`.

    Attributes:
        channels: The unit of width: level i has `channels * channel_mult[i]` channels.
        channel_mult: One number per level, each level half the size of that before.
        num_blocks: Residual blocks per level of the encoder; one more in the decoder.
        attn_resolutions: Image sizes (heights, in pixels) whose blocks have attention.
        dropout: Dropout rate, active when keys are given.
        out_channels: The image's channels; twice that for two outputs.
        num_classes: Number of classes; 0 ignores labels.
        cond_dim: Length of the vectors that are conditions; 0 for labels.
        augment_dim: Length of the augmentation label, 9 in EDM; 0 ignores it.
        reads_guidance: Whether it reads the strength of the guidance that its output
            has.
        dtype: Type of the activations and products; parameters are float32. A recipe
            sets it by its `precision`.
        remat: Recompute the blocks in the backward pass, to save memory.

    Examples:
        >>> from kdiff_jax import networks
        >>> module = networks.make("song_unet", channels=8, num_classes=10)
        >>> module.channel_mult, module.num_blocks, module.dropout
        ((2, 2, 2), 4, 0.0)
    """

    channels: Count
    channel_mult: tuple[Count, ...]
    num_blocks: Count
    attn_resolutions: tuple[Count, ...]
    dropout: Below1 = 0.0
    out_channels: Count = 3
    num_classes: Whole = 0
    cond_dim: Whole = 0
    augment_dim: Whole = 0
    reads_guidance: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, " B"],
        y: Cond | None = None,
        *,
        augment: Float[Array, "B A"] | None = None,
        guidance: Float[Array, " B"] | None = None,
        dropout_keys: Keys | None = None,
    ) -> Float[Array, "B H W C2"]:
        """F, float32: the raw output, before any preconditioning.

        Args:
            x: Images scaled as the family expects (c_in x_t).
            c_noise: What the family's embedding reads; see `kdiff_jax.networks`.
            y: Labels, or vectors; None, -1, or zeros, is no condition.
            augment: EDM's augmentation label; None where images are not augmented.
            guidance: Strength of guidance; None, or 1, is none. Not read unless
                `reads_guidance`.
            dropout_keys: One typed key per example; None switches dropout off.

        Raises:
            ConfigError: If the images cannot be halved once per level below the first.

        Examples:
            >>> import jax
            >>> import jax.numpy as jnp
            >>> from kdiff_jax import networks
            >>> fields = dict(channels=8, channel_mult=(1, 2), num_blocks=1)
            >>> module = networks.make("song_unet", **fields)
            >>> x, c_noise = jnp.zeros((2, 8, 8, 3)), jnp.zeros(2)
            >>> out, _ = jax.eval_shape(
            ...     module.init_with_output, jax.random.key(0), x, c_noise
            ... )
            >>> out.shape, out.dtype.name
            ((2, 8, 8, 3), 'float32')
        """
        cond = self.conditioning(x, y, augment, guidance)
        return self.trunk(x, c_noise, cond, dropout_keys)[0]

    def encode(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, " B"],
        y: Cond | None = None,
        *,
        augment: Float[Array, "B A"] | None = None,
        guidance: Float[Array, " B"] | None = None,
        dropout_keys: Keys | None = None,
    ) -> list[Float[Array, "B _H _W _C"]]:
        """The last output of each encoder level, then that of the bottleneck.

        Under `jit` the decoder is never computed: nothing reads it.

        Args:
            x, c_noise, y, augment, guidance, dropout_keys: See `__call__`.

        Examples:
            >>> import jax
            >>> import jax.numpy as jnp
            >>> from kdiff_jax import networks
            >>> fields = dict(channels=8, channel_mult=(1, 2), num_blocks=1)
            >>> module = networks.make("song_unet", **fields)
            >>> def encode(key, x):
            ...     method = "encode"
            ...     return module.init_with_output(key, x, x[:, 0, 0, 0], method=method)
            >>> x = jnp.zeros((2, 8, 8, 3))
            >>> features, _ = jax.eval_shape(encode, jax.random.key(0), x)
            >>> [feature.shape for feature in features]
            [(2, 8, 8, 8), (2, 4, 4, 16), (2, 4, 4, 16)]
        """
        cond = self.conditioning(x, y, augment, guidance)
        return self.trunk(x, c_noise, cond, dropout_keys)[1]

    def with_features(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, " B"],
        y: Cond | None = None,
        *,
        augment: Float[Array, "B A"] | None = None,
        guidance: Float[Array, " B"] | None = None,
        dropout_keys: Keys | None = None,
    ) -> tuple[Float[Array, "B H W C2"], list[Float[Array, "B _H _W _C"]]]:
        """(F, features) of one pass: those of `encode`, then one of each decoder level.

        Networks of as many levels have as many, whatever their widths and blocks; that
        of the bottleneck is missing where there is none.

        Args:
            x, c_noise, y, augment, guidance, dropout_keys: See `__call__`.

        Examples:
            >>> import jax
            >>> import jax.numpy as jnp
            >>> from kdiff_jax import networks
            >>> fields = dict(channels=8, channel_mult=(1, 2), num_blocks=1)
            >>> module = networks.make("song_unet", **fields)
            >>> def run(key, x):
            ...     method = "with_features"
            ...     return module.init_with_output(key, x, x[:, 0, 0, 0], method=method)
            >>> x = jnp.zeros((2, 8, 8, 3))
            >>> (out, features), _ = jax.eval_shape(run, jax.random.key(0), x)
            >>> out.shape, [feature.shape[1] for feature in features]
            ((2, 8, 8, 3), [8, 4, 4, 4, 8])
        """
        cond = self.conditioning(x, y, augment, guidance)
        out, down, up = self.trunk(x, c_noise, cond, dropout_keys)
        return out, [*(down if self.has_bottleneck else down[:-1]), *up]

    def conditioning(
        self,
        x: Float[Array, "B H W C"],
        y: Cond | None,
        augment: Float[Array, "B A"] | None,
        guidance: Float[Array, " B"] | None,
    ) -> Conditioning:
        """What a trunk reads beside images and noise level, none of it None."""
        batch, height, width, _ = x.shape
        levels = len(self.channel_mult)
        divisor = 2 ** (levels - 1)
        if height % divisor or width % divisor:
            raise ConfigError(
                f"images of {height}x{width}: a network of {levels} levels needs"
                f" multiples of {divisor}; pad the images, or use fewer levels"
            )
        if augment is None:
            augment = jnp.zeros((batch, self.augment_dim))
        if guidance is None:
            guidance = jnp.ones(batch)
        assert not isinstance(y, Mapping), "networks that read texts say what of them"
        if not self.cond_dim:
            rows = layers.one_hot(y, num_classes=self.num_classes, batch=batch)
        else:
            rows = jnp.zeros((batch, self.cond_dim)) if y is None else y
            if rows.ndim == 3:  # a text, of which a network of vectors reads the mean
                rows = rows.mean(axis=1)
        return Conditioning(rows, augment, guidance)

    def add_guidance(
        self, emb: Float[Array, "B E"], guidance: Float[Array, " B"]
    ) -> Float[Array, "B E"]:
        """The embedding and what the strength of guidance adds, which begins at zero.

        So a network that begins with weights of one that did not read it begins as
        that one. A trunk calls this behind a layer with a bias.

        Source: Meng et al. 2023, arXiv:2210.03142, section 3.1: Fourier features, read
        like the time. The frequencies, 10 to 0.001 per unit, are ours [inferred].
        """
        if not self.reads_guidance:
            return emb
        dense = nn.Dense(
            emb.shape[-1], use_bias=False, kernel_init=ZEROS, name=GUIDANCE
        )
        return emb + dense(layers.sinusoid(10 * guidance, 64))

    @property
    def has_bottleneck(self) -> bool:
        """Whether the last feature of `encode` is another than that before."""
        return True

    @property
    def width_of_rows(self) -> int:
        """Entries of a row of conditions that a trunk embeds; 0 for none."""
        return self.cond_dim or self.num_classes

    @abc.abstractmethod
    def trunk(
        self, x, c_noise, cond: Conditioning, keys
    ) -> tuple[Array, list[Array], list[Array]]:
        """(F, encoder and bottleneck features, decoder features) of one pass."""
