"""Samplers of latents as schedulers of diffusers: `schedulers_export`, and two more."""

from collections.abc import Callable, Mapping
from typing import Any

from kdiff_jax.interop import schedulers_export
from kdiff_jax.interop.schedulers_export import SPACINGS, Scheduler, refused
from kdiff_jax.interop.spec import Spec

EULER_SPACINGS = {
    "fractional": "linspace",
    "leading": "leading",
    "trailing": "trailing",
    "karras": "linspace",
}


def make(spec: Spec, num_steps: int) -> Scheduler:
    """The scheduler that walks as the model's own sampler does.

    Args:
        spec: The model's, without guidance, which is a call's matter.
        num_steps: In place of the sampler's.

    Raises:
        CheckpointError: If diffusers has none. One line.
    """
    assert spec.sampler is not None
    sampler, process = spec.sampler.plain(), spec.process.plain()
    sampler["num_steps"] = num_steps
    output = spec.precondition.name
    known = output in schedulers_export.PREDICTIONS and process["name"] == "discrete"
    one_step = known and schedulers_export.is_one_step(process, sampler)
    if not known or one_step or sampler["name"] not in WRITERS:
        return schedulers_export.make(spec, num_steps)
    common = schedulers_export.common_of(process)
    common["prediction_type"] = schedulers_export.PREDICTIONS[output]
    config = common | WRITERS[sampler["name"]](process, output, sampler)
    return Scheduler(config, "", dict(num_inference_steps=num_steps))


def _pndm(process: Mapping[str, Any], output: str, sampler) -> dict[str, Any]:
    spacing = sampler.get("spacing") or "linear"
    if spacing not in SPACINGS:
        raise refused("spacing", spacing, ", ".join(SPACINGS))
    if not sampler.get("even"):
        raise refused("even", False, "PLMS of even steps, even=True")
    mean = sampler.get("averages", "eps")
    if mean != ("v" if output == "v" else "eps") or output == "x":
        raise refused("averages", mean, f"means of what the network predicts, {output}")
    return dict(
        _class_name="PNDMScheduler",
        skip_prk_steps=True,
        timestep_spacing=SPACINGS[spacing],
        steps_offset=sampler.get("offset", 0),
        set_alpha_to_one=sampler.get("end_at_data", True),
    )


def _euler(process: Mapping[str, Any], output: str, sampler) -> dict[str, Any]:
    spacing = sampler.get("spacing") or "karras"
    if spacing not in EULER_SPACINGS:
        raise refused("spacing", spacing, ", ".join(EULER_SPACINGS))
    if bool(sampler.get("start_at_sigma")) == (spacing == "leading"):
        ways = "the level of the first time, but with leading spacing"
        raise refused("start_at_sigma", bool(sampler.get("start_at_sigma")), ways)
    if spacing == "karras" and (
        process.get("told") != "log" or sampler.get("rho", 7.0) != 7
    ):
        raise refused("spacing", spacing, "told='log' with it, and rho=7")
    return dict(
        _class_name="EulerDiscreteScheduler",
        timestep_spacing=EULER_SPACINGS[spacing],
        use_karras_sigmas=spacing == "karras",
        steps_offset=sampler.get("offset", 0),
    )


WRITERS: dict[str, Callable[..., dict[str, Any]]] = {"pndm": _pndm, "euler": _euler}
