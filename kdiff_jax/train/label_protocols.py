"""Labels that measured images are asked for, by the protocols of papers."""

import numpy as np

from kdiff_jax.errors import ConfigError

NAMES = ("arange", "random")


def check(name: str, num_classes: int) -> None:
    """Refuses a protocol for a model that is asked for no label.

    Args:
        name: One of `NAMES`.
        num_classes: Number of classes of the model; 0 if unconditional.

    Raises:
        ConfigError: Names `labels`.
    """
    if name != NAMES[0] and not num_classes:
        raise ConfigError(f"labels={name}: the model knows no classes; leave it out")


def labels(name: str, num: int, num_classes: int, seed: int) -> np.ndarray:
    """i32[num], of which number i depends on the seed and i alone.

    - arange: i mod num_classes, as DMD2 evaluates; without classes zeros
    - random: uniform and independent of the others, as EDM draws them

    Args:
        name: One of the names above.
        num: Number of images.
        num_classes: Number of classes; 0 if the model is unconditional.
        seed: Seed of the images, which "arange" does not read.

    Raises:
        ConfigError: If the model knows no classes to draw from.
    """
    check(name, num_classes)
    if name == "arange":
        return (np.arange(num) % max(num_classes, 1)).astype(np.int32)
    # A counter-based generator: its first numbers are the same however many are asked.
    drawn = np.random.Philox(key=seed).random_raw(num)
    return (drawn % np.uint64(num_classes)).astype(np.int32)


def of_row(name: str, num_classes: int) -> str | None:
    """What a row says of its labels: None where there are none."""
    return name if num_classes else None
