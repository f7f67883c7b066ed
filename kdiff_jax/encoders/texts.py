"""Texts as token ids, which an encoder makes text states of on the device."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from kdiff_jax import domain, registry
from kdiff_jax.domain import Frozen
from kdiff_jax.encoders.clip_text import ClipText, TextStates
from kdiff_jax.method import Net
from kdiff_jax.named import Named

ROLE = "text_encoder"  # of its parameters, frozen or trained


class Texts(ClipText):
    """A text tower, and which of its states denoisers read.

    Attributes:
        output: "hidden", the last states behind the norm (Stable Diffusion 1 and 2), or
            "penultimate", what the last block reads (XL).
    """

    output: Literal["hidden", "penultimate"] = "hidden"

    def chosen(self, states: TextStates) -> jax.Array:
        """f32[B, L, D], the states that denoisers read."""
        return getattr(states, self.output)


ENCODERS: dict[str, Callable[..., Texts]] = {"clip_text": Texts}


def names() -> list[str]:
    """The text encoders that exist."""
    return list(ENCODERS)


def make_function(name: str) -> Callable[..., Texts]:
    """What makes a text encoder; its keywords are the network's fields."""
    return registry.entry(ENCODERS, name, what="text")


def make(name: str, **keywords) -> Texts:
    """The text encoder `name`."""
    return make_function(name)(**keywords)


def shapes(text: Named) -> Mapping[str, Any]:
    """Shapes of its parameters."""
    module = text.call(make)
    ids = jax.ShapeDtypeStruct((1, module.num_positions), jnp.int32)
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(module.init, key, ids)["params"]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A `domain.Reader` of texts that are kept as token ids, 2 bytes each.

    Attributes:
        text: Name and fields of the encoder, whose parameters are the role `ROLE`.
        length: Tokens of a text.
        dtype: Type that the encoder computes in, "float32" or "bfloat16".
    """

    text: Named
    length: int
    dtype: str = "float32"

    @property
    def row(self) -> jax.ShapeDtypeStruct:
        """uint16[length]."""
        return jax.ShapeDtypeStruct((self.length,), jnp.uint16)

    @property
    def shapes(self) -> Mapping[str, Any]:
        """Parameters of the encoder."""
        return {ROLE: shapes(self.text)}

    def read(self, frozen: Frozen, rows) -> Any:
        """f32[B, L, D], text states of uint16[B, L]."""
        module = self.text.changed(dtype=self.dtype).call(make)
        states: Any = module.apply({"params": frozen[ROLE]}, rows.astype(jnp.int32))
        return module.chosen(states)


def net(reader: Tokens) -> Net:
    """The encoder of a reader as a network that is trained.

    Its `apply` is (params, y) -> f32[B, L, D], text states of token ids [B, L], or of
    those of a `domain.Prompt`.
    """
    module = reader.text.call(make)

    def init(key):
        ids = jnp.zeros((1, reader.length), jnp.int32)
        return module.init(key, ids)["params"]

    def apply(params, y):
        return reader.read({ROLE: params}, domain.as_read(y))

    return Net(init, apply, precision=reader.dtype)
