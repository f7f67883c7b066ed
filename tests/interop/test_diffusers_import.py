"""Folders of diffusers: networks of every style, names, variants, refusals.

Data: diffusers 0.42.1 (Apache-2.0), PyTorch 2.13.0, CPU, float32: small `UNet2DModel`s
with random weights, none zero, made by benchmarks/compare_diffusers.py, kept in half
precision; `diffusers_tiny_ddpm` as in tests/parity/test_ddpm_network.py.
"""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from tolerance import UNET

from kdiff_jax import networks
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.interop import diffusers, diffusers_names
from kdiff_jax.interop.built import build
from kdiff_jax.interop.checkpoint import checked
from kdiff_jax.interop.source import Facts
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.trees import flatten, unflatten

DATA = pathlib.Path(__file__).parent.parent / "parity/data"
STYLES = ("class_conditional", "consistency")
# That of google/ddpm-cifar10-32, in small: the keys of its time.
DDPM = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [24, 48],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 8,
    "out_channels": 3,
    "sample_size": 16,
    "time_embedding_type": "positional",
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


def ddpm_folder(folder, config=DDPM, weights="diffusion_pytorch_model.safetensors"):
    """The network of tests/parity as a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(DATA / "diffusers_tiny_ddpm.safetensors", folder / weights)
    return folder


def network(source):
    """(module, params) of a source, its leaves compared with those it needs."""
    spec = Spec.of(source.spec)
    about = dict(out_channels=spec.image_shape[-1], num_classes=spec.num_classes)
    module = spec.network.call(networks.make, **about)
    leaves = checked(spec, source, "folder")
    return module, unflatten({k: leaf.read() for k, leaf in leaves.items()})


@pytest.mark.parametrize("name", STYLES)
def test_the_output_is_the_reference_s(name):
    folder = DATA / f"diffusers_{name}"
    assert diffusers.matches(folder)
    module, params = network(diffusers.convert(folder, Facts()))
    with np.load(folder / "io.npz") as file:
        io = dict(file)
    x = jnp.asarray(np.moveaxis(io["x"], 1, -1))
    out = jax.jit(module.apply)({"params": params}, x, io["t"], jnp.asarray(io["y"]))
    np.testing.assert_allclose(np.moveaxis(out, -1, 1), io["out"], **UNET)


def test_the_networks_of_2022(tmp_path):
    source = diffusers.convert(ddpm_folder(tmp_path), Facts())
    net, process = build(source.spec)
    params = network(source)[1]
    expected = jax.eval_shape(net.init, jax.random.key(0))
    assert flatten(params).keys() == flatten(expected).keys()
    assert process.t_max == 999 and source.spec["precondition"] == {"name": "eps"}
    assert source.spec["image_shape"] == [16, 16, 3]
    (no_file, steps) = source.assumed
    assert no_file.startswith("scheduler=DDPMScheduler") and "1000" in steps


def test_old_names_of_attention(tmp_path):
    plain = diffusers.convert(ddpm_folder(tmp_path / "new"), Facts())
    folder = ddpm_folder(tmp_path / "old")
    file = folder / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, leaf in load_file(file).items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = lazy.of(leaf)
    assert sum("proj_attn" in name for name in renamed) == 8
    tensors.write(file, renamed)
    found = diffusers.convert(folder, Facts())
    assert found.leaves.keys() == plain.leaves.keys()
    for name, leaf in found.leaves.items():
        np.testing.assert_array_equal(leaf.read(), plain.leaves[name].read())


def test_names_go_there_and_back():
    for name in load_file(DATA / "diffusers_tiny_ddpm.safetensors"):
        assert diffusers_names.their_name(diffusers_names.our_path(name)) == name
    for name, path in {
        "down_blocks.0.downsamplers.0.norm1.weight": (
            "down_blocks_0_downsamplers_0/norm1/scale"
        ),
        "down_blocks.10.downsamplers.0.conv.bias": (
            "down_blocks_10_downsamplers_0_conv/bias"
        ),
        "class_embedding.weight": "class_embedding/kernel",
        "mid_block.attentions.0.to_out.0.weight": (
            "mid_block_attentions_0/to_out_0/kernel"
        ),
    }.items():
        assert diffusers_names.our_path(name) == path
        assert diffusers_names.their_name(path) == name


def test_where_things_lie(tmp_path):
    """A pipeline of folders, variants, and which file wins."""
    pipeline = tmp_path / "pipeline"
    home = ddpm_folder(pipeline / "unet", weights="diffusion_pytorch_model.fp16.bin")
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (pipeline / "model_index.json").write_text(json.dumps(index))
    (pipeline / "scheduler").mkdir()
    scheduler = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
    (pipeline / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    source = diffusers.convert(pipeline, Facts(num_steps=4))
    assert source.spec["precondition"] == {"name": "v"}
    sampler = source.spec["sampler"]
    assert (sampler["name"], sampler["num_steps"]) == ("ddim", 4)
    assert source.assumed == ()
    # two variants and no plain file: nobody knows which
    shutil.copy(
        home / "diffusion_pytorch_model.fp16.bin",
        home / "diffusion_pytorch_model.non_ema.safetensors",
    )
    with pytest.raises(CheckpointError, match="fp16.bin.*keep one variant"):
        diffusers.convert(pipeline, Facts())
    ddpm_folder(home)
    assert len(diffusers.convert(pipeline, Facts()).leaves) == 144
    (home / "config.json").unlink()
    with pytest.raises(CheckpointError, match="copy unet/ as well"):
        diffusers.convert(pipeline, Facts())


def test_what_is_no_folder_of_diffusers(tmp_path):
    assert not diffusers.matches(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"network": {}, "sha256": ""}))
    assert not diffusers.matches(tmp_path)
    assert not diffusers.matches(tmp_path / "config.json")
    assert not diffusers.matches({"ema": {}})
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": []}))
    (tmp_path / "config.json").write_text(json.dumps(DDPM))
    assert diffusers.matches(tmp_path)
    with pytest.raises(CheckpointError, match="safetensors is missing.*nothing like"):
        diffusers.convert(tmp_path, Facts())


REFUSED_NETWORKS = [
    (dict(_class_name="UNet3DConditionModel"), "_class_name='UNet3DConditionModel'"),
    (dict(time_embedding_type="fourier"), "time_embedding_type='fourier'"),
    (dict(class_embed_type="timestep"), "class_embed_type='timestep'"),
    (dict(act_fn="mish"), "act_fn='mish'.*'silu' or 'swish'"),
    (dict(resnet_time_scale_shift="spatial"), "resnet_time_scale_shift='spatial'"),
    (dict(mid_block_type="UnCLIPUNetMidBlock2D"), "mid_block_type"),
    (dict(downsample_type="none"), "downsample_type='none'"),
    (dict(downsample_padding=2), "downsample_padding=2"),
    (dict(attention_legacy_order=True), "attention_legacy_order=True.*no such option"),
    (
        dict(down_block_types=["SkipDownBlock2D", "AttnDownBlock2D"]),
        "down_block_types='SkipDownBlock2D'",
    ),
    (dict(up_block_types=["UpBlock2D"]), "up_block_types=.*one for each"),
    (dict(out_channels=6), "out_channels=6.*learned variance"),
    (dict(sample_size=None), "sample_size=None.*image_size"),
    (dict(attention_head_dim=36), "attention_head_dim=36.*divisor"),
    (dict(norm_num_groups=7), "24 channels in 7 groups|48 channels in 7 groups"),
]


@pytest.mark.parametrize("change, text", REFUSED_NETWORKS)
def test_other_networks_are_refused_by_name(tmp_path, change, text):
    folder = ddpm_folder(tmp_path, DDPM | change)
    with pytest.raises(CheckpointError, match=text) as caught:
        diffusers.convert(folder, Facts())
    assert "\n" not in str(caught.value)


def test_every_option_of_the_library_is_known():
    """Those of `UNet2DModel` in 0.42.1; a new one must be read or refused."""
    config = json.loads((DATA / "diffusers_consistency/config.json").read_text())
    assert set(diffusers.OPTIONS) == {k for k in config if not k.startswith("_")}


def test_latent_pipelines_are_refused(tmp_path):
    folder = ddpm_folder(tmp_path)
    index = {"unet": ["diffusers", "UNet2DModel"], "vqvae": ["diffusers", "VQModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="vqvae"):
        diffusers.convert(folder, Facts())


def test_what_the_user_says(tmp_path):
    folder = ddpm_folder(tmp_path, DDPM | dict(sample_size=None))
    facts = Facts(precondition="v", image_size=8, sampler="dpm_solver", num_steps=5)
    spec = diffusers.convert(folder, facts).spec
    assert spec["image_shape"] == [8, 8, 3]
    assert spec["precondition"] == {"name": "v"}
    assert spec["sampler"] == {"name": "dpm_solver", "num_steps": 5}
    ddpm_folder(tmp_path)
    with pytest.raises(CheckpointError, match="sample_size=16.*image_size=8"):
        diffusers.convert(folder, facts)
    (folder / "scheduler_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="precondition='v'.*says 'eps'"):
        diffusers.convert(folder, Facts(precondition="v"))
    (folder / "scheduler_config.json").write_text("[")
    with pytest.raises(CheckpointError, match="scheduler_config.json: .*damaged"):
        diffusers.convert(folder, Facts())
