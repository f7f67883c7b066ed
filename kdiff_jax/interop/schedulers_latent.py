"""The schedulers of Stable Diffusion's folders, as process, preconditioning, sampler.

What a pipeline of latents does with a config is not quite what it says: nothing is
clipped, Stable Diffusion's own counts from 1, and keys of other schedulers are dropped.
Where a sampler has no counterpart here, DDIM walks the same times.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import schedulers
from kdiff_jax.interop.diffusers_files import SCHEDULER
from kdiff_jax.interop.source import Facts

SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
# A network alone: what Stable Diffusion 1.5 has.
DEFAULT = dict(_class_name="PNDMScheduler", steps_offset=1, skip_prk_steps=True, **SD)
KARRAS = dict(beta_start=0.00085, beta_end=0.012)
# Schedulers of the same processes, with betas that are theirs where a file says none.
STAND_INS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        [
            "PNDMScheduler",
            "DDPMScheduler",
            "DDIMScheduler",
            "LMSDiscreteScheduler",
            "EulerDiscreteScheduler",
            "EulerAncestralDiscreteScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "DEISMultistepScheduler",
            "UniPCMultistepScheduler",
        ],
        {},
    ),
    **dict.fromkeys(
        [
            "HeunDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "DPMSolverSDEScheduler",
        ],
        KARRAS,
    ),
    **dict.fromkeys(["LCMScheduler", "TCDScheduler"], SD),
}
STEPS = 50  # of the pipelines, unless they are told
WALK = ("timestep_spacing", "set_alpha_to_one", *schedulers.BETAS)


def read(
    config: Mapping[str, Any], facts: Facts, pipeline: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """({"process", "precondition", "sampler"} of a model's spec, what was assumed).

    Args:
        config: Content of a scheduler_config.json; {} where there is none.
        facts: What the user says; `sampler` and `num_steps` stand before the file's.
        pipeline: Class of the pipeline that it belongs to, "" where there is none.

    Raises:
        CheckpointError: If the process is none that is implemented. One line.
    """
    said = []
    if not config:
        config = DEFAULT
        said = [f"scheduler=PNDMScheduler of Stable Diffusion: there is no {SCHEDULER}"]
    name = config.get("_class_name")
    if name not in STAND_INS:
        raise CheckpointError(
            f"{SCHEDULER}: _class_name={name!r}: is not read; write one of"
            f" {', '.join(STAND_INS)} with the same betas"
        )
    config, more = _as_the_pipeline_does({**STAND_INS[name], **config}, pipeline)
    if facts.num_steps is None:
        num_steps = min(STEPS, config.get("num_train_timesteps", 1000))
        more.append(f"num_steps={num_steps}: a call's matter in diffusers")
        facts = dataclasses.replace(facts, num_steps=num_steps)
    parts, assumed = _read(name, config, facts)
    _agree(parts, facts, bool(said))
    return parts, (*said, *more, *assumed)


def _as_the_pipeline_does(
    config: Mapping[str, Any], pipeline: str
) -> tuple[dict[str, Any], list[str]]:
    """The config that a pipeline makes of it, and a line for what it changes."""
    said = []
    ours = pipeline.startswith("StableDiffusion") and "XL" not in pipeline
    wanted = dict(clip_sample=False) | (dict(steps_offset=1) if ours else {})
    for key, value in wanted.items():
        if config.get(key, value) != value:
            said.append(f"{key}={value}: not {config[key]}, as {pipeline or 'there'}")
    return {**config, **wanted}, said


def _read(name: str, config: Mapping[str, Any], facts: Facts):
    """The scheduler itself if it is read, or DDIM in its place."""
    ddim = {key: config[key] for key in WALK if key in config}
    ddim = dict(set_alpha_to_one=False, timestep_spacing="leading") | ddim
    ddim |= dict(_class_name="DDIMScheduler", clip_sample=False)
    # Which says what is not implemented of the process.
    instead = schedulers.read(ddim, facts, SCHEDULER)
    if name in schedulers.FAMILIES:
        known = schedulers.FAMILIES[name].options
        notes = [k for k in config if k.startswith("_") or k in known]
        dropped = [k for k in config if k not in notes and k != "clip_sample"]
        said = [f"{k}={config[k]!r}: no option of {name}, and dropped" for k in dropped]
        try:
            kept = {k: config[k] for k in notes}
            parts, assumed = schedulers.read(kept, facts, SCHEDULER)
            return parts, (*said, *assumed)
        except CheckpointError as error:
            why = str(error).removeprefix(f"{SCHEDULER}: ").split(";")[0]
    else:
        why = "is not implemented"
    parts, assumed = instead
    return parts, (f"sampler=ddim: in place of {name}, which {why}", *assumed)


def _agree(parts: dict[str, Any], facts: Facts, alone: bool) -> None:
    """What the user says the network predicts: of a file that does not say it."""
    found, given = parts["precondition"]["name"], facts.precondition
    if given in (None, found):
        return
    if not alone:
        raise CheckpointError(
            f"precondition={given!r}: {SCHEDULER} says {found!r}; leave it out, or edit"
            " that file"
        )
    parts["precondition"] = dict(name=given)
