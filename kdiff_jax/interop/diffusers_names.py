"""The names and layouts of diffusers' tensors, and ours.

down_blocks.0.resnets.1.norm1.weight     down_blocks_0_resnets_1/norm1/scale
...transformer_blocks.0.attn1.to_out.0   .../transformer_blocks_0/attn1/to_out_0
"""

import re
from collections.abc import Mapping

from kdiff_jax.formats.lazy import Lazy

# Until diffusers 0.16; in an attention block alone.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
HEAD = r"(down_blocks\.\d+|up_blocks\.\d+|mid_block)\.[a-z]+\.\d+(\.conv$)?"
OUR_HEAD = r"^(down_blocks_\d+|up_blocks_\d+|mid_block)_([a-z]+)_(\d+)(_conv)?$"


def our_path(name: str) -> str:
    """Our path of a tensor's name; that of either spelling of attention."""
    *parts, leaf = name.split(".")
    if "attentions" in parts:
        *parts, last = parts
        parts += OLD_NAMES.get(last, last).split(".")
    text = ".".join(parts)
    block = re.match(HEAD, text)
    head = block.group() if block else text
    ours = [head.replace(".", "_")]
    if inside := text[len(head) + 1 :]:
        inside = inside.replace("net.0.proj", "net_0_proj")
        ours += re.sub(r"\.(\d+)", r"_\1", inside).split(".")
    if leaf == "weight":
        leaf = "scale" if "norm" in ours[-1] else "kernel"
    return "/".join([*ours, leaf])


def their_name(path: str) -> str:
    """The inverse of `our_path`."""
    head, *inside, leaf = path.split("/")
    head = re.sub(r"^(time|add)_embedding_", r"\1_embedding.", head)
    if block := re.match(OUR_HEAD, head):
        parts = [block[1].replace("blocks_", "blocks."), block[2], block[3]]
        head = ".".join([*parts, *(["conv"] * bool(block[4]))])
    inside = [
        re.sub(r"^(transformer_blocks|to_out|net)_(\d+)", r"\1.\2", part)
        for part in inside
    ]
    inside = [part.replace("net.0_proj", "net.0.proj") for part in inside]
    leaf = "weight" if leaf in ("kernel", "scale") else leaf
    return ".".join([head, *inside, leaf])


def read_weights(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """{our path: array in our layout} of {their name: array}."""
    return {our_path(name): _ours(name, leaf) for name, leaf in tensors.items()}


def state_dict(leaves: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """{their name: array in PyTorch's layout} of {our path: array}."""
    return {their_name(path): _theirs(path, leaf) for path, leaf in leaves.items()}


def _ours(name: str, leaf: Lazy) -> Lazy:
    """Dense [in, out], Conv [H, W, in, out]; a table of rows as it is."""
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(len(leaf.shape))
    if axes is None or name.startswith("class_embedding"):
        return leaf
    return leaf.transpose(*axes)


def _theirs(path: str, leaf: Lazy) -> Lazy:
    """Linear [out, in], Conv [out, in, H, W]."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(leaf.shape))
    if axes is None or path.startswith("class_embedding"):
        return leaf
    return leaf.transpose(*axes)
