"""Prompts made of the names of classes: "a photo of a {}", for images with labels.

Prompt `label * len(templates) + k` is of template k; which one an image has depends on
the seed and its number alone.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Integer

from kdiff_jax.errors import ConfigError

PLACE = "{}"  # of the name in a template


def check(names: Sequence[str], templates: Sequence[str], prefix: str = "") -> None:
    """Refuses names without templates, and templates without a place for the name.

    Args:
        names: Name of each class.
        templates: Texts with `PLACE`.
        prefix: What stands before the options in messages.

    Raises:
        ConfigError: Names the option.
    """
    if bool(names) != bool(templates):
        raise ConfigError(
            f"{prefix}class_names={list(names)}, {prefix}templates={list(templates)}:"
            " prompts need both; give both, or none"
        )
    for template in templates:
        if template.count(PLACE) != 1:
            raise ConfigError(
                f"{prefix}templates={template!r}: must have one {PLACE} for the name of"
                ' the class, as "a photo of a {}"'
            )
    made = texts(names, templates)
    if again := [text for text in made if made.count(text) > 1]:
        raise ConfigError(
            f"{prefix}class_names, {prefix}templates: make {again[0]!r} twice; give"
            " each class a name of its own, and name each template once"
        )


def texts(names: Sequence[str], templates: Sequence[str]) -> tuple[str, ...]:
    """All prompts, in the order of their numbers."""
    return tuple(one.replace(PLACE, name) for name in names for one in templates)


def numbers(
    labels: Integer[np.ndarray, " N"], num_templates: int, seed: int
) -> Int32[np.ndarray, " N"]:
    """The prompt of each image.

    Args:
        labels: The class of each image.
        num_templates: Number of templates, each as likely as the others.
        seed: Seed of the draws.
    """
    # A counter-based generator: number i is the same in a set of any size.
    drawn = np.random.Philox(key=seed).random_raw(len(labels))
    chosen = (drawn % np.uint64(num_templates)).astype(np.int32)
    return labels.astype(np.int32) * np.int32(num_templates) + chosen
