"""scheduler_config.json: options that are refused, and the way there and back."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax import interop
from kdiff_jax.diffusion import precondition, process
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import schedulers, schedulers_export
from kdiff_jax.interop.source import Facts
from kdiff_jax.named import Named

FILE = pathlib.Path(__file__).parent.parent / "samplers/data/diffusers_schedulers.npz"
with np.load(FILE) as file:
    CONFIGS = {
        k.removeprefix("config/"): (
            json.loads(str(file[k])),
            int(file[k.replace("config", "num_steps")]),
        )
        for k in file
        if k.startswith("config/")
    }
DDPM, DDIM = "DDPMScheduler", "DDIMScheduler"
DPM, EULER = "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"
CM = "CMStochasticIterativeScheduler"
REFUSED = [
    (DDPM, dict(trained_betas=[0.1, 0.2]), "trained_betas"),
    (DDPM, dict(beta_schedule="sigmoid"), "beta_schedule='sigmoid'.*squaredcos_cap_v2"),
    (DDPM, dict(prediction_type="flow_prediction"), "prediction_type"),
    (DDPM, dict(variance_type="learned_range"), "variance_type='learned_range'"),
    (DDPM, dict(variance_type="fixed_large_log"), "variance_type='fixed_large_log'"),
    (DDPM, dict(thresholding=True), "thresholding=True"),
    (DDPM, dict(rescale_betas_zero_snr=True), "rescale_betas_zero_snr=True"),
    (DDPM, dict(timestep_spacing="log"), "timestep_spacing='log'"),
    (
        DDPM,
        dict(variance_type="fixed_large", timestep_spacing="trailing"),
        "variance_type='fixed_large'.*leading",
    ),
    (DDPM, dict(variance_type="fixed_large", steps_offset=1), "variance_type"),
    (DDPM, dict(snr_shift=3.0), "snr_shift=3.0.*no such option"),
    (DDIM, dict(use_karras_sigmas=True), "use_karras_sigmas=True.*no such option"),
    (DPM, dict(solver_order=3), "solver_order=3"),
    (DPM, dict(algorithm_type="sde-dpmsolver++"), "algorithm_type"),
    (DPM, dict(solver_type="heun"), "solver_type='heun'"),
    (DPM, dict(use_exponential_sigmas=True), "use_exponential_sigmas"),
    (DPM, dict(use_flow_sigmas=True), "use_flow_sigmas"),
    (DPM, dict(lambda_min_clipped=-5.1), "lambda_min_clipped=-5.1"),
    (
        DPM,
        dict(use_karras_sigmas=True, beta_schedule="squaredcos_cap_v2"),
        "beta_schedule='squaredcos_cap_v2'",
    ),
    (
        DPM,
        dict(final_sigmas_type="sigma_min", euler_at_final=True),
        "final_sigmas_type='sigma_min'",
    ),
    (EULER, dict(timestep_type="continuous"), "timestep_type"),
    (EULER, dict(interpolation_type="log_linear"), "interpolation_type"),
    (EULER, dict(final_sigmas_type="sigma_min"), "final_sigmas_type"),
    (
        EULER,
        dict(use_karras_sigmas=True, timestep_spacing="trailing"),
        "use_karras_sigmas",
    ),
    (CM, dict(prediction_type="epsilon"), "prediction_type.*no such option"),
    ("LMSDiscreteScheduler", {}, "_class_name='LMSDiscreteScheduler'"),
]


@pytest.mark.parametrize("name, options, text", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(name, options, text):
    with pytest.raises(CheckpointError, match=text) as caught:
        schedulers.read(dict(_class_name=name, **options), Facts(), "file.json")
    message = str(caught.value)
    assert message.startswith("file.json: ") and "\n" not in message


def test_options_without_effect_are_accepted():
    config = dict(
        _class_name=DDPM, sample_max_value=3.0, dynamic_thresholding_ratio=0.9
    )
    plain, _ = schedulers.read({}, Facts(), "file")
    found, _ = schedulers.read(config | dict(tensor_format="np"), Facts(), "file")
    assert found == plain
    fast, _ = schedulers.read(
        dict(_class_name=DPM, euler_at_final=True, lower_order_final=False),
        Facts(),
        "file",
    )
    assert fast["sampler"] == dict(name="dpm_solver", num_steps=20, spacing="dpm")


def test_the_user_stands_before_the_file():
    config = dict(_class_name=DDIM, clip_sample=True)
    own, assumed = schedulers.read(config, Facts(num_steps=3), "file")
    assert own["sampler"]["num_steps"] == 3 and own["sampler"]["clip"] is True
    assert assumed == ()
    other, assumed = schedulers.read(config, Facts(sampler="dpm_solver"), "file")
    assert other["sampler"] == {"name": "dpm_solver", "num_steps": 50}
    assert assumed == ("num_steps=50: a call's matter in diffusers",)


def test_a_consistency_model():
    config = dict(_class_name=CM, sigma_max=40.0)
    parts, assumed = schedulers.read(config, Facts(), "file")
    assert parts["process"] == dict(name="edm", sigma_min=0.002, sigma_max=40.0)
    assert parts["precondition"]["c_noise_scale"] == 1000
    assert parts["sampler"] == dict(name="ddim", num_steps=1, clip=True)
    assert assumed == ()
    back = schedulers_export.make(whole(**parts))
    assert back.config == config | dict(
        sigma_min=0.002, sigma_data=0.5, clip_denoised=True
    )
    assert back.pipeline == "ConsistencyModelPipeline"


def test_a_consistency_model_s_scalings_by_hand():
    parts, _ = schedulers.read(dict(_class_name=CM), Facts(), "file")
    p = process.make(**parts["process"])
    c = precondition.make(process=p, **parts["precondition"])(jnp.array([0.002, 80.0]))
    np.testing.assert_allclose(c.c_skip, [1, 0.25 / (79.998**2 + 0.25)], rtol=1e-5)
    c_out = 79.998 * 0.5 / np.sqrt(80**2 + 0.25)
    np.testing.assert_allclose(c.c_out, [0, c_out], rtol=1e-5)
    np.testing.assert_allclose(c.c_in, 1 / np.sqrt(np.array([4e-6, 6400]) + 0.25))
    np.testing.assert_allclose(c.c_noise, 250 * np.log([0.002, 80.0]), rtol=1e-5)


WRITTEN = "DDIM", "DDPM", "DPMSolver"
EXACT = [
    k for k, (config, _) in CONFIGS.items() if any(w in str(config) for w in WRITTEN)
]


@pytest.mark.parametrize("name", EXACT)
def test_there_and_back(name):
    """diffusers -> ours -> diffusers -> ours changes nothing."""
    config, num_steps = CONFIGS[name]
    parts, _ = schedulers.read(config, Facts(num_steps=num_steps), "file")
    back = schedulers_export.make(whole(**parts))
    assert back.config["_class_name"] == config["_class_name"]
    assert back.call == {"num_inference_steps": num_steps}
    again, _ = schedulers.read(back.config, Facts(num_steps=num_steps), "file")
    if num_steps > 1:  # one step may be spaced in several ways
        assert again == parts
    for option, value in config.items():
        assert back.config[option] == value, option


def spec(sampler, precondition="eps", **process):
    return whole(
        process=dict(name="discrete", **process),
        precondition=dict(name=precondition),
        sampler=sampler,
    )


def whole(**parts):
    about = dict(network=dict(name="ddpm_unet"), image_shape=(8, 8, 3), num_classes=0)
    return interop.Spec.of(about | parts)


def test_students_of_one_step():
    for sampler in (
        dict(name="ddim", num_steps=1),
        dict(name="ancestral", num_steps=1),
        dict(name="dpm_solver", num_steps=1),
        dict(name="heun", num_steps=1),
    ):
        made = schedulers_export.make(spec(sampler, "v", num_timesteps=500))
        assert made.config["_class_name"] == DDIM
        assert made.config["timestep_spacing"] == "trailing"
        assert made.config["prediction_type"] == "v_prediction"
        assert made.config["num_train_timesteps"] == 500
        assert made.call == {"num_inference_steps": 1}
    many = dict(name="ddim", num_steps=100, spacing="quadratic")
    made = schedulers_export.make(spec(many, "residual"), num_steps=1)
    flow = "FlowMatchEulerDiscreteScheduler"
    assert made.config == dict(_class_name=flow, num_train_timesteps=999, shift=1.0)


DDIM_5 = dict(name="ddim", num_steps=5)
IMPOSSIBLE = [
    (spec(DDIM_5, "residual"), "precondition='residual'.*num_steps=1"),
    (spec(DDIM_5, "both"), "precondition='both'.*eps"),
    (spec(DDIM_5 | dict(spacing="quadratic")), "spacing='quadratic'.*leading"),
    (spec(DDIM_5 | dict(spacing="karras")), "spacing='karras'"),
    (spec(DDIM_5 | dict(spacing="linspace")), "even=False"),
    (spec(DDIM_5 | dict(num_steps=7, spacing="trailing")), "even=False"),
    (spec(DDIM_5 | dict(start_at_sigma=True)), "start_at_sigma"),
    (spec(dict(name="ancestral", num_steps=5, variance=0.5)), "variance=0.5"),
    (
        spec(dict(name="ancestral", num_steps=5, spacing="trailing")),
        "variance=1.0.*variance=0",
    ),
    (spec(dict(name="dpm_solver", num_steps=5, clip=True)), "clip=True"),
    (spec(dict(name="dpm_solver", num_steps=5, spacing="karras")), "told='nearest'"),
    (spec(dict(name="heun", num_steps=5)), "sampler='heun'.*ddim"),
    (spec(dict(name="euler", num_steps=5)), "sampler='euler'"),
    (spec(DDIM_5).replace(process=Named("cosine")), "process='cosine'"),
]


@pytest.mark.parametrize("model, text", IMPOSSIBLE)
def test_what_diffusers_cannot_express(model, text):
    with pytest.raises(CheckpointError, match=text) as caught:
        schedulers_export.make(model)
    message = str(caught.value)
    assert "--target=safetensors" in message and "\n" not in message


def test_what_belongs_to_the_call():
    sampler = DDIM_5 | dict(eta=0.5, clip=0.9, spacing="leading", end_at_data=False)
    made = schedulers_export.make(spec(sampler, schedule="squaredcos"))
    assert made.pipeline == "DDIMPipeline"
    assert made.call == dict(
        num_inference_steps=5, eta=0.5, use_clipped_model_output=True
    )
    assert made.config["clip_sample_range"] == 0.9
    assert made.config["beta_schedule"] == "squaredcos_cap_v2"
    assert made.config["set_alpha_to_one"] is False
