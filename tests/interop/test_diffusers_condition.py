"""Folders of Stable Diffusion: what they hold, in all forms, and what is refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stable_diffusion as sd
from safetensors.numpy import save_file

from kdiff_jax import domain, interop
from kdiff_jax.errors import CheckpointError, ConfigError, UserError
from kdiff_jax.interop import convert, diffusers, diffusers_condition, foreign
from kdiff_jax.interop.source import Facts
from kdiff_jax.interop.trees import flatten


@pytest.fixture(scope="module")
def arrays():
    return sd.tensors(sd.config())


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    return sd.pipeline(tmp_path_factory.mktemp("sd") / "pipeline", sd.config(), arrays)


@pytest.fixture(scope="module")
def model(folder):
    return interop.load(folder)


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "pipeline")


def leaves(folder):
    source, _ = foreign.read(folder)
    return {name: leaf.read() for name, leaf in source.leaves.items()}


def test_the_answer_is_the_library_s(model):
    io = np.load(sd.DATA)
    x, t, context, out = (io[f"sd1/{name}"] for name in ("x", "t", "context", "out"))
    x, out = np.moveaxis(x, 1, -1), np.moveaxis(out, 1, -1)
    x0_hat = np.asarray(model.apply(x, t, context))
    alpha, sigma = (
        np.asarray(of(t))[:, None, None, None]
        for of in (model.process.alpha, model.process.sigma)
    )
    lost = 2e-7 * np.abs(x0_hat).max() * (alpha / sigma).max()
    eps_hat = (x - alpha * x0_hat) / sigma
    np.testing.assert_allclose(eps_hat, out, atol=3e-5 + lost, rtol=0)
    one = model.apply(x[:1], t[:1], dict(context=context[:1]))
    np.testing.assert_allclose(one, x0_hat[:1], atol=1e-4 * np.abs(x0_hat).max())


def test_what_a_folder_is(model):
    spec = model.spec
    assert spec.image_shape == (8, 8, 4) and spec.num_classes == 0
    assert (spec.cond_dim, spec.cond_length, spec.space) == (12, 9, "latents")
    assert spec.precondition.name == "eps"
    process = dict(schedule="scaled_linear", beta_min=0.00085, beta_max=0.012)
    assert spec.process.plain() == dict(name="discrete", num_timesteps=1000, **process)
    alpha = model.process.alpha(np.float32([999.0]))
    np.testing.assert_allclose(alpha, 0.06826, rtol=1e-3)
    walk = spec.sampler.keywords
    assert (walk["spacing"], walk["offset"], walk["end_at_data"]) == (
        "leading",
        1,
        False,
    )
    assert interop.Spec.of(spec.plain()) == spec


def test_the_network_alone_takes_what_lies_around_it(folder, model, tmp_path):
    assert foreign.read(folder / "unet")[0].spec == foreign.read(folder)[0].spec
    alone = shutil.copytree(folder / "unet", tmp_path / "unet")
    source, _ = foreign.read(alone)
    assert source.spec["cond_length"] == 77
    assert source.spec["process"] == model.spec.process.plain()
    assert any("no scheduler_config.json" in line for line in source.assumed)
    facts = Facts(precondition="v")
    assert foreign.read(alone, facts)[0].spec["precondition"] == {"name": "v"}


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_name(name):
    for new, old in OLD.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


@pytest.mark.parametrize("form", ["fp16", "shards", "old names", "short config"])
def test_forms_of_one_network(form, arrays, model, copied):
    unet = copied / "unet"
    plain = unet / f"{sd.WEIGHTS}.safetensors"
    expected = {k: np.asarray(v) for k, v in flatten(model.params).items()}
    if form == "fp16":
        plain.unlink()
        half = {k: v.astype(np.float16) for k, v in arrays.items()}
        save_file(half, unet / f"{sd.WEIGHTS}.fp16.safetensors")
        expected = {k: v.astype(np.float16) for k, v in expected.items()}
    elif form == "shards":
        plain.unlink()
        names = sorted(arrays)
        parts = {"a": names[::2], "b": names[1::2]}
        files = {k: f"{sd.WEIGHTS}-{k}.fp16.safetensors" for k in parts}
        for part, of_it in parts.items():
            save_file({k: arrays[k] for k in of_it}, unet / files[part])
        table = {name: files[part] for part, of_it in parts.items() for name in of_it}
        index = unet / f"{sd.WEIGHTS}.safetensors.index.fp16.json"
        sd.write(index, {"weight_map": table})
    elif form == "old names":
        save_file({old_name(k): v for k, v in arrays.items()}, plain)
    else:
        short = sd.config(upcast_attention=None, mid_block_scale_factor=1)
        sd.write(unet / "config.json", short | dict(_diffusers_version="0.6.0"))
    found = leaves(copied)
    assert found.keys() == expected.keys()
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


def test_a_variant_that_is_asked_for(arrays, copied, tmp_path):
    unet = copied / "unet"
    for variant, factor in (("fp16", 2), ("non_ema", 3)):
        path = unet / f"{sd.WEIGHTS}.{variant}.safetensors"
        save_file({k: factor * v for k, v in arrays.items()}, path)
    (unet / f"{sd.WEIGHTS}.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is missing, and there is .*fp16"):
        interop.load(copied)
    source, _ = foreign.read(copied, Facts(variant="non_ema"))
    bias = source.leaves["conv_in/bias"].read()
    np.testing.assert_array_equal(bias, 3 * arrays["conv_in.bias"])
    with pytest.raises(CheckpointError, match="variant='bf16'.*leave it out, or copy"):
        interop.load(copied, facts=Facts(variant="bf16"))
    path = unet / f"{sd.WEIGHTS}.fp16.safetensors"
    with pytest.raises(CheckpointError, match="variant='fp16': is for a folder"):
        interop.load(path, facts=Facts(variant="fp16"))
    with pytest.raises(ConfigError, match="variant='fp16': is for files of others"):
        convert.run(copied, tmp_path / "ours", facts=dict(variant="fp16"))
        convert.run(tmp_path / "ours", tmp_path / "x", facts=dict(variant="fp16"))


@pytest.mark.parametrize("kind", ["sd2", "xl", "bk", "unequal"])
def test_configs_of_other_kinds(kind):
    spec = dict(name="unet2d_condition")
    fields, shape, cond_dim = diffusers_condition.read_config(sd.config(kind), Facts())
    assert fields.items() >= spec.items() and shape == (8, 8, 4) and cond_dim == 12
    mid = dict(sd2=1, xl=2, bk=None, unequal=0)[kind]
    assert fields["mid_depth"] == mid
    assert ("added_dim" in fields) == (kind in ("xl", "unequal"))


def test_every_option_of_the_library_is_known():
    known = set(diffusers_condition.OPTIONS)
    assert len(known) == 48 and set(sd.config("unequal")) - {"_class_name"} <= known


SCHEDULERS = {
    "PNDMScheduler": {},
    "DDIMScheduler": dict(clip_sample=True, prediction_type="v_prediction"),
    "DPMSolverMultistepScheduler": dict(solver_order=2, timestep_spacing="trailing"),
    "EulerDiscreteScheduler": dict(skip_prk_steps=True, sample_max_value=1.0),
    "EulerAncestralDiscreteScheduler": {},
    "UniPCMultistepScheduler": dict(solver_order=2),
    "DPMSolverSinglestepScheduler": dict(timestep_spacing="linspace"),
    "LCMScheduler": dict(original_inference_steps=50),
    "HeunDiscreteScheduler": {},
    "DDPMScheduler": dict(variance_type="fixed_small"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_is_read_or_stood_in_for(name, copied):
    config = sd.PNDM | dict(_class_name=name) | SCHEDULERS[name]
    sd.write(copied / "scheduler/scheduler_config.json", config)
    source, origin = foreign.read(copied)
    spec = foreign.spec_of(source, origin, copied)
    spec.make_sampler()
    v = config.get("prediction_type") == "v_prediction"
    assert spec.precondition.name == ("v" if v else "eps")
    assert spec.process.keywords["beta_max"] == 0.012
    assert not spec.sampler.keywords.get("clip")
    read = {"ddim": "DDIM", "dpm_solver": "DPM", "euler": "Euler", "ancestral": "DDPM"}
    own = read.get(spec.sampler.name, "PNDM") in name
    assert own or any(name in line for line in source.assumed)


def test_stable_diffusion_s_own_pipeline_counts_from_one(copied):
    short = dict(_class_name="DDIMScheduler", beta_schedule="scaled_linear")
    sd.write(copied / "scheduler/scheduler_config.json", short)
    keywords = foreign.read(copied)[0].spec["sampler"]
    assert keywords["offset"] == 1 and "clip" not in keywords


@pytest.mark.parametrize(
    ("file", "changes", "text"),
    [
        (
            "unet",
            dict(down_block_types=["KDownBlock2D", "DownBlock2D"]),
            "KDownBlock2D",
        ),
        (
            "unet",
            dict(mid_block_type="UNetMidBlock2DSimpleCrossAttn"),
            "mid_block_type",
        ),
        ("unet", dict(encoder_hid_dim=7), "encoder_hid_dim=7"),
        ("unet", dict(class_embed_type="timestep"), "class_embed_type"),
        ("unet", dict(time_cond_proj_dim=256), "time_cond_proj_dim=256"),
        ("unet", dict(in_channels=9), "out_channels=4: .* in_channels, 9"),
        ("unet", dict(addition_embed_type="image"), "addition_embed_type='image'"),
        ("unet", dict(addition_embed_type="text_time"), "projection_class_emb"),
        ("unet", dict(cross_attention_dim=[12, 13]), "one width for all"),
        ("unet", dict(attention_head_dim=[2, 2, 2]), "heads, or one a level"),
        ("unet", dict(attention_head_dim=0), "number of heads"),
        ("unet", dict(attention_head_dim=9), "as many heads as channels"),
        ("unet", dict(norm_num_groups=3), "8 channels in 3 groups"),
        ("unet", dict(act_fn="mish"), "act_fn='mish'"),
        ("unet", dict(transformer_layers_per_block=[1, [1]]), "reverse_transformer"),
        ("unet", dict(transformer_layers_per_block=0), "one or more"),
        ("unet", dict(transformer_layers_per_block=10**7), "leaves"),
        ("unet", dict(layers_per_block=[10**7, 1]), "leaves"),
        ("unet", dict(layers_per_block=[1]), "levels"),
        ("unet", dict(layers_per_block=2), "is missing"),
        ("unet", dict(block_out_channels="ab"), "made otherwise|no model"),
        ("unet", dict(a_new_option=3), "a_new_option=3"),
        ("scheduler", dict(_class_name="FlowMatchEulerDiscreteScheduler"), "FlowMatch"),
        ("scheduler", dict(rescale_betas_zero_snr=True), "rescale_betas_zero_snr"),
        ("scheduler", dict(trained_betas=[0.1]), "trained_betas"),
        ("scheduler", dict(prediction_type="flow"), "prediction_type='flow'"),
    ],
)
def test_what_is_not_implemented_is_one_line(file, changes, text, copied):
    path = copied / file / f"{'scheduler_' * (file != 'unet')}config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=text) as error:
        interop.load(copied)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1500


def test_a_folder_without_its_weights_is_one_line(copied):
    (copied / "unet" / f"{sd.WEIGHTS}.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors is missing"):
        interop.load(copied)
    shutil.rmtree(copied / "unet")
    with pytest.raises(CheckpointError, match="copy unet/ as well"):
        interop.load(copied)


def test_our_folder_of_it_is_the_same(folder, model, tmp_path):
    lines = convert.run(folder, tmp_path / "ours", family="diffusers")
    assert any("parameters" in line for line in lines)
    ours = interop.load(tmp_path / "ours")
    for name, leaf in flatten(model.params).items():
        np.testing.assert_array_equal(leaf, flatten(ours.params)[name])
    assert ours.spec.defining() == model.spec.defining()
    assert ours.spec.sampler == model.spec.sampler
    assert (
        "texts of 9 vectors of 12 entries" in (tmp_path / "ours/README.md").read_text()
    )


def test_what_it_is_asked_for(model):
    x, t = np.zeros((2, 8, 8, 4), np.float32), 5
    for y, text in (
        (None, "y=None: this model reads texts"),
        (np.array([0, 1]), r"y=an array \[2\]: this model reads texts"),
        (np.zeros((3, 9, 12)), r"\[3, 9, 12\]: this model reads"),
        (np.zeros((2, 9, 13)), r"\[2, 9, 13\]: this model reads"),
        (dict(context=np.zeros((1, 9, 12))), r"\[1, 9, 12\], of 2 images"),
        (
            dict(context=np.zeros((2, 9, 12)), pooled=np.zeros((2, 3))),
            "has context, poo",
        ),
    ):
        with pytest.raises(ConfigError, match=text) as error:
            model.apply(x, t, y)
        assert "\n" not in str(error.value)


def test_guidance_needs_the_text_that_stands_for_none(model):
    sampler = model.sampler(guidance=7.5, num_steps=2)
    z, text = np.zeros((1, 8, 8, 4), np.float32), np.zeros((1, 9, 12), np.float32)
    denoise = lambda x_t, t, y: x_t * jnp.mean(domain.as_read(y))  # noqa: E731
    prompt = domain.Prompt(jnp.asarray(text), jnp.asarray(text))
    run = lambda y: jax.eval_shape(lambda z: sampler.sample(denoise, z, y), z)  # noqa: E731
    assert run(prompt).shape == z.shape
    for y in (jnp.asarray(text), dict(context=jnp.asarray(text))):
        with pytest.raises(ConfigError, match="give domain.Prompt of"):
            run(y)


def test_latents_are_not_shown_as_pixels(model):
    space = model.net.space
    for way in (space.to_pixels, space.from_data):
        with pytest.raises(ConfigError, match="space='latents': an autoencoder"):
            way({}, np.zeros((1, 8, 8, 4), np.float32))
    assert space.kept == np.float16 and space.pixel_shape == (64, 64, 3)
    with pytest.raises(ConfigError, match="reads texts and has no table"):
        model.net.conditions.take({}, np.zeros(1, np.int32))
    assert isinstance(model.net.conditions, domain.Conditions)


def test_a_pipeline_of_pixels_is_still_refused_its_other_parts(copied):
    config = json.loads((copied / "unet/config.json").read_text())
    sd.write(copied / "unet/config.json", config | dict(_class_name=diffusers.CLASS))
    with pytest.raises(CheckpointError, match="text_encoder: is not implemented"):
        interop.load(copied)
