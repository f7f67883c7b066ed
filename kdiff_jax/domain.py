"""What images are, and what a model may be asked for. Below methods and samplers.

Everything outside networks speaks of conditions by number: data, pairs, shares,
partitions, `--labels`. What a network reads is a `Cond`: the number itself, where
conditions are classes, a row of a table of vectors, or what a text encoder makes of a
row of tokens. Neither table nor encoder is a parameter of any network: programs get
them as arguments, as they get a teacher.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import pixels, registry
from kdiff_jax.errors import ConfigError

Frozen = Mapping[str, Any]  # arrays that nothing trains, by role
Cond = Any  # i32[B] labels, f32[B, D] vectors, or a `Prompt`


NULL = -1  # the number of the null condition
TABLE = "conditions"  # the role of the table of vectors among the frozen arrays


class Prompt(NamedTuple):
    """A text as networks read it, beside the text that stands for none.

    Guidance, and dropping of conditions in training, put `null` in the place of `cond`;
    so every image may have a negative prompt of its own.

    Attributes:
        cond: What an encoder makes of the text: f32[B, L, D], or a dictionary of arrays
            [B, ...].
        null: The same of no text, or of a negative prompt.
    """

    cond: Any
    null: Any


@runtime_checkable
class Reader(Protocol):
    """What makes conditions of the rows of a table of texts; hashable."""

    @property
    def row(self) -> jax.ShapeDtypeStruct:
        """One row of the table."""
        ...

    @property
    def shapes(self) -> Mapping[str, Any]:
        """Shapes of the frozen arrays that `read` needs, by role."""
        ...

    def read(self, frozen: Frozen, rows) -> Any:
        """What networks read of rows [B, ...], a tree of arrays [B, ...]."""


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A `Reader` of texts that are kept as what an encoder has made of them.

    Attributes:
        length: Number of vectors of a text.
        dim: Length of each.
    """

    length: int
    dim: int

    @property
    def row(self) -> jax.ShapeDtypeStruct:
        """f32[length, dim]."""
        return jax.ShapeDtypeStruct((self.length, self.dim), jnp.float32)

    @property
    def shapes(self) -> Mapping[str, Any]:
        """Nothing beside the table."""
        return {}

    def read(self, frozen: Frozen, rows) -> Any:
        """The rows as they are, float32."""
        del frozen
        return rows.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Rows:
    """A `Reader` that leaves rows as they are, for a loss that encodes them itself.

    Attributes:
        row: One row of the table.
    """

    row: jax.ShapeDtypeStruct

    @property
    def shapes(self) -> Mapping[str, Any]:
        """Nothing beside the table."""
        return {}

    def read(self, frozen: Frozen, rows) -> Any:
        """The rows."""
        del frozen
        return rows


def embedded(length: int, dim: int) -> Embedded | None:
    """The reader of texts of `length` vectors; None where a condition is no text."""
    return Embedded(length, dim) if length else None


class Conditions(NamedTuple):
    """What a model may be asked for, by number: classes, or the rows of a table.

    Attributes:
        num: How many; 0 where the model is unconditional.
        dim: Length of a vector; 0 where networks read the numbers, as labels, or text.
        reader: What makes conditions of a table of texts, [num + 1, ...], whose last
            row is the text that stands for none; None where conditions are no texts.
    """

    num: int
    dim: int = 0
    reader: Reader | None = None

    def take(self, frozen: Frozen, numbers) -> Cond:
        """The condition of each i32[B] as networks read it; of -1 none.

        Vectors f32[B, dim], or texts f32[B, L, dim], of the table or not, are such
        already, and so are prompts. Numbers [B, L] are token ids of texts.
        """
        if isinstance(numbers, Prompt):
            return numbers
        if self.reader:
            return self._texts(self.reader, frozen, numbers)
        if not self.dim or jnp.issubdtype(jnp.result_type(numbers), jnp.floating):
            return numbers
        rows = frozen[TABLE][jnp.maximum(numbers, 0)]
        return jnp.where((numbers >= 0)[:, None], rows, 0.0)

    def unread(self) -> "Conditions":
        """The same, of which `take` gives texts as rows of the table."""
        return self._replace(reader=self.reader and Rows(self.reader.row))

    @property
    def length(self) -> int:
        """Number of vectors of a text; 0 where conditions are no texts."""
        return self.reader.row.shape[0] if self.reader else 0

    def vectors(self, frozen: Frozen) -> np.ndarray | None:
        """f32[num, D] by which conditions are told apart; None of labels.

        Of texts it is the mean of their vectors (Song et al. 2024).
        """
        if (table := frozen.get(TABLE)) is None:
            return None
        if not self.reader:
            return np.asarray(table, np.float32)
        read, size = jax.jit(self.reader.read), 256
        found = [
            read(frozen, table[i : i + size]).mean(axis=1)
            for i in range(0, len(table) - 1, size)
        ]
        return np.concatenate(found)[: len(table) - 1]

    def _texts(self, reader: Reader, frozen: Frozen, numbers) -> Cond:
        if TABLE not in frozen:
            if jnp.issubdtype(jnp.result_type(numbers), jnp.floating):
                return numbers
            raise ConfigError(
                "y: this model reads texts and has no table of them; call"
                " interop.load(...).apply with what a text encoder makes of yours"
            )
        table = frozen[TABLE]
        one = reader.read(frozen, table[-1:])
        if jnp.issubdtype(jnp.result_type(numbers), jnp.floating):
            cond = numbers
        elif jnp.ndim(numbers) == 2:
            cond = reader.read(frozen, numbers)
        else:
            rows = table[jnp.where(numbers < 0, len(table) - 1, numbers)]
            cond = reader.read(frozen, rows)
        null = jax.tree.map(lambda x, like: jnp.broadcast_to(x, like.shape), one, cond)
        return Prompt(cond, null)

    def example(self, batch: int) -> Cond:
        """Any condition of so many images, for its shape."""
        if self.reader:
            row = self.reader.row
            rows = jax.ShapeDtypeStruct((batch, *row.shape), row.dtype)
            found = jax.eval_shape(self.reader.read, self.reader.shapes, rows)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)
            return Prompt(zeros, zeros)
        if not self.dim:
            return jnp.zeros(batch, jnp.int32)
        return jnp.zeros((batch, self.dim), jnp.float32)

    @property
    def shapes(self) -> dict[str, Any]:
        """Shapes of the frozen arrays that `take` reads, by role."""
        if self.reader:
            row = self.reader.row
            table = jax.ShapeDtypeStruct((self.num + 1, *row.shape), row.dtype)
            return {TABLE: table, **self.reader.shapes}
        if not self.dim:
            return {}
        return {TABLE: jax.ShapeDtypeStruct((self.num, self.dim), jnp.float32)}


