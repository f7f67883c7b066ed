"""Where things lie in a folder of diffusers: network, weights, scheduler."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import containers, raw, wrappers
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import averages

CONFIG, INDEX = "config.json", "model_index.json"
SCHEDULER = "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model"
TRANSFORMERS = ("model", "pytorch_model")  # of text encoders, safetensors and bin
OWN = "model.safetensors"
# Folders of a network, in a pipeline or a training checkpoint; averages first.
AVERAGES = ("unet_ema", "ema_unet", "ema", "transformer_ema")
NETWORKS = ("unet", "transformer", "model")
HOMES = AVERAGES + NETWORKS
MAX_JSON = 16 * 2**20  # bytes; an index of the largest public network has 0.2 MB


def matches(folder) -> bool:
    """Whether this is a folder of diffusers."""
    if not isinstance(folder, pathlib.Path) or not folder.is_dir():
        return False
    if (folder / INDEX).is_file() or any(folder.glob(f"{WEIGHTS}*")):
        return True
    return any(_is_home(folder / name) for name in HOMES)


def _is_home(folder: pathlib.Path) -> bool:
    """Whether a network of diffusers lies here; a model folder of ours has OWN."""
    return (folder / CONFIG).is_file() and not (folder / OWN).is_file()


def home(folder: pathlib.Path) -> tuple[pathlib.Path, list[str]]:
    """(the folder of the network itself, a line that says which if there are several).

    Raises:
        CheckpointError: If there is none.
    """
    inside = [name for name in HOMES if _is_home(folder / name)]
    if inside:
        chosen, *others = inside
        return folder / chosen, averages.said(chosen, others)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{INDEX} is there, and no {CONFIG}; copy unet/ as well")
    absolute = folder.absolute()
    beside = [name for name in AVERAGES if _is_home(absolute.parent / name)]
    if absolute.name in NETWORKS and beside:
        note = f"weights={absolute.name!r}: asked for; the average is {beside[0]!r}"
        return folder, [f"{note} beside it"]
    return folder, []


def check_parts(folder: pathlib.Path) -> None:
    """Refuses a pipeline whose network denoises something else than pixels.

    Raises:
        CheckpointError: Names the first part that is not read.
    """
    index = read_json(folder / INDEX)
    parts = [k for k in index if not k.startswith("_")]
    if other := [part for part in parts if part not in ("unet", "scheduler")]:
        raise CheckpointError(
            f"{INDEX}: {other[0]}: is not implemented with this network; there are"
            " pipelines of a unet and a scheduler alone, whose pixels are the image's"
        )


def scheduler(
    folder: pathlib.Path, home: pathlib.Path
) -> tuple[pathlib.Path | None, list[str]]:
    """(the scheduler's config, a line that says where if it is not in the folder).

    A network's folder of its own takes that of the pipeline around it, and a training
    checkpoint that of the run.
    """
    around = [folder.absolute()]
    if home == folder and around[0].name in HOMES:
        around.append(around[0].parent)
    if re.match(r"checkpoint-\d+$", around[-1].name):
        around.append(around[-1].parent)
    for place in around:
        for path in (place / SCHEDULER, place / "scheduler" / SCHEDULER):
            if path.is_file():
                beside = place != around[0]
                return path, [f"scheduler: that of {place}"] if beside else []
    return None, []


def weights(
    folder: pathlib.Path,
    *,
    stems: Sequence[str] = (WEIGHTS,),
    variant: str | None = None,
) -> tuple[dict[str, Lazy], tuple[pathlib.Path, ...], list[str]]:
    """({name: array}, the files, a line that says which where others lie beside them).

    A variant that is a moving average comes first, then the plain file, the plain index
    of shards, the only variant; safetensors come before bin.

    Args:
        folder: Folder of the network itself.
        stems: Names of the files up to the first point: `WEIGHTS` of diffusers,
            `TRANSFORMERS` of the text encoders.
        variant: The one to read, as "fp16" of WEIGHTS.fp16.safetensors; None chooses.

    Raises:
        CheckpointError: If there are none, several variants, or shards that do not fit.
    """
    found = _candidates(folder, stems)
    if variant is not None:
        named = [path for path in found if _variant(path) == (variant,)]
        if not named:
            names = ", ".join(path.name for path in found) or "no weights at all"
            raise CheckpointError(
                f"variant={variant!r}: {folder} has no {stems[0]}.{variant}.safetensors"
                f" but {names}; leave it out, or copy that file"
            )
        found = named
    plain = [path for path in found if path.name.split(".", 1)[1] in PLAIN]
    formats = {_variant(path) for path in found}
    average = [p for p in found if averages.is_average(".".join(_variant(p)))]
    if not (average or plain or len(formats) == 1):
        names = ", ".join(path.name for path in found) or "nothing like it"
        raise CheckpointError(
            f"{stems[0]}.safetensors is missing, and there is {names}; copy that file,"
            " or keep one variant"
        )
    chosen = (average or plain or found)[0]
    others = ", ".join(path.name for path in found if path != chosen)
    said = [f"weights={chosen.name!r}: read, and not {others} beside it"]
    if chosen.suffix == ".json":
        arrays, files = _sharded(chosen)
    else:
        arrays, files = _table(chosen), (chosen,)
    return arrays, files, said if others else []


PLAIN = ("safetensors", "safetensors.index.json", "bin", "bin.index.json")


def _candidates(folder: pathlib.Path, stems: Sequence[str]) -> list[pathlib.Path]:
    """Files of weights and indices of shards, the best first; not the shards."""
    shard = re.compile(r"-\d+-of-\d+(\.|$)")
    paths = [
        path
        for path in folder.iterdir()
        if path.name.partition(".")[0] in stems
        and path.is_file()
        and not shard.search(path.name)
        and re.search(r"\.(safetensors|bin)(\.index)?(\.[\w-]+)?(\.json)?$", path.name)
    ]

    def rank(path):
        ending = path.name.split(".", 1)[1]
        plain = PLAIN.index(ending) if ending in PLAIN else len(PLAIN)
        return plain, ".bin" in path.name, path.name

    return sorted(paths, key=rank)


def _variant(path: pathlib.Path) -> tuple[str, ...]:
    """The variant of a file: ("fp16",) of ...model.fp16.safetensors."""
    parts = path.name.split(".")[1:]
    return tuple(p for p in parts if p not in ("safetensors", "bin", "index", "json"))


def _sharded(index: pathlib.Path) -> tuple[dict[str, Lazy], tuple[pathlib.Path, ...]]:
    """The arrays of all shards, if they are those of the index; files, index first."""
    table = read_json(index).get("weight_map")
    stem = index.name.partition(".")[0]
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index.name}: it has no weight_map; copy it again")
    for file in table.values():
        # A name alone: not "../x", "/x" or a device.
        if not isinstance(file, str) or not re.match(rf"{stem}[\w.-]*$", file):
            raise CheckpointError(
                f"{index.name}: {raw.shown(file)} is no name of a shard; it is damaged,"
                " or of another network"
            )
    files = [index.with_name(name) for name in sorted(set(table.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{missing[0]} is missing, and {len(missing) - 1} more of the {len(files)}"
            f" shards of {index.name}; copy or download them again"
        )
    arrays: dict[str, Lazy] = {}
    for file in files:
        inside = _table(file, unwrap=False)
        claimed = {name for name, where in table.items() if where == file.name}
        if twice := sorted(inside.keys() & arrays.keys()):
            raise CheckpointError(
                f"{twice[0]} is in two shards, {file.name} and before"
            )
        if wrong := sorted(inside.keys() ^ claimed):
            what = "lacks" if wrong[0] in claimed else "has"
            raise CheckpointError(
                f"{file.name} {what} {raw.shown(wrong[0])}, other than {index.name}"
                " says; the two are not of one checkpoint"
            )
        arrays |= inside
    return wrappers.unwrapped(arrays), (index, *files)


def _table(path: pathlib.Path, *, unwrap: bool = True) -> dict[str, Lazy]:
    """{name: array} of a file of weights."""
    content = containers.open(path, unwrap=unwrap).content
    if not isinstance(content, Mapping) or not all(
        isinstance(leaf, Lazy) for leaf in content.values()
    ):
        raise CheckpointError(
            f"{path.name} is no table of tensors; save its state_dict"
        )
    return dict(content)


def read_json(path: pathlib.Path | None) -> dict[str, Any]:
    """The object in a file; empty where there is no such file.

    Raises:
        CheckpointError: If it holds something else, or too much.
    """
    if path is None or not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it has over {MAX_JSON} bytes")
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except (RecursionError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path.name}: {raw.shown(str(error))}; it is damaged: copy it again"
        ) from error
    return found
