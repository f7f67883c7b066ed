"""Autoencoders in the files of others: which are read, and what is said of the rest."""

import json

import encoder_files
import numpy as np
import pytest
from encoder_files import ATTENTION, PLAIN, vae_folder, vae_tensors

from kdiff_jax import latent
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.interop import autoencoder, original, trees

WEIGHTS = "diffusion_pytorch_model.safetensors"


def leaves(vae):
    return trees.flatten(vae.params)


def same(vae, other):
    found, wanted = leaves(vae), leaves(other)
    assert found.keys() == wanted.keys()
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, wanted[name], err_msg=name)
    return vae.sha256 == other.sha256


def write(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors.write(path, {k: lazy.of(v) for k, v in arrays.items()})
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return latent.load(vae_folder(tmp_path_factory.mktemp("vae")))


def test_a_pipeline_and_its_part_are_one_autoencoder(plain, tmp_path):
    vae_folder(tmp_path / "vae", PLAIN | dict(scaling_factor=0.13025, shift_factor=0.5))
    (tmp_path / "model_index.json").write_text("{}")
    vae = latent.load(tmp_path)
    assert not same(vae, plain) and same(vae, latent.load(tmp_path / "vae"))
    assert (vae.scaling_factor, plain.scaling_factor) == (0.13025, 0.18215)
    z = np.float32([0.5, 1.5])
    np.testing.assert_allclose(vae.scale(z), [0, 0.13025])
    np.testing.assert_allclose(vae.unscale(vae.scale(z)), z)


def test_half_precision_and_variants_and_shards(plain, tmp_path):
    folder = vae_folder(tmp_path / "a", dtype="float16", ending="fp16.safetensors")
    half = latent.load(folder)  # the only one there is
    for name, leaf in leaves(half).items():
        assert leaf.dtype == np.float32
        wanted = np.asarray(leaves(plain)[name]).astype(np.float16)
        np.testing.assert_array_equal(leaf, wanted)
    vae_folder(folder)
    assert same(latent.load(folder), plain)
    assert same(latent.load(folder, variant="fp16"), half)
    with pytest.raises(CheckpointError, match="variant='fp32': "):
        latent.load(folder, variant="fp32")
    (folder / WEIGHTS).unlink()
    arrays, table = vae_tensors(PLAIN), {}
    for i, names in enumerate((list(arrays)[:50], list(arrays)[50:])):
        file = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        write(folder / file, {k: arrays[k] for k in names})
        table |= dict.fromkeys(names, file)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": table}))
    assert same(latent.load(folder), plain)


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_names_and_configs_of_2022(plain, tmp_path):
    arrays = vae_tensors(PLAIN)
    for new, old in OLD.items():
        arrays = {k.replace(new, old): v for k, v in arrays.items()}
    assert len(arrays) == len(leaves(plain))
    folder = vae_folder(tmp_path, PLAIN)
    write(folder / WEIGHTS, arrays)
    assert same(latent.load(folder), plain)


@pytest.mark.parametrize("config", [PLAIN, ATTENTION])
def test_single_files_as_their_authors_released_them(config, tmp_path):
    wanted = latent.load(vae_folder(tmp_path / "vae", config))
    arrays = encoder_files.original_names(vae_tensors(config), levels=2)
    inside = {f"first_stage_model.{name}": v for name, v in arrays.items()}
    beside = {"model.diffusion_model.out.2.bias": np.zeros(4, "f4")}
    file = write(tmp_path / "sd.ckpt", inside | beside)
    assert same(latent.load(file, config=tmp_path / "vae"), wanted)
    assert same(latent.load(file, config=config), wanted)
    loss = {"loss.logvar": np.zeros((), "f4")}
    file = write(tmp_path / "vae.safetensors", arrays | loss)
    assert same(latent.load(file, config=config), wanted)
    with pytest.raises(CheckpointError, match=r"32 groups do not divide; .*config="):
        latent.load(file)
    shapes = {k: v.shape for k, v in vae_tensors(config).items()}
    fields = autoencoder.of_shapes(shapes, config["norm_num_groups"])
    assert fields == autoencoder.read_config(config).fields


def test_of_sdxl_s_single_file_the_factor_is_another(tmp_path):
    config = PLAIN | dict(block_out_channels=[32, 32], norm_num_groups=32)
    arrays = encoder_files.original_names(vae_tensors(config), levels=2)
    arrays = {original.FIRST_STAGE + k: v for k, v in arrays.items()}
    file = write(tmp_path / "a.safetensors", arrays)
    assert latent.load(file).scaling_factor == 0.18215
    arrays[f"{original.SDXL}model.logit_scale"] = np.zeros((), "f4")
    assert latent.load(write(file, arrays)).scaling_factor == 0.13025


def test_a_file_of_a_folder_has_its_config_and_one_alone_says_what_is_assumed(
    plain, tmp_path, caplog
):
    folder = vae_folder(tmp_path / "a", PLAIN | dict(scaling_factor=0.25))
    vae = latent.load(folder / WEIGHTS)
    assert not same(vae, plain) and vae.scaling_factor == 0.25
    config = PLAIN | dict(block_out_channels=[32, 32], norm_num_groups=32)
    arrays = encoder_files.original_names(vae_tensors(config), levels=2)
    assert latent.load(write(tmp_path / "b.pt", arrays)).scaling_factor == 0.18215
    (line,) = [m for m in caplog.messages if "scaling_factor" in m]
    assert line.startswith("b.pt: scaling_factor=0.18215: ") and "give config=" in line


def test_names_go_both_ways():
    for config in (PLAIN, ATTENTION):
        for name in vae_tensors(config):
            path = autoencoder.our_path(name)
            assert autoencoder.their_name(path) == name


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (dict(_class_name="AutoencoderTiny"), "_class_name=AutoencoderTiny: is not"),
        (dict(act_fn="mish"), "act_fn=mish: is not implemented; there is 'silu' or"),
        (dict(latents_mean=[0.0] * 4), r"latents_mean=\[0.0, .*: is not implemented"),
        (dict(down_block_types=["DownBlock3D"] * 2), "down_block_types=DownBlock3D"),
        (dict(up_block_types=["UpDecoderBlock2D"]), "one for each of block_out_chan"),
        (dict(norm_num_groups=3), r"norm_num_groups=3: .* a divisor of all of \[8, 16"),
        (dict(new_option=1), "new_option=1: is not implemented; there is no such"),
        (dict(scaling_factor=0), "scaling_factor=0: .* a number above 0"),
        (dict(layers_per_block="2"), "layers_per_block=2: .* a number, 1 or more"),
        (dict(block_out_channels=[8, 32]), "its file does not fit its network: .*"),
    ],
)
def test_other_options_are_refused_in_a_line(change, line, tmp_path):
    folder = vae_folder(tmp_path)
    (folder / "config.json").write_text(json.dumps(PLAIN | change))
    with pytest.raises(CheckpointError, match=line) as caught:
        latent.load(folder)
    assert str(caught.value).startswith("vae=") and "\n" not in str(caught.value)


def test_what_holds_no_autoencoder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist; give a folder"):
        latent.load(tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"has no vae/ and no config\.json"):
        latent.load(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json is missing; copy vae/"):
        latent.load(tmp_path)
    file = write(tmp_path / "a.safetensors", {"x": np.zeros(1, "f4")})
    with pytest.raises(CheckpointError, match="no autoencoder in it"):
        latent.load(file)
    file.write_text("<html>")
    with pytest.raises(CheckpointError, match="it is a web page"):
        latent.load(file)
    folder = vae_folder(tmp_path / "vae")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="copy or download it again"):
        latent.load(tmp_path)