def null(cond: Cond) -> Cond:
    """No condition, for as many images: the label -1, zeros, a prompt's own null.

    Raises:
        ConfigError: If it is a text alone, for which zeros stand for no text.
    """
    if isinstance(cond, Prompt):
        return Prompt(cond.null, cond.null)
    if isinstance(cond, Mapping) or np.ndim(cond) == 3:
        raise ConfigError(
            "y: a text has no null of its own, to be guided by; give domain.Prompt of"
            " what the encoder makes of it, and of no text"
        )

    def none(x):
        is_number = jnp.issubdtype(jnp.result_type(x), jnp.integer)
        return jnp.full_like(x, NULL if is_number else 0)

    return jax.tree.map(none, cond)


def as_read(cond: Cond) -> Any:
    """What a network reads of a condition: of a prompt without its null."""
    return cond.cond if isinstance(cond, Prompt) else cond


def as_vector(cond: Cond) -> Any:
    """Labels and vectors as they are; of a text f32[B, D], the mean of its vectors."""
    cond = as_read(cond)
    cond = cond["context"] if isinstance(cond, Mapping) else cond
    return cond.mean(axis=1) if jnp.ndim(cond) == 3 else cond


def kept(table: Any) -> np.ndarray:
    """A table as it is kept in files: float32, or uint16 of token ids."""
    table = np.asarray(table)
    is_float = np.issubdtype(table.dtype, np.floating)
    return np.asarray(table, np.float32 if is_float else np.uint16)


def why_no_table(table: np.ndarray, num: int, dim: int, length: int = 0) -> str:
    """What keeps an array from being a table of `num` vectors, or texts, or "".

    Args:
        table: The array.
        num: Number of conditions.
        dim: Length of a vector.
        length: Number of vectors of a text; 0 for a table of vectors.
    """
    if length:
        return _why_no_texts(table, (num + 1, length, dim))
    if table.dtype.kind not in "fiu" or table.ndim != 2:
        return f"holds {table.dtype}{list(table.shape)}, not numbers [conditions, D]"
    if len(table) != num:
        return f"has {len(table)} rows, and the model {num} conditions (num_classes)"
    if table.shape[1] != dim:
        return f"has rows of {table.shape[1]} entries, and the model reads {dim}"
    return _why_not_finite(table)


def _why_no_texts(table: np.ndarray, shape: tuple[int, int, int]) -> str:
    if table.dtype == np.uint16 and table.shape == shape[:2]:
        return ""  # token ids
    if table.dtype.kind != "f" or table.shape != shape:
        return (
            f"holds {table.dtype}{list(table.shape)}, not f32{list(shape)}: texts, and"
            " last the one that stands for none"
        )
    return _why_not_finite(table.reshape(len(table), -1))


def _why_not_finite(table: np.ndarray) -> str:
    if not np.isfinite(table).all():
        (row, *_) = np.flatnonzero(~np.isfinite(table).all(axis=1))
        return f"row {row} is not finite"
    if np.abs(table).max(initial=0) > np.finfo(np.float32).max:
        return "has entries beyond float32"
    return ""


