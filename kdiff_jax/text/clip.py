"""A whole CLIP from files: how well images show what their prompts say.

clip = text.load_clip(FOLDER)
cosines = clip.similarities(images, clip.vectors(prompts))  # f32[N]
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8
from PIL import Image

from kdiff_jax.encoders.clip_text import ClipText
from kdiff_jax.errors import CheckpointError
from kdiff_jax.features import frozen, vit_features
from kdiff_jax.features.vit import VisionTransformer, renamed
from kdiff_jax.formats import clip_tokenizer
from kdiff_jax.formats.clip_tokenizer import Tokenizer
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import clip_image, clip_text, parts, trees
from kdiff_jax.interop import diffusers_files as files
from kdiff_jax.metrics.features import Features
from kdiff_jax.text.encoder import Encoder
from kdiff_jax.types import Params

WANTED = (
    "transformers' folder of a CLIPModel, or the file of a whole CLIP of OpenAI or"
    " OpenCLIP"
)
# Files of OpenCLIP's folders, which transformers' config may lie beside.
OPENCLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
JIT = "input_resolution"  # what OpenAI's own files have, whose GELU is the quick one
PROCESSOR = "preprocessor_config.json"
CHUNK = 64  # prompts that are encoded at once


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """Images and prompts as vectors of one space.

    Attributes:
        images: The image tower.
        encoder: The text tower.
        tokenizer: The tokenizer of the text tower.
        sha256: Digest of the parameters of both.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import text
        >>> clip = text.load_clip(CLIP)
        >>> images = np.zeros((2, 40, 56, 3), np.uint8)
        >>> clip.similarities(images, clip.vectors(["night", "a grey cat"])).shape
        (2,)
    """

    images: Features
    encoder: Encoder
    tokenizer: Tokenizer
    sha256: str

    @property
    def provenance(self) -> dict[str, str]:
        """What scores depend on, in plain values."""
        return {
            "name": self.images.name,
            "parameters_sha256": self.sha256,
            "tokenizer_sha256": self.tokenizer.sha256,
        }

    def vectors(self, prompts: Sequence[str]) -> Float[np.ndarray, "N P"]:
        """Unit vectors of prompts.

        Args:
            prompts: Texts; each is cut where the text tower ends.
        """
        length = self.encoder.module.num_positions
        rows = []
        for start in range(0, len(prompts), CHUNK):
            part = list(prompts[start : start + CHUNK])
            ids = self.tokenizer([*part, *[""] * (CHUNK - len(part))])
            if ids.shape[1] > length:
                cut = ids[:, length:] != self.tokenizer.pad
                ids = ids[:, :length]
                ids[cut.any(axis=1), -1] = self.tokenizer.end
            found = self.encoder.apply(ids).projected
            rows.append(np.asarray(found)[: len(part)])
        return _unit(np.concatenate(rows))

    def similarities(
        self, images: np.ndarray, vectors: Float[np.ndarray, "N P"]
    ) -> Float[np.ndarray, " N"]:
        """Cosines between images and vectors of prompts, in [-1, 1].

        Args:
            images: uint8[N, H, W, 3].
            vectors: One for each image, see `vectors`.
        """
        seen = _unit(self.images.apply(images))
        return np.einsum("nd,nd->n", seen, vectors).astype(np.float32)


def load_clip(
    path: str | os.PathLike,
    *,
    tokenizer: str | os.PathLike | None = None,
    mesh: Mesh | None = None,
) -> Clip:
    """A whole CLIP; no code of its files is run.

    Args:
        path: transformers' folder of a CLIPModel, OpenCLIP's folder, or the file of a
            whole CLIP of OpenAI or OpenCLIP.
        tokenizer: Folder of the tokenizer; None is that of `path`.
        mesh: Devices that images are split over; None for one.

    Raises:
        CheckpointError: If there is none, or it is damaged or of a kind that is not
            implemented. One line.

    Examples:
        >>> from kdiff_jax import text
        >>> sorted(text.load_clip(CLIP).provenance)
        ['name', 'parameters_sha256', 'tokenizer_sha256']
    """
    path = pathlib.Path(path).expanduser()
    try:
        image, text, tensors, look = _read(path)
        params = frozen.params_of(image, renamed(tensors), "no CLIP", WANTED)
        arrays = _scalars_out(clip_text.named(tensors))
        ids = jax.ShapeDtypeStruct((1, text.num_positions), jnp.int32)
        encoder = Encoder(text, parts.params(clip_text.leaves(arrays), text, ids))
    except CheckpointError as error:
        start = "" if str(path) in str(error) else f"clip={str(path)!r}: "
        raise CheckpointError(f"{start}{error}") from error
    if tokenizer is None and not path.is_dir():
        raise CheckpointError(
            f"clip={str(path)!r}: a file has no tokenizer; give the folder of one as"
            " clip_tokenizer"
        )
    tokens = clip_tokenizer.load(path if tokenizer is None else tokenizer)
    if tokens.vocab_size > text.vocab_size:
        raise CheckpointError(
            f"clip={str(path)!r}: its text tower has {text.vocab_size} tokens, and the"
            f" tokenizer {tokens.vocab_size}; give its own"
        )
    side = image.grid * image.patch
    prepare = functools.partial(squares, side=side)
    extractor = vit_features.clip(image, *look, size=side)._replace(prepare=prepare)
    name = clip_image.name_of(image)
    images = Features(name, extractor, params, extractor.preprocessings[0], mesh=mesh)
    return Clip(images, encoder, tokens, _digest(params, encoder.params))


def _read(path: pathlib.Path):
    """(image tower, text tower, arrays by the file's names, mean and deviation)."""
    if path.is_dir() and (path / files.CONFIG).is_file():
        config, tensors = parts.read(path, stems=files.TRANSFORMERS)
        fields = clip_text.read_config(config), clip_image.read_config(config)
        text, image = ClipText(**fields[0]), VisionTransformer(**fields[1])
        return image, text, _scalars_out(tensors), _look(path, image)
    if path.is_dir():
        inside = [path / name for name in OPENCLIP if (path / name).is_file()]
        path = inside[0] if inside else path / files.CONFIG
    tensors = frozen.read("clip", path, WANTED)
    gelu = "quick" if JIT in tensors else "exact"
    tensors = _scalars_out(tensors)
    image = VisionTransformer(**clip_image.of_shapes(renamed(tensors), gelu=gelu))
    text = ClipText(**clip_text.of_shapes(clip_text.named(tensors), gelu=gelu))
    return image, text, tensors, ()


def _look(folder: pathlib.Path, image: VisionTransformer) -> tuple:
    """Mean and deviation that the folder's preprocessing says.

    Raises:
        CheckpointError: If it does something else with images than CLIP does.
    """
    about = (
        files.read_json(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else {}
    )
    sides: Any = about.get("size", image.grid * image.patch)
    side = sides.get("shortest_edge") if isinstance(sides, Mapping) else sides
    if about.get("resample", 3) != 3 or side != image.grid * image.patch:
        raise CheckpointError(
            f"{folder / PROCESSOR}: another preprocessing than CLIP's (the shorter side"
            f" resized to {image.grid * image.patch}, bicubic) is not implemented"
        )
    mean = about.get("image_mean", vit_features.CLIP_MEAN)
    return tuple(mean), tuple(about.get("image_std", vit_features.CLIP_STD))


def squares(
    images: UInt8[np.ndarray, "N H W 3"], preprocessing: str = "", *, side: int
) -> UInt8[np.ndarray, "N {side} {side} 3"]:
    """Images with the shorter side resized, cut to the centred square.

    By Pillow, as CLIP's own code has it: to the byte, where the device would round a
    few of a million otherwise.
    """
    del preprocessing
    height, width = images.shape[1:3]
    short = min(height, width)
    h, w = side * height // short, side * width // short
    top, left = round((h - side) / 2), round((w - side) / 2)
    box = left, top, left + side, top + side
    pictures = (Image.fromarray(image) for image in images)
    resized = (one.resize((w, h), Image.Resampling.BICUBIC) for one in pictures)
    return np.stack([np.asarray(one.crop(box)) for one in resized])


def _scalars_out(arrays: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Without numbers, which no tower reads: scales of logits, sizes."""
    return {name: array for name, array in arrays.items() if array.shape}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _digest(*trees_of_params: Params) -> str:
    found = hashlib.sha256()
    for params in trees_of_params:
        for name, leaf in sorted(trees.flatten(params).items()):
            found.update(f"{name}\n".encode() + np.asarray(leaf).tobytes())
    return found.hexdigest()
