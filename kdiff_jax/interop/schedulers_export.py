"""A model's process and sampler as a scheduler of diffusers, and how to call it.

The inverse of `schedulers`, where there is one: a sampler is written if diffusers walks
the same times with the same arithmetic, and is refused otherwise.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kdiff_jax.diffusion import grids
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop.schedulers import CONSISTENCY, OUTPUTS, SCHEDULES
from kdiff_jax.interop.spec import Spec

PREDICTIONS = {ours: theirs for theirs, ours in OUTPUTS.items()}
BETA_SCHEDULES = {ours: theirs for theirs, ours in SCHEDULES.items()}
SPACINGS = {
    "linear": "leading",
    "leading": "leading",
    "trailing": "trailing",
    "linspace": "linspace",
}
DPM_SPACINGS = {"dpm": "linspace", "dpm_leading": "leading", "trailing": "trailing"}
DEFAULT_SPACINGS = {"dpm_solver": "dpm", "euler": "karras", "heun": "karras"}


class Scheduler(NamedTuple):
    """A scheduler of diffusers.

    Attributes:
        config: Content of scheduler_config.json.
        pipeline: The class of diffusers that uses it.
        call: Keywords of that pipeline's call.
    """

    config: dict[str, Any]
    pipeline: str
    call: dict[str, Any]


def make(spec: Spec, num_steps: int | None = None) -> Scheduler:
    """The scheduler that gives the images of the model's own sampler.

    Args:
        spec: The model's.
        num_steps: In place of the sampler's.

    Raises:
        CheckpointError: If diffusers has none. One line.
    """
    assert spec.sampler is not None
    sampler, process = spec.sampler.plain(), spec.process.plain()
    if num_steps is not None:
        sampler["num_steps"] = num_steps
    if (scale := sampler.get("guidance", 1)) != 1:
        raise refused("guidance", scale, "none for these networks, guidance=1")
    name = spec.precondition.name
    if name == "boundary":
        return _consistency(spec, sampler)
    if spec.process.name != "discrete":
        process = spec.process.name
        raise refused("process", process, "discrete ones of betas", trained=True)
    common = common_of(process)
    if name == "residual":
        # x0_hat = x_t - F is a step of a flow from sigma = 1 to 0; its time is
        # sigma T', so that T' = T - 1 is what our student was told.
        if not is_one_step(process, sampler):
            raise refused("precondition", name, "one step of it, --num_steps=1")
        last = common["num_train_timesteps"] - 1
        config = dict(num_train_timesteps=last, shift=1.0)
        return _scheduler("FlowMatchEulerDiscreteScheduler", config, sampler)
    if name not in PREDICTIONS:
        raise refused("precondition", name, ", ".join(PREDICTIONS), trained=True)
    common["prediction_type"] = PREDICTIONS[name]
    if is_one_step(process, sampler):
        config = dict(common, **_clip(sampler), timestep_spacing="trailing")
        return _scheduler("DDIMScheduler", config, sampler)
    if sampler["name"] not in WRITERS:
        raise refused("sampler", sampler["name"], ", ".join(WRITERS))
    return WRITERS[sampler["name"]](process, common, sampler)


def refused(
    name: str, value, there_is: str, *, trained: bool = False
) -> CheckpointError:
    """One line on what diffusers cannot express.

    Args:
        name: Name of the field.
        value: Its value.
        there_is: What diffusers has in its place.
        trained: Whether a model has to be trained anew to have that.
    """
    ways = "take that, or --target=safetensors, the weights alone"
    if trained:
        ways = (
            "distil into a student of that (docs/coming_from/edm.md, A student for"
            " diffusers), or take --target=safetensors, the weights alone"
        )
    return CheckpointError(
        f"{name}={value!r}: diffusers cannot express it; it has {there_is}: {ways}"
    )


def _ddim(process, common, sampler) -> Scheduler:
    spacing = _spacing(sampler, SPACINGS)
    if sampler.get("start_at_sigma"):
        raise refused("start_at_sigma", True, "starts from z")
    ragged = common["num_train_timesteps"] % sampler["num_steps"] != 0
    uneven = spacing == "linspace" or (spacing == "trailing" and ragged)
    if uneven and not sampler.get("even"):
        raise refused("even", False, "DDIM of even steps, even=True")
    config = dict(
        common,
        **_clip(sampler),
        timestep_spacing=SPACINGS[spacing],
        steps_offset=sampler.get("offset", 0),
        set_alpha_to_one=sampler.get("end_at_data", True),
    )
    call = {}
    if sampler.get("eta"):
        call["eta"] = sampler["eta"]
    if sampler.get("clip") and sampler.get("clip_eps", True):
        call["use_clipped_model_output"] = True
    return _scheduler("DDIMScheduler", config, sampler, **call)


def _ddpm(process, common, sampler) -> Scheduler:
    spacing = _spacing(sampler, SPACINGS)
    variance = sampler.get("variance", 1.0)
    if variance not in (0, 1):
        raise refused("variance", variance, "variance=0 and variance=1")
    if variance and _grid(process, sampler)[-2] > 0:
        raise refused("variance", variance, "at these times variance=0")
    config = dict(
        common,
        **_clip(sampler),
        timestep_spacing=SPACINGS[spacing],
        steps_offset=sampler.get("offset", 0),
        variance_type="fixed_large" if variance else "fixed_small",
    )
    return _scheduler("DDPMScheduler", config, sampler)


def _dpm_solver(process, common, sampler) -> Scheduler:
    if sampler.get("clip"):
        raise refused("clip", sampler["clip"], "DPM-Solver without clip")
    config = dict(common, algorithm_type="dpmsolver++", solver_order=2)
    spacing = sampler.get("spacing") or "dpm"
    if spacing in ("karras", "uniform_logsnr"):
        if process.get("told") != "nearest" or sampler.get("rho", 7.0) != 7:
            raise refused("spacing", spacing, "told='nearest' with it, and rho=7")
        key = "use_karras_sigmas" if spacing == "karras" else "use_lu_lambdas"
        config[key] = True
    else:
        spacing = _spacing(sampler, DPM_SPACINGS)
        config["timestep_spacing"] = DPM_SPACINGS[spacing]
        config["steps_offset"] = sampler.get("offset", 0)
    if not sampler.get("end_at_data", True):
        config["final_sigmas_type"] = "sigma_min"
    return _scheduler("DPMSolverMultistepScheduler", config, sampler)


WRITERS: dict[str, Callable[..., Scheduler]] = {
    "ddim": _ddim,
    "ancestral": _ddpm,
    "dpm_solver": _dpm_solver,
}


def _consistency(spec: Spec, sampler: Mapping[str, Any]) -> Scheduler:
    """A consistency model in one step."""
    precondition, process = spec.precondition.keywords, spec.process.plain()
    sigma_min = process.get("sigma_min", 0.002)
    scale = precondition.get("c_noise_scale", 1.0)
    if process["name"] != "edm" or scale != 1000 or sampler["num_steps"] != 1:
        raise refused(
            "precondition",
            "boundary",
            "the process edm with c_noise_scale=1000 in one step",
        )
    if precondition.get("sigma_min", 0.002) != sigma_min:
        raise refused("sigma_min", sigma_min, "one sigma_min for both")
    config = dict(
        sigma_min=sigma_min,
        sigma_max=process.get("sigma_max", 80.0),
        sigma_data=precondition.get("sigma_data", 0.5),
        clip_denoised=bool(sampler.get("clip")),
    )
    if sampler.get("clip") not in (None, False, 1):
        raise refused("clip", sampler["clip"], "clip=True")
    return _scheduler(CONSISTENCY, config, sampler)


def _scheduler(name: str, config, sampler, **call) -> Scheduler:
    pipelines = {
        "DDIMScheduler": "DDIMPipeline",
        CONSISTENCY: "ConsistencyModelPipeline",
    }
    call = dict(num_inference_steps=sampler["num_steps"], **call)
    config = dict(_class_name=name, **config)
    return Scheduler(config, pipelines.get(name, "DDPMPipeline"), call)


def common_of(process: Mapping[str, Any]) -> dict[str, Any]:
    """What configs of all schedulers say of a discrete process."""
    schedule = process.get("schedule", "linear")
    return dict(
        num_train_timesteps=process.get("num_timesteps", 1000),
        beta_schedule=BETA_SCHEDULES[schedule],
        beta_start=process.get("beta_min", 1e-4),
        beta_end=process.get("beta_max", 0.02),
    )


def _clip(sampler: Mapping[str, Any]) -> dict[str, Any]:
    clip = float(sampler.get("clip") or 0)
    return dict(clip_sample=bool(clip), clip_sample_range=clip or 1.0)


def _spacing(sampler: Mapping[str, Any], known: Mapping[str, str]) -> str:
    spacing = sampler.get("spacing") or DEFAULT_SPACINGS.get(sampler["name"], "linear")
    if spacing not in known:
        raise refused("spacing", spacing, ", ".join(known) + " or --num_steps=1")
    return spacing


def _grid(process: Mapping[str, Any], sampler: Mapping[str, Any]):
    return grids.make(
        processes.make(**process),
        sampler["num_steps"],
        spacing=sampler.get("spacing") or DEFAULT_SPACINGS.get(sampler["name"]),
        offset=sampler.get("offset", 0),
    )


def is_one_step(process: Mapping[str, Any], sampler: Mapping[str, Any]) -> bool:
    """Whether the sampler is the network itself at the last time."""
    if sampler["num_steps"] != 1 or sampler.get("start_at_sigma"):
        return False
    last = process.get("num_timesteps", 1000) - 1
    whole = sampler.get("end_at_data", True)
    return whole and _grid(process, sampler).tolist() == [last, -1]