class Space(NamedTuple):
    """Where clean images `x0` live: the one way in, and the one way out to pixels.

    The functions run on the device, and `frozen` has the arrays that they read there.

    Attributes:
        shape: (H, W, C) of x0.
        pixel_shape: (H, W, C) of the images.
        from_data: (frozen, uint8[B, *pixel_shape]) -> f32[B, *shape].
        to_images: (frozen, f32[B, *shape]) -> f32[B, *pixel_shape] in [-1, 1], but for
            overshoots; losses differentiate it. `as_they_are` where x0 are the images.
        to_kept: (x0) -> x0 as pairs are kept on disk, in the space: float16, or the
            uint8 of pixels.
        draw: (frozen, raw, Key[B]) -> x0, of spaces that images have a Gaussian in; raw
            is what `from_data` takes, or cached moments. None where x0 is certain.
        moments: Channels of cached moments.
        shapes: () -> shapes of the frozen arrays that the functions read, by role.
    """

    shape: tuple[int, ...]
    pixel_shape: tuple[int, ...]
    from_data: Callable[[Frozen, Any], Any]
    to_images: Callable[[Frozen, Any], Any]
    to_kept: Callable[[Any], Any]
    draw: Callable[..., Any] | None = None
    moments: int = 0
    shapes: Callable[[], Mapping[str, Any]] = dict

    @property
    def kept(self) -> np.dtype:
        """Type of `to_kept`'s result."""
        x0 = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        return np.dtype(jax.eval_shape(self.to_kept, x0).dtype)

    def to_pixels(self, frozen: Frozen, x0) -> Any:
        """uint8[B, *pixel_shape] of f32[B, *shape]."""
        return pixels.to_uint8(self.to_images(frozen, x0))

    def to_x0(self, frozen: Frozen, raw, keys=None):
        """f32[B, *shape] of what a batch holds: pixels, moments, or x0 of pairs.

        Args:
            frozen: Arrays by role.
            raw: uint8 pixels, float16 moments, or x0 as pairs are kept.
            keys: Key[B], for spaces with a `draw`; None takes the mean.
        """
        certain = raw.dtype != jnp.uint8 and raw.shape[-1] != self.moments
        if self.draw is not None and keys is not None and not certain:
            return self.draw(frozen, raw, keys)
        if not certain:
            return self.from_data(frozen, raw)
        return raw.astype(jnp.float32)


def as_they_are(frozen: Frozen, x0) -> Any:
    """x0, which is images already."""
    del frozen
    return x0


def pixel_space(shape: tuple[int, ...]) -> Space:
    """Images as they are, in [-1, 1]."""
    return Space(
        shape,
        shape,
        from_data=lambda frozen, raw: pixels.to_float(raw),
        to_images=as_they_are,
        to_kept=pixels.truncate_to_uint8,
    )


def latent_space(shape: tuple[int, ...]) -> Space:
    """Latents of an autoencoder that is not at hand: no way from pixels, none back."""

    def refused(*_):
        raise ConfigError(
            "space='latents': an autoencoder stands between them and pixels; decode"
            " them by kdiff_jax.latent: vae.decode(vae.unscale(x0))"
        )

    height, width, _ = shape
    return Space(
        shape,
        (8 * height, 8 * width, 3),
        from_data=refused,
        to_images=refused,
        to_kept=lambda x0: x0.astype(jnp.float16),
    )


SPACES: dict[str, Callable[[tuple[int, ...]], Space]] = {
    "pixels": pixel_space,
    "latents": latent_space,
}


def check_space(name: str) -> None:
    """Raises ConfigError if there is no such space."""
    registry.entry(SPACES, name, what="space")


def make_space(name: str, shape) -> Space:
    """The space of x0 of this shape, by its name in `SPACES`.

    Raises:
        ConfigError: If there is none.
    """
    return registry.entry(SPACES, name, what="space")(tuple(shape))


class Share(NamedTuple):
    """What one student owns.

    Attributes:
        conditions: i32[n], the numbers of the conditions that it may be asked for.
        t_range: f32[2], the ends of its times, lo < t <= hi.

    Examples:
        >>> import jax.numpy as jnp
        >>> from kdiff_jax.domain import Share
        >>> late = Share(conditions=jnp.arange(10), t_range=jnp.float32([0.5, 1.0]))
        >>> late.t_range.tolist()
        [0.5, 1.0]
    """

    conditions: Any
    t_range: Any


def whole(num_classes: int, t_range: tuple[float, float]) -> Share:
    """The share of a student without others: all classes and all times.

    Args:
        num_classes: Number of classes; 0 has the one condition 0.
        t_range: The first and the last time of the process.

    Examples:
        >>> from kdiff_jax import domain
        >>> domain.whole(4, (0.0, 1.0)).conditions.tolist()
        [0, 1, 2, 3]
    """
    conditions = jnp.arange(max(num_classes, 1), dtype=jnp.int32)
    return Share(conditions, jnp.float32(t_range))
