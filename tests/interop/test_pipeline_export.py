"""Stable Diffusion's U-Nets written back as pipelines that diffusers loads."""

import json
import shutil

import numpy as np
import pytest
import stable_diffusion as sd
from safetensors.numpy import load_file

from kdiff_jax import interop
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import (
    convert,
    diffusers_condition,
    diffusers_pipeline_export,
    schedulers_latent,
    schedulers_latent_export,
)
from kdiff_jax.interop.source import Facts
from kdiff_jax.interop.trees import flatten


@pytest.fixture(scope="module")
def arrays():
    return sd.tensors(sd.config())


@pytest.fixture
def folder(arrays, tmp_path):
    return sd.pipeline(tmp_path / "pipeline", sd.config(upcast_attention=True), arrays)


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("by_way_of_ours", [False, True])
def test_there_and_back_is_bit_equal(by_way_of_ours, folder, arrays, tmp_path):
    source = folder
    if by_way_of_ours:
        source = tmp_path / "ours"
        convert.run(folder, source)
    out = tmp_path / "out"
    convert.run(source, out, "diffusers")
    back = load_file(out / f"unet/{sd.WEIGHTS}.safetensors")
    assert back.keys() == arrays.keys()
    for name, leaf in back.items():
        np.testing.assert_array_equal(leaf, arrays[name], err_msg=name)
    for part in ("text_encoder/model.safetensors", "tokenizer/vocab.json"):
        assert (out / part).read_bytes() == (folder / part).read_bytes()
    assert read(out / "scheduler/scheduler_config.json").items() >= sd.PNDM.items()
    index = read(folder / "model_index.json")
    assert read(out / "model_index.json").items() >= index.items()
    config = read(out / "unet/config.json")
    assert config["upcast_attention"] is True
    given = sd.config()
    defaults = {k: o.default for k, o in diffusers_condition.OPTIONS.items()}
    for key in defaults:
        if key != "upcast_attention":
            expected = given.get(key, defaults[key])
            expected = list(expected) if isinstance(expected, tuple) else expected
            found = config.get(key, defaults[key])
            assert found == expected or found == given.get(key), key
    assert "num_inference_steps=50, guidance_scale=1" in (out / "README.md").read_text()


@pytest.mark.parametrize("kind", ["sd1", "sd2", "xl", "bk", "unequal"])
def test_configs_come_back(kind, tmp_path):
    """Of every kind: what is written is read as the same network."""
    given = sd.config(kind)
    network, shape, cond_dim = diffusers_condition.read_config(given, Facts())
    process = dict(name="discrete", schedule="scaled_linear")
    spec = interop.Spec.of(
        dict(
            network=network,
            image_shape=[*shape],
            num_classes=0,
            cond_dim=cond_dim,
            cond_length=77,
            process=process,
            precondition=dict(name="eps"),
        )
    )
    written = json.loads(json.dumps(diffusers_pipeline_export.network_config(spec)))
    again, *others = diffusers_condition.read_config(written, Facts())
    assert again == json.loads(json.dumps(network))
    assert others == [shape, cond_dim]


@pytest.mark.parametrize(
    "name, options",
    [
        ("PNDMScheduler", dict(timestep_spacing="linspace")),
        ("PNDMScheduler", dict(prediction_type="v_prediction")),
        ("EulerDiscreteScheduler", dict(timestep_spacing="linspace")),
        ("EulerDiscreteScheduler", dict(timestep_spacing="trailing")),
        ("EulerDiscreteScheduler", dict(use_karras_sigmas=True)),
        ("EulerDiscreteScheduler", dict(timestep_spacing="leading")),
        ("DDIMScheduler", {}),
        ("DPMSolverMultistepScheduler", dict(use_karras_sigmas=True)),
    ],
)
def test_schedulers_come_back(name, options, folder):
    """Written without the file that they were read from, as of a single file."""
    config = {k: v for k, v in sd.PNDM.items() if k != "timestep_spacing"}
    config = config | dict(_class_name=name) | options
    facts = Facts(num_steps=10)
    parts, _ = schedulers_latent.read(config, facts, "StableDiffusionPipeline")
    spec = interop.load(folder).spec.changed(parts)
    made = schedulers_latent_export.make(spec, 10)
    assert made.config["_class_name"] == name
    again, _ = schedulers_latent.read(made.config, facts, "")
    assert interop.Spec.of(spec.plain() | again) == spec


