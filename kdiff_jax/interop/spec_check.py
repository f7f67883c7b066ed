"""Whether the values of a spec are of the kinds that a model has.

A spec is read from a file. What is in it goes into networks, processes and samplers as
keywords, so each value must be what the signature allows: nothing of a wrong kind gets
as far as an error of its own, or a number that nobody meant.
"""

import numbers
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from kdiff_jax import arguments, domain, networks, samplers
from kdiff_jax.diffusion import precondition, process
from kdiff_jax.encoders import latents, texts
from kdiff_jax.errors import ConfigError
from kdiff_jax.named import named

LARGEST = 2**24  # of any count: a grid of as many steps still fits into memory
LARGEST_SIDE = 2**14
MODULES: dict[str, ModuleType] = {
    "network": networks,
    "precondition": precondition,
    "process": process,
    "sampler": samplers,
    "autoencoder": latents,
    "text": texts,
}
OPTIONAL = ("sampler", "autoencoder", "text")
BOUND = ("parent", "name", "process")  # what is given otherwise, or not at all
ORIGIN = ("family", "file", "sha256")
TEXTS = (
    "autoencoder_sha256",
    "average",
    "conditions",
    "kdiff_jax",
    "sha256",
    "space",
    "text_sha256",
)


def check(spec: Any, prefix: str = "") -> None:
    """Refuses the plain values of a spec that no model has.

    Args:
        spec: See `Spec.of`.
        prefix: Goes before a value's name in messages: "--config.model.".

    Raises:
        ConfigError: Names the first such value, and the rule.
    """
    if not isinstance(spec, Mapping):
        raise ConfigError(f"spec={_shown(spec)}: must be an object with names")
    for section in MODULES:  # a network alone has no sampler
        if section not in OPTIONAL or spec.get(section) is not None:
            check_section(section, spec.get(section), prefix)
    _check_shape(f"{prefix}image_shape", spec.get("image_shape"))
    counts = {"num_classes": None, "cond_dim": 0, "cond_length": 0, "augment_dim": 0}
    for name, default in counts.items():
        _check_count(f"{prefix}{name}", spec.get(name, default))
    length = spec.get("cond_length", 0)
    if length and not spec.get("cond_dim", 0):
        raise ConfigError(
            f"{prefix}cond_length={length}: texts are that many vectors of cond_dim"
            " entries, and it is 0"
        )
    if spec.get("cond_dim", 0) and not length and not spec["num_classes"]:
        raise ConfigError(
            f"{prefix}cond_dim={spec['cond_dim']}: num_classes is the number of"
            " vectors, and 0"
        )
    conditioned = spec["num_classes"] or length
    check_levels(spec.get("guidance_range"), conditioned, prefix)
    domain.make_space(spec.get("space", "pixels"), spec["image_shape"])
    check_autoencoder(spec, prefix)
    check_text(spec, prefix)
    _check_facts(spec, prefix)


def check_autoencoder(spec: Mapping[str, Any], prefix: str = "") -> None:
    """Refuses one of another space, or of other latents than the network's images."""
    if (section := spec.get("autoencoder")) is None:
        return
    if (space := spec.get("space", "pixels")) != "latents":
        raise ConfigError(
            f'{prefix}space={space!r}: an autoencoder is for "latents"; set that, or'
            " leave it out"
        )
    channels = named(section).call(latents.make).latent_channels
    if channels != spec["image_shape"][-1]:
        raise ConfigError(
            f"{prefix}image_shape={_shown(list(spec['image_shape']))}: latents of this"
            f" autoencoder have {channels} channels; make them equal"
        )


def check_text(spec: Mapping[str, Any], prefix: str = "") -> None:
    """Refuses an encoder of other states than the network reads."""
    if (section := spec.get("text")) is None:
        return
    module = named(section).call(texts.make)
    width, length = spec.get("cond_dim", 0), spec.get("cond_length", 0)
    if width != module.width or not 0 < length <= module.num_positions:
        raise ConfigError(
            f"{prefix}cond_dim={width}, cond_length={length}: this text encoder makes"
            f" {module.width} numbers of each of up to {module.num_positions} tokens"
        )


def check_section(
    section: str, values: Any, prefix: str = "", *, given=(), partial: bool = False
) -> None:
    """Refuses a name, or keywords, of one of `MODULES` that it does not have.

    Args:
        section: Name of the section.
        values: {"name": ..., keyword: value}.
        prefix: See `check`.
        given: Keywords that are given otherwise.
        partial: Whether required keywords may be missing.

    Raises:
        ConfigError: Names the keyword, its value and the rule.
    """
    prefix = f"{prefix}{section}."
    arguments.check_named(
        MODULES[section],
        values,
        prefix=prefix,
        hidden=(*BOUND, *given),
        partial=partial,
    )
    for key, value in values.items():
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ConfigError(f"{prefix}{key}={_shown(value)}: must be up to {LARGEST}")


def _check_facts(spec: Mapping[str, Any], prefix: str) -> None:
    """What a model's file says beside its network."""
    for name in TEXTS:
        if not isinstance(spec.get(name), str | None):
            raise ConfigError(f"{prefix}{name}={_shown(spec[name])}: must be text")
    revision, prob = spec.get("revision"), spec.get("null_prob")
    if revision is not None and not _is_number(revision, numbers.Integral):
        raise ConfigError(f"{prefix}revision={_shown(revision)}: must be a number")
    if prob is not None and not (_is_number(prob, numbers.Real) and 0 <= prob <= 1):
        raise ConfigError(f"{prefix}null_prob={_shown(prob)}: must lie in [0, 1]")
    source = spec.get("source")
    if source is not None and not _is_origin(source):
        names = ", ".join(ORIGIN)
        raise ConfigError(f"{prefix}source={_shown(source)}: must be texts, {names}")


def check_levels(levels: Any, num_classes: int, prefix: str) -> None:
    """(low, high) of the strengths of guidance that a network reads; None for none."""
    if levels is None:
        return
    place = f"{prefix}guidance_range={_shown(levels)}"
    ends = list(levels) if isinstance(levels, (list, tuple)) else []
    known = len(ends) == 2 and all(_is_number(x, numbers.Real) for x in ends)
    if not known or not 0 <= ends[0] < ends[1] <= LARGEST:
        raise ConfigError(f"{place}: must be (low, high), 0 <= low < high")
    if not num_classes:
        raise ConfigError(
            f"{place}: needs labels to be guided by, and num_classes is 0"
        )


def _is_origin(source) -> bool:
    if not isinstance(source, Mapping) or set(source) != set(ORIGIN):
        return False
    return all(isinstance(value, str) for value in source.values())


def _is_number(value, kind) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_shape(name: str, shape) -> None:
    """[H, W, C] of one image."""
    sides = list(shape) if isinstance(shape, (list, tuple)) else []
    whole = len(sides) == 3 and all(_is_number(n, numbers.Integral) for n in sides)
    if not whole or not all(1 <= n <= LARGEST_SIDE for n in sides):
        raise ConfigError(
            f"{name}={_shown(shape)}: must be height, width and channels, each of"
            f" 1 to {LARGEST_SIDE}"
        )


def _check_count(name: str, value) -> None:
    if not _is_number(value, numbers.Integral) or not 0 <= value <= LARGEST:
        raise ConfigError(f"{name}={_shown(value)}: must be a count up to {LARGEST}")


def _shown(value) -> str:
    return repr(value)[:60]
