"""Stable Diffusion's single files against the folder that they become."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stable_diffusion as sd
from safetensors.numpy import save_file

from kdiff_jax import interop, networks
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import diffusers_names, foreign, original_unet
from kdiff_jax.interop.source import Facts
from kdiff_jax.interop.trees import flatten

RELEASED = dict(block_out_channels=[32, 64], norm_num_groups=32, attention_head_dim=8)
PREFIX = "model.diffusion_model."
# Written from the authors' code, not from ours.
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
SINGLE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def heads(levels, layers):
    """{beginning of diffusers' names: of the authors'} of such a U-Net."""
    found = {"mid_block.attentions.0": "middle_block.1"}
    found |= {f"mid_block.resnets.{i}": f"middle_block.{2 * i}" for i in range(2)}
    for level in range(levels):
        down = 1 + level * (layers + 1)
        for i in range(layers):
            name, block = f"down_blocks.{level}", f"input_blocks.{down + i}"
            found |= {f"{name}.resnets.{i}": f"{block}.0"}
            found |= {f"{name}.attentions.{i}": f"{block}.1"}
        found[f"{name}.downsamplers.0.conv"] = f"input_blocks.{down + layers}.0.op"
        for i in range(layers + 1):
            name, block = (
                f"up_blocks.{level}",
                f"output_blocks.{level * (layers + 1) + i}",
            )
            found |= {f"{name}.resnets.{i}": f"{block}.0"}
            found |= {f"{name}.attentions.{i}": f"{block}.1"}
        found[f"{name}.upsamplers.0.conv"] = block
    return found


def theirs(names, levels, layers):
    """{diffusers' name: the authors'}."""
    table, found = heads(levels, layers), {}
    for name in names:
        module, leaf = name.rsplit(".", 1)
        if module in SINGLE:
            found[name] = f"{SINGLE[module]}.{leaf}"
            continue
        head = next(h for h in table if name.startswith(f"{h}."))
        inside = module[len(head) + 1 :]
        if head.endswith("upsamplers.0.conv"):
            # Behind the transformer, where there is one.
            level = head.split(".")[1]
            deep = any(k.startswith(f"up_blocks.{level}.attentions") for k in names)
            place = f"{table[head]}.{2 if deep else 1}.conv"
        else:
            place = ".".join(p for p in (table[head], RESNET.get(inside, inside)) if p)
        found[name] = f"{place}.{leaf}"
    return found


@functools.cache
def arrays(kind, **changes):
    return sd.tensors(sd.config(kind, **RELEASED, **changes))


def single(kind, **changes):
    found = arrays(kind, **changes)
    return {PREFIX + new: found[old] for old, new in theirs(found, 2, 1).items()}


def save(path, state):
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, path)
    return path


SD2 = dict(attention_head_dim=[1, 1], block_out_channels=[64, 64])
XL = dict(addition_time_embed_dim=256, projection_class_embeddings_input_dim=1542)


@pytest.mark.parametrize(
    "kind, changes",
    [("sd1", {}), ("sd2", SD2), ("bk", dict(downsample_padding=1)), ("xl", SD2 | XL)],
)
def test_the_file_is_the_folder(kind, changes, tmp_path):
    about = RELEASED | dict(upcast_attention=None, mid_block_scale_factor=1) | changes
    config = sd.config(kind, **about)
    found = sd.tensors(config)
    state = {PREFIX + new: found[old] for old, new in theirs(found, 2, 1).items()}
    # A file holds the other networks, too.
    state["first_stage_model.decoder.conv_in.weight"] = np.zeros(
        (4, 4, 3, 3), np.float32
    )
    path = save(tmp_path / "model.safetensors", state)
    folder = sd.pipeline(tmp_path / "pipeline", config, found)
    (one, origin), (other, _) = foreign.read(path), foreign.read(folder)
    assert origin.family == "stable_diffusion"
    assert one.leaves.keys() == other.leaves.keys()
    for name, leaf in one.leaves.items():
        np.testing.assert_array_equal(leaf.read(), other.leaves[name].read())
    fields = {
        k: v for k, v in other.spec["network"].items() if k in one.spec["network"]
    }
    heads = fields["num_heads"]
    assert one.spec["network"] == fields, heads
    assert one.spec["cond_dim"] == other.spec["cond_dim"]
    assert one.spec["image_shape"] == [128, 128, 4] if kind == "xl" else [64, 64, 4]
    # Which says what the file does not.
    said, _ = foreign.read(path, Facts(config=folder))
    kept = {k: v for k, v in other.spec.items() if k != "sampler"}
    assert {k: v for k, v in said.spec.items() if k != "sampler"} == kept


def test_the_file_loads_and_its_average_is_taken(tmp_path, caplog):
    state = single("sd1")
    doubled = {
        "model_ema." + k.removeprefix("model.").replace(".", ""): 2 * v
        for k, v in state.items()
    }
    model = interop.load(save(tmp_path / "plain.safetensors", state))
    averaged = interop.load(save(tmp_path / "ema.safetensors", state | doubled))
    assert "the moving average" in caplog.text and "num_heads=8" in caplog.text
    plain = flatten(model.params)
    for name, leaf in flatten(averaged.params).items():
        np.testing.assert_array_equal(leaf, 2 * plain[name])
    assert model.spec.cond_length == 77 and model.spec.precondition.name == "eps"
    bare = {k.removeprefix(PREFIX): v for k, v in state.items()}
    source, _ = foreign.read(save(tmp_path / "bare.safetensors", bare))
    assert source.leaves.keys() == plain.keys()


def test_all_names_of_the_full_network():
    network = networks.make("unet2d_condition", cond_dim=768)
    args = jax.random.key(0), jnp.zeros((1, 8, 8, 4)), jnp.zeros(1)
    found = flatten(jax.eval_shape(network.init, *args)["params"])
    names = [diffusers_names.their_name(path) for path in found]
    table = theirs(names, 4, 2)
    assert len(set(table.values())) == len(names) == 686
    for name in (
        "input_blocks.11.0.emb_layers.1.bias",
        "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight",
        "output_blocks.2.1.conv.weight",
        "output_blocks.8.2.conv.bias",
        "output_blocks.11.1.proj_out.weight",
    ):
        assert name in table.values()
    assert original_unet.names(table.values()) == {new: k for k, new in table.items()}


def test_what_is_no_such_file(tmp_path):
    state = single("sd1")
    for change, text in (
        (
            {PREFIX + "input_blocks.0.0.weight": np.zeros((32, 9, 3, 3))},
            "9 channels and",
        ),
        (
            {PREFIX + "time_embed.4.weight": np.zeros((3, 3))},
            "time_embed.4.weight: is no",
        ),
        ({PREFIX + "middle_block.0.odd.weight": np.zeros((3, 3))}, "odd"),
    ):
        changed = state | {k: np.float32(v) for k, v in change.items()}
        path = save(tmp_path / "model.safetensors", changed)
        with pytest.raises(CheckpointError, match=text) as error:
            interop.load(path)
        assert "\n" not in str(error.value)
    tiny = sd.tensors(sd.config("sd1", block_out_channels=[12, 24]))
    state = {PREFIX + new: tiny[old] for old, new in theirs(tiny, 2, 1).items()}
    path = save(tmp_path / "model.safetensors", state)
    with pytest.raises(CheckpointError, match="8 heads.*give config=FOLDER"):
        interop.load(path)
    with pytest.raises(CheckpointError, match="config='.*nothing': does not exist"):
        interop.load(path, facts=Facts(config=tmp_path / "nothing"))
    folder = sd.pipeline(tmp_path / "p", sd.config(), sd.tensors(sd.config()))
    with pytest.raises(CheckpointError, match="config=.*is for a single file"):
        interop.load(folder, facts=Facts(config=folder))
