"""The names and layouts of DiT's tensors: the authors', diffusers', and ours.

blocks.0.mlp.fc1.weight      transformer_blocks.0.ff.net.0.proj.weight
blocks.0.attn.qkv.weight     transformer_blocks.0.attn1.to_q.weight, and to_k, to_v
t_embedder.mlp.0.weight      transformer_blocks.*.norm1.emb.timestep_embedder.linear_1

The last row of the table of classes, that of none, is a leaf of ours. Time and class
are embedded once by the authors, and in each block by diffusers, mostly by copies.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import lazy
from kdiff_jax.formats.lazy import Lazy

QKV = ("to_q", "to_k", "to_v")
TABLE = "embedding_table.weight"
POSITIONS = ("pos_embed", "pos_embed.pos_embed")  # fixed, and no leaves of ours
# Ours: theirs. Those of blocks stand behind "blocks.0." and "transformer_blocks.0.".
AUTHORS = {
    "patches": "x_embedder.proj",
    "time_0": "t_embedder.mlp.0",
    "time_1": "t_embedder.mlp.2",
    "modulation": "final_layer.adaLN_modulation.1",
    "out": "final_layer.linear",
}
AUTHORS_BLOCK = {
    "modulation": "adaLN_modulation.1",
    "attn_out": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
DIFFUSERS = {
    "patches": "pos_embed.proj",
    "modulation": "proj_out_1",
    "out": "proj_out_2",
}
DIFFUSERS_BLOCK = {
    **{name: f"attn1.{name}" for name in QKV},
    "modulation": "norm1.linear",
    "attn_out": "attn1.to_out.0",
    "fc1": "ff.net.0.proj",
    "fc2": "ff.net.2",
}
# In each block; theirs behind "transformer_blocks.0.norm1.emb.".
EMBEDDINGS = {
    "time_0": "timestep_embedder.linear_1",
    "time_1": "timestep_embedder.linear_2",
}


def of_authors(state: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """{our path: array in our layout} of the authors' state dict.

    Raises:
        CheckpointError: Names the first tensor that no DiT has.
    """
    top, block = _inverse(AUTHORS), _inverse(AUTHORS_BLOCK)
    leaves: dict[str, Lazy] = {}
    for name, leaf in state.items():
        if name in POSITIONS:
            continue
        if name == f"y_embedder.{TABLE}":
            leaves |= _of_table(leaf, "")
            continue
        module, _, kind = name.rpartition(".")
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
        if found and found[2] == "attn.qkv":
            width = leaf.shape[0] // 3
            for i, part in enumerate(QKV):
                own = leaf.take(slice(i * width, (i + 1) * width))
                _put(leaves, f"blocks_{found[1]}/{part}", kind, own, name)
        elif found:
            head = f"blocks_{found[1]}/{block.get(found[2], '?')}"
            _put(leaves, head, kind, leaf, name)
        else:
            _put(leaves, top.get(module, "?"), kind, leaf, name)
    return leaves


def to_authors(leaves: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """The inverse of `of_authors`, without the positions.

    Raises:
        CheckpointError: If blocks have embeddings of their own.
    """
    if owned := [path for path in leaves if re.match(r"blocks_\d+_", path)]:
        raise CheckpointError(
            f"own_embeddings=True: the authors' names have place for one {owned[0]}, as"
            " all blocks share it; take another --target"
        )
    state = {f"y_embedder.{TABLE}": _table(leaves, "")} if _has_table(leaves) else {}
    for path, leaf in leaves.items():
        head, *inside, kind = path.split("/")
        kind, leaf = _theirs(kind, leaf)
        if not inside and head in AUTHORS:
            state[f"{AUTHORS[head]}.{kind}"] = leaf
        elif inside and inside[0] in AUTHORS_BLOCK:
            number = head.removeprefix("blocks_")
            state[f"blocks.{number}.{AUTHORS_BLOCK[inside[0]]}.{kind}"] = leaf
        elif inside and inside[0] == QKV[0]:
            parts = [leaves[path.replace(QKV[0], name)] for name in QKV]
            parts = [_theirs("", part)[1] for part in parts]
            number = head.removeprefix("blocks_")
            state[f"blocks.{number}.attn.qkv.{kind}"] = lazy.joined(parts, 0)
    return state


def of_diffusers(tensors: Mapping[str, Lazy]) -> tuple[dict[str, Lazy], bool]:
    """({our path: array in our layout}, whether blocks have embeddings of their own).

    Raises:
        CheckpointError: Names the first tensor that no DiT has.
    """
    top, block = _inverse(DIFFUSERS), _inverse(DIFFUSERS_BLOCK)
    leaves: dict[str, Lazy] = {}
    embeddings: dict[int, dict[str, Lazy]] = {}
    for name, leaf in tensors.items():
        if name in POSITIONS:
            continue
        module, _, kind = name.rpartition(".")
        found = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
        if found and found[2].startswith("norm1.emb."):
            short = name.split(".norm1.emb.")[1]
            embeddings.setdefault(int(found[1]), {})[short] = leaf
        elif found:
            head = f"blocks_{found[1]}/{block.get(found[2], '?')}"
            _put(leaves, head, kind, leaf, name)
        else:
            _put(leaves, top.get(module, "?"), kind, leaf, name)
    own = not _equal(embeddings)
    inside = _inverse(EMBEDDINGS)
    for number, found in embeddings.items() if own else list(embeddings.items())[:1]:
        prefix = f"blocks_{number}_" if own else ""
        for name, leaf in found.items():
            module, _, kind = name.rpartition(".")
            if name == f"class_embedder.{TABLE}":
                leaves |= _of_table(leaf, prefix)
            else:
                _put(leaves, prefix + inside.get(module, "?"), kind, leaf, name)
    return leaves, own


def to_diffusers(leaves: Mapping[str, Lazy], num_blocks: int) -> dict[str, Lazy]:
    """The inverse of `of_diffusers`; embeddings that are shared are copied."""
    state: dict[str, Lazy] = {}
    for path, leaf in leaves.items():
        head, *inside, kind = path.split("/")
        kind, leaf = _theirs(kind, leaf)
        if not inside and head in DIFFUSERS:
            state[f"{DIFFUSERS[head]}.{kind}"] = leaf
        elif inside:
            number = head.removeprefix("blocks_")
            name = f"transformer_blocks.{number}.{DIFFUSERS_BLOCK[inside[0]]}"
            state[f"{name}.{kind}"] = leaf
    for number in range(num_blocks):
        prefix = f"blocks_{number}_"
        prefix = prefix if f"{prefix}time_0/kernel" in leaves else ""
        home = f"transformer_blocks.{number}.norm1.emb"
        for ours, theirs in EMBEDDINGS.items():
            for kind in ("kernel", "bias"):
                name, leaf = _theirs(kind, leaves[f"{prefix}{ours}/{kind}"])
                state[f"{home}.{theirs}.{name}"] = leaf
        state[f"{home}.class_embedder.{TABLE}"] = _table(leaves, prefix)
    return state


def _of_table(leaf: Lazy, prefix: str) -> dict[str, Lazy]:
    rows = leaf.shape[0] - 1
    return {
        f"{prefix}class_table/kernel": leaf.take(slice(0, rows)),
        f"{prefix}null_class/kernel": leaf.take(slice(rows, rows + 1)),
    }


def _table(leaves: Mapping[str, Lazy], prefix: str) -> Lazy:
    names = "class_table", "null_class"
    return lazy.joined([leaves[f"{prefix}{name}/kernel"] for name in names], 0)


def _has_table(leaves: Iterable[str]) -> bool:
    return "class_table/kernel" in leaves


def _put(leaves: dict[str, Lazy], path: str, kind: str, leaf: Lazy, name: str) -> None:
    """Enters a weight or bias at our path, turned into our layout."""
    if "?" in path or kind not in ("weight", "bias"):
        raise CheckpointError(f"its network has {name}, which ours does not have")
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(len(leaf.shape))
    leaf = leaf.transpose(*axes) if axes else leaf
    leaves[f"{path}/{'kernel' if kind == 'weight' else kind}"] = leaf


def _theirs(kind: str, leaf: Lazy) -> tuple[str, Lazy]:
    """(their name of a kernel or bias, the array in PyTorch's layout)."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(leaf.shape))
    leaf = leaf.transpose(*axes) if axes else leaf
    return "weight" if kind == "kernel" else kind, leaf


def _equal(embeddings: Mapping[int, Mapping[str, Lazy]]) -> bool:
    """Whether the embeddings of all blocks are copies; one pair is read at a time."""
    first, *others = embeddings.values() if embeddings else [{}]
    for name, leaf in first.items():
        value = None
        for other in others:
            if name not in other or other.keys() != first.keys():
                return False
            value = leaf.read() if value is None else value
            if not np.array_equal(value, other[name].read()):
                return False
    return True


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}
