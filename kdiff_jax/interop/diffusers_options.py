"""What the configs of diffusers' denoising networks have in common."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop.diffusers_files import CONFIG
from kdiff_jax.interop.options import Option, Unlike, checked
from kdiff_jax.interop.source import Facts

VERSION = "0.42.1"  # of diffusers, whose options are written
# What `EMAModel` adds to the config of an average; nothing of it is the network's.
TRAINING = frozenset(
    "decay min_decay max_value min_value optimization_step update_after_step power"
    " use_ema_warmup inv_gamma collected_params".split()
)


def json_text(content: Mapping[str, Any]) -> str:
    """A config as diffusers writes it."""
    return json.dumps({"_diffusers_version": VERSION, **content}, indent=2)


def whole(number: float) -> float | int:
    """2 of 2.0, as configs have it."""
    return int(number) if number == int(number) else number


def read(config: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    """The value of every known option.

    Raises:
        Unlike: At an option that is unknown and not off, or is not implemented.
    """
    ignored = {*TRAINING, *off(config, known)}
    return checked({k: v for k, v in config.items() if k not in ignored}, known)


def off(config: Mapping[str, Any], known: Mapping[str, Option]) -> list[str]:
    """Options that are not known, and that the file itself says are off."""
    return [
        name
        for name, value in config.items()
        if name not in {*known, *TRAINING}
        and not name.startswith("_")
        and (value is None or value is False)
    ]


def said_of(names: list[str], config: Mapping[str, Any]) -> list[str]:
    """One line for each of `off`."""
    return [
        f"{name}={config[name]!r}: an option of another version, taken to be off"
        for name in names
    ]


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Makes a CheckpointError of what is not implemented."""
    try:
        yield
    except Unlike as error:
        option, value, ways = error.args
        raise CheckpointError(
            f"{CONFIG}: {option}={value!r}: is not implemented; there is {ways}"
        ) from error


def image_shape(options: Mapping[str, Any], facts: Facts) -> tuple[int, int, int]:
    """(H, W, C) of what the network denoises.

    Raises:
        Unlike: If it gives something else than it takes, or another size than asked.
    """
    channels, size = options["in_channels"], options["sample_size"]
    if options["out_channels"] != channels:
        ways = f"as many as in_channels, {channels}; a learned variance is not read"
        raise Unlike("out_channels", options["out_channels"], ways)
    if size is None:
        if facts.image_size is None:
            raise Unlike("sample_size", None, "a number; say --image_size")
        size = facts.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if facts.image_size is not None and {height, width} != {facts.image_size}:
        ways = f"no other than --image_size={facts.image_size}; leave that out"
        raise Unlike("sample_size", size, ways)
    return height, width, channels


def check_groups(
    shapes: Mapping[str, tuple[int, ...]], num_groups: int, mid_num_groups: int | None
) -> None:
    """Our norms take fewer groups where they do not divide the channels; theirs fail.

    Args:
        shapes: Shapes of the leaves.
        num_groups: Groups of the norms.
        mid_num_groups: Groups of the attention in the bottleneck, if others.

    Raises:
        CheckpointError: If that happens in this network. One line.
    """
    for path, shape in shapes.items():
        block, name = path.split("/")[0], path.split("/")[-1]
        groups = num_groups
        if block == "mid_block_attentions_0":
            groups = mid_num_groups or groups
        in_groups = name == "scale" and "transformer_blocks" not in path
        if in_groups and shape[0] % groups:
            raise CheckpointError(
                f"{path} has {shape[0]} channels in {groups} groups: they must divide;"
                " in diffusers there is no such network"
            )
