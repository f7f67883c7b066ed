"""A shallower network's first parameters, out of a deeper one's blocks.

For U-Nets whose parameters have diffusers' names: `unet2d_condition`, `ddpm_unet`.
"""

import re

from kdiff_jax import registry
from kdiff_jax.errors import CheckpointError
from kdiff_jax.types import Params

RULES = ("bk_sdm",)
BLOCK = re.compile(r"(down|up)_blocks_(\d+)_(resnets|attentions)_(\d+)")
BETWEEN = re.compile(r"(down|up)_blocks_(\d+)_(?:down|up)samplers_0.*")


def select(params: Params, template: Params, rule: str = "bk_sdm") -> Params:
    """The parameters of the shallower network, layer by layer.

    Of each encoder level the first residual blocks, with their transformers; of each
    decoder level the first ones and the last, whose inputs are as wide as in the deep
    network: a level of two blocks down and three up keeps the first, and the first and
    the third. A bottleneck that the shallow network lacks is left out, and so are the
    innermost levels.

    Args:
        params: Parameters of the deep network, as a dict of layers.
        template: Parameters of the shallow network, or their shapes.
        rule: "bk_sdm".

    Raises:
        CheckpointError: Names the first layer that the deep network lacks.
        ConfigError: If there is no such rule.

    Source: Kim et al. 2023, arXiv:2305.15798, Section 3.1 and Figure 3.
    """
    if rule not in RULES:
        raise registry.unknown("blocks", rule, RULES)
    few, many = _count(template), _count(params)
    if not few or not many:
        raise CheckpointError(
            f"blocks={rule!r}: names the blocks of unet2d_condition and ddpm_unet, and"
            " the student, or what it begins as, is another network; set blocks=''"
        )
    found = {}
    for name, wanted in template.items():
        source = _source(name, few, many)
        if source not in params:
            raise _lacking(rule, name)
        # Of a transformer that is shallower itself, the first blocks.
        found[name] = _inner(params[source], wanted, f"{name}/", rule)
    return found


def _source(name: str, few: dict, many: dict) -> str:
    """Name of the deep network's layer that the shallow one's layer `name` begins as.

    Args:
        name: Name of a layer of the shallow network.
        few, many: `_count` of the shallow and of the deep network.
    """
    # The decoder's levels are counted from the innermost one.
    missing = len(many) // 2 - len(few) // 2
    if match := BLOCK.fullmatch(name):
        way, level, kind, number = match.groups()
        level, number = int(level), int(number)
        deeper = level + missing * (way == "up")
        if way == "up" and number == few[way, level] - 1:
            number = many.get((way, deeper), 0) - 1
        return f"{way}_blocks_{deeper}_{kind}_{number}"
    if (match := BETWEEN.fullmatch(name)) and match[1] == "up":
        level = match[2]
        return name.replace(f"_{level}_", f"_{int(level) + missing}_", 1)
    return name


def _count(layers) -> dict[tuple[str, int], int]:
    """(way, level) -> the number of its residual blocks."""
    found: dict[tuple[str, int], int] = {}
    for name in layers:
        if (match := BLOCK.fullmatch(name)) and match[3] == "resnets":
            key = match[1], int(match[2])
            found[key] = found.get(key, 0) + 1
    return found


def _inner(have, wanted, path: str, rule: str):
    """The leaves of `wanted` out of `have`, which has them and more."""
    if not isinstance(wanted, dict) or not isinstance(have, dict):
        return have
    for name in wanted:
        if name not in have:
            raise _lacking(rule, f"{path}{name}")
    return {
        name: _inner(have[name], inner, f"{path}{name}/", rule)
        for name, inner in wanted.items()
    }


def _lacking(rule: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"blocks={rule!r}: what the student begins as has nothing for its layer"
        f" {name}; take a student with fewer blocks and otherwise the same, or"
        " init.student='random'"
    )