def test_samplers_that_diffusers_has_not(folder):
    spec = interop.load(folder).spec
    for sampler, text in (
        (dict(name="pndm", even=False), "even=False"),
        (dict(name="pndm", even=True, averages="v"), "averages='v'"),
        (dict(name="pndm", even=True, spacing="quadratic"), "spacing='quadratic'"),
        (dict(name="euler", spacing="leading", start_at_sigma=True), "start_at_sigma"),
        (dict(name="euler", spacing="karras", start_at_sigma=True), "told='log'"),
        (dict(name="euler", spacing="uniform_logsnr"), "spacing='uniform_logsnr'"),
        (dict(name="heun"), "sampler='heun'"),
    ):
        changed = spec.changed(dict(sampler=sampler | dict(num_steps=10)))
        with pytest.raises(CheckpointError, match=text) as error:
            schedulers_latent_export.make(changed, 10)
        assert "\n" not in str(error.value)


def test_a_student_of_one_step_brings_its_scheduler(folder, tmp_path):
    model = interop.load(folder)
    spec = model.spec.changed(
        dict(sampler=dict(name="ddim", num_steps=1, guidance=1), num_classes=0)
    )
    spec = spec.replace(facts=spec.facts.copy({diffusers_condition.PIPELINE: "/gone"}))
    interop.save(tmp_path / "student", params=model.params, spec=spec)
    out = tmp_path / "out"
    convert.run(tmp_path / "student", out, "diffusers")
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "scheduler", "unet"]
    assert "no pipeline here" in (out / "README.md").read_text()
    convert.run(tmp_path / "student", out, "diffusers", pipeline=str(folder))
    scheduler = read(out / "scheduler/scheduler_config.json")
    assert scheduler["_class_name"] == "DDIMScheduler"
    assert scheduler["timestep_spacing"] == "trailing" and not scheduler["clip_sample"]
    assert scheduler["beta_schedule"] == "scaled_linear"
    assert read(out / "model_index.json")["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert "num_inference_steps=1, guidance_scale=1" in (out / "README.md").read_text()
    again = interop.load(out)
    assert again.spec.sampler.keywords["num_steps"] == 50  # a call's matter
    z = np.ones((1, 8, 8, 4), np.float32)
    y = np.ones((1, 9, 12), np.float32)
    np.testing.assert_array_equal(again.apply(z, 999, y), model.apply(z, 999, y))


def test_weights_alone_come_back(folder, tmp_path):
    convert.run(folder, tmp_path / "out", "safetensors")
    again, model = interop.load(tmp_path / "out"), interop.load(folder)
    assert again.spec.defining() == model.spec.defining()
    assert again.spec.sampler == model.spec.sampler
    for name, leaf in flatten(model.params).items():
        np.testing.assert_array_equal(flatten(again.params)[name], leaf)
    with pytest.raises(CheckpointError, match="source='edm': .* 'diffusers'"):
        interop.load(tmp_path / "out", source="edm")


@pytest.mark.parametrize(
    "change, text",
    [
        (dict(cross_attention_dim=13), "has cross_attention_dim=13, this one 12"),
        (dict(in_channels=9), "has in_channels=9, this one 4"),
    ],
)
def test_a_pipeline_of_others_is_refused(change, text, folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    config = read(other / "unet/config.json") | change
    sd.write(other / "unet/config.json", config)
    with pytest.raises(CheckpointError, match=text) as error:
        convert.run(folder, tmp_path / "out", "diffusers", pipeline=str(other))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_what_is_no_pipeline_is_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match="has no model_index.json"):
        convert.run(
            folder, tmp_path / "out", "diffusers", pipeline=str(folder / "unet")
        )
    with pytest.raises(ConfigError, match="pipeline=.*is for target=diffusers"):
        convert.run(folder, tmp_path / "out", pipeline=str(folder))
    index = read(folder / "model_index.json")
    other = tmp_path / "other"
    sd.write(
        other / "model_index.json", index | dict(unet=["diffusers", "UNet2DModel"])
    )
    with pytest.raises(CheckpointError, match="no UNet2DConditionModel"):
        convert.run(folder, tmp_path / "out", "diffusers", pipeline=str(other))
    sd.write(other / "model_index.json", index | {"../text_encoder": ["a", "b"]})
    convert.run(folder, tmp_path / "out", "diffusers", pipeline=str(other))
    assert not (tmp_path / "text_encoder").exists()
    # Nothing is listed that is not there: diffusers would look for it.
    written = read(tmp_path / "out/model_index.json")
    assert written["vae"] == written["text_encoder"] == [None, None]
