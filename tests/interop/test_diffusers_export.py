"""A model becomes a folder that is diffusers' own, and comes back as it was."""

import json
import pathlib
import re

import drawn
import numpy as np
import pytest
from safetensors.numpy import load_file

from kdiff_jax import interop
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import Spec, diffusers, diffusers_export
from kdiff_jax.interop.checkpoint import checked
from kdiff_jax.interop.source import Facts
from kdiff_jax.interop.trees import flatten, unflatten
from kdiff_jax.named import Named

DATA = pathlib.Path(__file__).parent.parent / "parity/data"
NETWORK = dict(
    name="ddpm_unet",
    channels=8,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[4],
    num_groups=4,
)


def model(**changes):
    """A model of random parameters; `network` changes fields of its network."""
    spec = dict(
        network=NETWORK | changes.pop("network", {}),
        precondition={"name": "v"},
        process={"name": "discrete"},
        image_shape=[8, 8, 3],
        num_classes=0,
        sampler={"name": "ddim", "num_steps": 1},
    )
    spec = Spec.of(spec | changes)
    net, process = interop.build(spec)
    return interop.Model(net, drawn.params(net), process, spec)


@pytest.mark.parametrize("name", ["class_conditional", "consistency"])
def test_diffusers_to_ours_to_diffusers_is_bit_equal(name, tmp_path):
    folder = DATA / f"diffusers_{name}"
    source = diffusers.convert(folder, Facts())
    spec = Spec.of(source.spec)
    leaves = {k: leaf.read() for k, leaf in checked(spec, source, folder).items()}
    net, process = interop.build(spec)
    whole = interop.Model(net, unflatten(leaves), process, spec)
    saved = diffusers_export.save(tmp_path / "out", whole, num_steps=1)

    weights = "diffusion_pytorch_model{}.safetensors"
    before = load_file(folder / weights.format(".fp16"))
    after = load_file(saved / weights.format(""))
    assert before.keys() == after.keys()
    for key, leaf in after.items():
        assert leaf.dtype == np.float32
        assert leaf.tobytes() == before[key].astype(np.float32).tobytes(), key

    config, again = (
        json.loads((f / "config.json").read_text()) for f in (folder, saved)
    )
    # What is left out is what older versions do not know, at its default.
    left_out = {
        "time_embedding_dim": None,
        "mid_block_type": "UNetMidBlock2D",
        "num_train_timesteps": None,
    }
    for key in config.keys() - {"_diffusers_version"}:
        assert again.get(key, left_out.get(key)) == config[key], key
    assert diffusers.convert(saved, Facts()).spec["network"] == source.spec["network"]


def test_attention_by_resolution_becomes_block_types(tmp_path):
    whole = model(network=dict(channel_mult=[1, 2, 2], attn_resolutions=[8, 2]))
    saved = diffusers_export.save(tmp_path, whole)
    config = json.loads((saved / "config.json").read_text())
    assert config["down_block_types"] == [
        "AttnDownBlock2D",
        "DownBlock2D",
        "AttnDownBlock2D",
    ]
    assert config["up_block_types"] == ["AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"]
    assert config["attention_head_dim"] is None and config["sample_size"] == 8
    back = diffusers.convert(saved, Facts())
    assert checked(whole.spec, back, saved).keys() == flatten(whole.params).keys()


def test_the_folder_holds_a_pipeline_and_says_how_to_call_it(tmp_path):
    sampler = {"name": "ddim", "num_steps": 50, "clip": True}
    saved = diffusers_export.save(tmp_path, model(sampler=sampler))
    assert {path.name for path in saved.iterdir()} == {
        "config.json",
        "scheduler_config.json",
        "model_index.json",
        "diffusion_pytorch_model.safetensors",
        "README.md",
    }
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == "DDIMPipeline"
    assert index["unet"] == ["diffusers", "UNet2DModel"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    card = (saved / "README.md").read_text()
    assert "DDIMPipeline.from_pretrained" in card
    assert "num_inference_steps=50, use_clipped_model_output=True" in card
    # and again over it, as a student of labels, whom no pipeline of diffusers serves
    diffusers_export.save(tmp_path, model(num_classes=4))
    assert not (saved / "model_index.json").exists()
    card = (saved / "README.md").read_text()
    assert "scheduler.set_timesteps(1)" in card and "unet(x, t, y)" in card
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(code[0], "card", "exec")


REFUSED = [
    (dict(network=dict(num_groups=3)), "8 channels in 3 groups"),
    (dict(precondition={"name": "both"}), "precondition='both'"),
    (dict(augment_dim=9), "augment_dim=9"),
    (dict(process={"name": "cosine"}), "process='cosine'"),
    (dict(sampler=dict(name="ddim", num_steps=50, guidance=2.0)), "guidance=2.0"),
    (dict(network=dict(channel_mult=[2, 2])), r"channel_mult=\(2, 2\)"),
]


@pytest.mark.parametrize("changes, text", REFUSED)
def test_what_diffusers_cannot_hold_is_refused(changes, text, tmp_path):
    with pytest.raises(CheckpointError, match=text) as caught:
        diffusers_export.save(tmp_path / "out", model(**changes))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_other_networks_are_refused(tmp_path):
    other = model()
    spec = other.spec.replace(network=Named("iddpm_unet"))
    other = interop.Model(other.net, other.params, other.process, spec)
    with pytest.raises(CheckpointError, match="network='iddpm_unet'.*UNet2DModel"):
        diffusers_export.save(tmp_path, other)


@pytest.mark.parametrize("field", ["network", "precondition", "process"])
def test_what_must_be_trained_anew_names_the_page(field, tmp_path):
    other, names = (
        model(),
        dict(network="iddpm_unet", precondition="both", process="cosine"),
    )
    spec = other.spec.replace(**{field: Named(names[field])})
    other = interop.Model(other.net, other.params, other.process, spec)
    with pytest.raises(CheckpointError, match=f"{field}=.*distil into") as caught:
        diffusers_export.save(tmp_path / "out", other)
    found = re.search(r"\((docs/\S+), (.+)\), or", str(caught.value))
    assert found, caught.value
    page = pathlib.Path(__file__).parents[2] / found[1]
    assert f"## {found[2]}\n" in page.read_text()
