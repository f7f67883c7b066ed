"""Vision transformers whose class token is the feature: DINOv2, CLIP's image towers.

Modules carry the names of DINOv2's hub; `renamed` brings those of others to them.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kdiff_jax.features import transformer
from kdiff_jax.features.frozen import PRECISION, conv
from kdiff_jax.features.resize import matrix
from kdiff_jax.formats.lazy import Lazy


class Scale(nn.Module):
    """A factor for each channel."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        gamma = self.param("gamma", nn.initializers.ones, x.shape[-1:])
        return x * gamma[None, None]


class VisionTransformer(nn.Module):
    """A vision transformer on patches of an image.

    Attributes:
        width: Size of a token.
        num_blocks: Number of blocks.
        num_heads: Heads of attention.
        hidden: Size of the hidden layers.
        grid: Side of the grid of patches that the stored positions are of.
        positions: How they are resized for images of another size, see `resize`.
        gelu: "exact", or "quick".
        eps: Added to the variance by the norms.
        scales: DINOv2's: factors behind attention and MLP.
        out: CLIP's: size of the projected feature, and a norm before the blocks.
        patch: Side of a patch in pixels.
    """

    width: int
    num_blocks: int
    num_heads: int
    hidden: int
    grid: int
    positions: str = "torch_bicubic"
    gelu: str = "exact"
    eps: float = 1e-6
    scales: bool = False
    out: int | None = None
    patch: int = 14

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
        """The feature of normalised images, whose sides are multiples of a patch's."""
        zeros = nn.initializers.zeros
        token = self.param("cls_token", zeros, (1, 1, self.width))
        stored = self.param("pos_embed", zeros, (1, 1 + self.grid**2, self.width))
        fields: dict[str, Any] = dict(
            stride=self.patch, bias=self.out is None, dtype="float32"
        )
        x = conv(self.width, self.patch, **fields, name="patch_embed.proj")(x)
        _, rows, columns, _ = x.shape
        positions = self.placed(stored, (rows, columns))
        x = x.reshape(len(x), -1, self.width)
        token = jnp.broadcast_to(token, (len(x), 1, self.width))
        x = jnp.concatenate([token, x], axis=1) + positions
        x = x if self.out is None else self._norm("norm_pre")(x)
        for i in range(self.num_blocks):
            x = self._block(x, f"blocks.{i}")
        x = self._norm("norm")(x[:, 0])
        if self.out is None:
            return x
        last = self.param("proj", zeros, (self.width, self.out))
        return jnp.matmul(x, last, precision=PRECISION)

    def placed(
        self, stored: Float[Array, "1 N C"], grid: tuple[int, int]
    ) -> Float[Array, "1 M C"]:
        """The stored positions for another grid of patches."""
        if grid == (self.grid, self.grid):
            return stored
        token, patches = stored[:, :1], stored[0, 1:]
        patches = patches.reshape(self.grid, self.grid, -1)
        rows, columns = (matrix(self.positions, self.grid, side) for side in grid)
        patches = jnp.einsum(
            "ph,qw,hwc->pqc", rows, columns, patches, precision=PRECISION
        )
        return jnp.concatenate([token, patches.reshape(1, -1, self.width)], axis=1)

    def _norm(self, name):
        return transformer.norm(self.eps, name)

    def _block(self, x, name):
        def scaled(x, part):
            return Scale(name=f"{name}.{part}")(x) if self.scales else x

        h = transformer.Attention(self.num_heads, name=f"{name}.attn")(
            self._norm(f"{name}.norm1")(x)
        )
        x = x + scaled(h, "ls1")
        h = transformer.Mlp(self.hidden, self.gelu, name=f"{name}.mlp")(
            self._norm(f"{name}.norm2")(x)
        )
        return x + scaled(h, "ls2")


def renamed(found: dict[str, Lazy]) -> dict[str, Lazy]:
    """Arrays of a hub's, OpenCLIP's, OpenAI's or transformers' file under our names.

    Of a whole CLIP only the image tower is taken.
    """
    towers = [k for k in found if k.startswith(TOWERS)]
    if towers:
        also = [k for k in found if k.startswith("visual_projection.")]
        found = {k.removeprefix("visual."): found[k] for k in (*towers, *also)}
    named: dict[str, Lazy] = {}
    for name, array in transformer.named(found, NAMES).items():
        if name == "visual_projection.weight":
            named["proj"] = array.transpose(1, 0)
        elif name in ("cls_token", "pos_embed"):
            named[name] = array.reshape(1, *((1, 1) + array.shape)[-2:])
        elif name not in IGNORED:
            named[name] = array
    return named


TOWERS = ("visual.", "vision_model.")  # what arrays of a whole CLIP's begin with
IGNORED = ("mask_token", "vision_model.embeddings.position_ids")
NAMES = (
    # OpenCLIP's and OpenAI's.
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    # Those of transformers: CLIP, then DINOv2.
    (r"^vision_model\.embeddings\.class_embedding$", "cls_token"),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^vision_model\.pre_layrnorm\.", "norm_pre."),
    (r"^vision_model\.post_layernorm\.", "norm."),
    (r"^vision_model\.encoder\.layers\.", "blocks."),
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.([qkv])(uery|ey|alue)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
