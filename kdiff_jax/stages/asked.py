"""What measured images are asked for, and how well they show it."""

import hashlib
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from kdiff_jax.build.sections import Evaluate
from kdiff_jax.data import captions
from kdiff_jax.errors import ConfigError
from kdiff_jax.formats import clip_tokenizer
from kdiff_jax.interop import Model, Spec, beside
from kdiff_jax.metrics import table
from kdiff_jax.metrics.collect import Looks
from kdiff_jax.text.clip import Clip
from kdiff_jax.train import label_protocols
from kdiff_jax.train.coco_protocols import Protocol

NEED = "similarities"
NO_CLIP = (
    "metrics=clip_score: compares images with prompts; give clip, the folder of a CLIP"
    " (a CLIPModel of transformers with its tokenizer)"
)
NO_PROMPTS = (
    "metrics=clip_score: these images have no prompts that are known; give prompts, or"
    " leave it out"
)


CLASSES = "classes"
NO_CLASSES = (
    "metrics=class_accuracy: compares images with the class that they are asked for,"
    " and"
)


class Asked(NamedTuple):
    """What images are asked for.

    Attributes:
        labels: (seed) -> i32[N], numbers of conditions, or uint16[N, L], token ids.
        texts: (seed) -> the prompts of all images; None if they have none.
        row: What a row says of it.
    """

    labels: Callable[[int], np.ndarray]
    texts: Callable[[int], Sequence[str] | None]
    row: Mapping[str, Any]

    def classes(
        self, seed: int, names: Sequence[str], num_classes: int
    ) -> Int32[np.ndarray, " N"]:
        """The class of a classifier that each image is to show.

        The label, or the one class whose name is a word of the prompt.

        Args:
            seed: Seed of the images.
            names: Names of the classifier's classes.
            num_classes: Number of classes of the model.

        Raises:
            ConfigError: If a prompt names none of them, or several; or the labels are
                those of other classes.
        """
        if (texts := self.texts(seed)) is not None:
            return classes_of(texts, names)
        if num_classes != len(names):
            raise ConfigError(
                f"{NO_CLASSES} the model has {num_classes} classes, the classifier"
                f" {len(names)}; leave it out"
            )
        return self.labels(seed).astype(np.int32)


def classes_of(texts: Sequence[str], names: Sequence[str]) -> Int32[np.ndarray, " N"]:
    """The one class that each prompt names, by its name as a word.

    Raises:
        ConfigError: If a prompt names none, or several.
    """
    known = {text: _class_of(text, names) for text in dict.fromkeys(texts)}
    return np.array([known[text] for text in texts], np.int32)


def _class_of(text: str, names: Sequence[str]) -> int:
    words = re.findall(r"\w+", text.lower())
    found = [i for i, name in enumerate(names) if name in words]
    if len(found) != 1:
        raise ConfigError(
            f"{NO_CLASSES} the prompt {text!r} names {len(found)} of"
            f" {', '.join(names)}; give prompts with one each, or leave it out"
        )
    return found[0]


def of_labels(
    name: str,
    num: int,
    num_classes: int,
    frozen: Mapping[str, Any],
    tokenizer: Any = "",
) -> Asked:
    """The conditions that a model knows, by a protocol of `train.label_protocols`.

    Args:
        name: Name of the protocol.
        num: Number of images.
        num_classes: Number of conditions.
        frozen: Arrays of the model, by role.
        tokenizer: Folder with the tokenizer of its table of token ids.
    """

    def labels(seed):
        return label_protocols.labels(name, num, num_classes, seed)

    def texts(seed):
        return beside.prompts(frozen, tokenizer, labels(seed))

    row = {"labels": label_protocols.of_row(name, num_classes)}
    return Asked(labels, texts, row)


def of_prompts(path: str, num: int, model: Model, tokenizer: Any, option: str) -> Asked:
    """Prompts of a file, image i the i-th, again from the first behind the last.

    Args:
        path: See `captions.prompts`.
        num: Number of images.
        model: A model that brings its text encoder.
        tokenizer: Folder with its tokenizer.
        option: Name of the option that is the path, for messages.

    Raises:
        ConfigError: If the model reads no prompts, or a prompt is too long for it.
        DataError: If the file is missing or damaged.
    """
    if model.spec.text is None:
        raise ConfigError(
            f"{option}={path}: this model brings no text encoder; leave it out"
        )
    texts = captions.prompts(path)
    told = [texts[i % len(texts)] for i in range(num)]
    first = texts[: min(num, len(texts))]
    length = model.spec.cond_length
    ids = beside.ids_of(clip_tokenizer.load(tokenizer), first, length, option)
    ids = ids[np.arange(num) % len(ids)]
    row = {"labels": None, "prompts": about(path, first)}
    return Asked(lambda seed: ids, lambda seed: told, row)


def about(path: str, texts: Sequence[str]) -> dict[str, Any]:
    """What a row says of prompts of a file."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    return {"file": path, "num": len(texts), "sha256": digest}


def looks(
    clip: Clip | None,
    texts: Sequence[str] | None,
    protocol: Protocol | None,
    needs: frozenset[str],
    classes: np.ndarray | None = None,
) -> Looks:
    """What is done with made images: a protocol's resize, and cosines to their prompts.

    Args:
        clip: What scores; None without a CLIP score.
        texts: The prompt of each image.
        protocol: A protocol that resizes; None takes images as they are.
        needs: What the metrics read.
        classes: i32[N], see `Looks`.

    Raises:
        ConfigError: If a CLIP score is asked for without a CLIP, or without prompts.
    """
    prepare = protocol.prepare if protocol else None
    shape = protocol.shape() if protocol else None
    if NEED not in needs:
        return Looks(prepare, shape, classes=classes)
    if clip is None:
        raise ConfigError(NO_CLIP)
    if texts is None:
        raise ConfigError(NO_PROMPTS)
    prefix = protocol.prefix if protocol else ""
    known = list(dict.fromkeys(texts))
    number = {text: i for i, text in enumerate(known)}
    of_image = np.array([number[text] for text in texts])
    vectors = clip.vectors([prefix + text for text in known])

    def similarities(places, images):
        return clip.similarities(images, vectors[of_image[places]])

    return Looks(prepare, shape, similarities, classes)


def needs_clip(metrics: Sequence[str]) -> bool:
    """Whether one of the metrics compares images with prompts."""
    return NEED in table.needs(metrics)


def check(options: Evaluate, spec: Spec) -> None:
    """Refuses, before anything runs, prompts and CLIPs that are not there.

    Raises:
        ConfigError: Names the keyword.
        DataError: If the file of prompts is missing or damaged.
    """
    if options.protocol and not options.reference:
        raise ConfigError(
            f"protocol={options.protocol}: compares with the images of its own folder;"
            " give reference, that folder or statistics of it"
        )
    if options.prompts and spec.text is None:
        raise ConfigError(
            f"prompts={options.prompts}: the model has no text encoder (model.text);"
            " leave it out"
        )
    if options.prompts and options.per:
        raise ConfigError(f"per={options.per}: prompts of a file have no classes")
    if options.prompts:
        captions.prompts(options.prompts)
    if not needs_clip(options.metrics):
        return
    if not options.clip:
        raise ConfigError(NO_CLIP)
    if spec.text is None:
        raise ConfigError(NO_PROMPTS)
    if not pathlib.Path(options.clip).expanduser().exists():
        raise ConfigError(f"clip={options.clip}: does not exist; give a CLIP's folder")
