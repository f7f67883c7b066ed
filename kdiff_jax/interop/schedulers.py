"""diffusers' scheduler_config.json as process, preconditioning and sampler.

Every option of a scheduler is read, or must have a value that is implemented; what may
have any value has no effect beside those. The way back is `diffusers_export`. Options
and defaults are those of diffusers 0.42.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop.options import Option, Unlike, checked, only
from kdiff_jax.interop.source import Facts

OUTPUTS = {"epsilon": "eps", "v_prediction": "v", "sample": "x"}
SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "squaredcos",
}


BETAS = dict(
    num_train_timesteps=Option(1000),
    beta_start=Option(1e-4),
    beta_end=Option(0.02),
    beta_schedule=Option("linear", tuple(SCHEDULES)),
    trained_betas=only(None),
    prediction_type=Option("epsilon", tuple(OUTPUTS)),
    rescale_betas_zero_snr=only(False),
    steps_offset=Option(0),
    tensor_format=Option("pt"),  # until 2022: numpy or torch
    timestep_values=only(None),  # until 2022
)
CLIP = dict(clip_sample=Option(True), clip_sample_range=Option(1.0))
THRESHOLD = dict(
    thresholding=only(False),
    dynamic_thresholding_ratio=Option(0.995),
    sample_max_value=Option(1.0),
)
SIGMAS = dict(
    use_karras_sigmas=Option(False, (False, None, True)),
    use_exponential_sigmas=Option(False, (False, None)),
    use_beta_sigmas=Option(False, (False, None)),
)


def spacing(default: str) -> dict[str, Option]:
    return dict(timestep_spacing=Option(default, ("leading", "trailing", "linspace")))


def ddpm(options: Mapping[str, Any]) -> dict[str, Any]:
    large = options["variance_type"] == "fixed_large"
    if large and (options["timestep_spacing"] == "trailing" or offset(options)):
        # There diffusers adds noise to its last image: it is not at index 0 then.
        raise Unlike("variance_type", "fixed_large", "fixed_small, or leading from 0")
    return dict(
        name="ancestral",
        num_steps=options["num_train_timesteps"],
        spacing=options["timestep_spacing"],
        variance=float(large),
        **clip(options),
        **offset(options),
    )


def ddim(options: Mapping[str, Any]) -> dict[str, Any]:
    keywords: dict[str, Any] = dict(
        name="ddim",
        num_steps=min(50, options["num_train_timesteps"]),
        spacing=options["timestep_spacing"],
        **clip(options),
        **offset(options),
    )
    if "clip" in keywords:
        keywords["clip_eps"] = False
    if options["timestep_spacing"] != "leading":
        keywords["even"] = True
    if not options["set_alpha_to_one"]:
        keywords["end_at_data"] = False
    return keywords


def dpm_solver(options: Mapping[str, Any]) -> dict[str, Any]:
    spacings = dict(linspace="dpm", leading="dpm_leading", trailing="trailing")
    keywords: dict[str, Any] = dict(
        name="dpm_solver",
        num_steps=min(20, options["num_train_timesteps"]),
        spacing=spacings[options["timestep_spacing"]],
        **offset(options),
    )
    if options["use_karras_sigmas"] or options["use_lu_lambdas"]:
        if options["beta_schedule"] == "squaredcos_cap_v2":
            # There diffusers cuts the times off in place of rounding them.
            raise Unlike("beta_schedule", "squaredcos_cap_v2", "the plain spacings")
        keywords.pop("offset", None)
        karras = options["use_karras_sigmas"]
        keywords["spacing"] = "karras" if karras else "uniform_logsnr"
    if options["final_sigmas_type"] == "sigma_min":
        if options["euler_at_final"] or not options["lower_order_final"]:
            # At the data, the last step is of first order in any case.
            raise Unlike("final_sigmas_type", "sigma_min", "'zero' with that last step")
        keywords["end_at_data"] = False
    return keywords


def euler(options: Mapping[str, Any]) -> dict[str, Any]:
    spaced = options["timestep_spacing"]
    keywords: dict[str, Any] = dict(
        name="euler",
        num_steps=min(50, options["num_train_timesteps"]),
        spacing="fractional" if spaced == "linspace" else spaced,
        **offset(options),
    )
    if spaced != "leading":
        keywords["start_at_sigma"] = True
    if options["use_karras_sigmas"]:
        if spaced != "linspace":
            raise Unlike("use_karras_sigmas", True, "timestep_spacing=linspace with it")
        keywords["spacing"] = "karras"
    return keywords


def pndm(options: Mapping[str, Any]) -> dict[str, Any]:
    if not options["skip_prk_steps"]:  # which is the default there
        raise Unlike("skip_prk_steps", False, "PLMS alone, true")
    keywords: dict[str, Any] = dict(
        name="pndm",
        num_steps=min(50, options["num_train_timesteps"]),
        spacing=options["timestep_spacing"],
        even=True,
        **offset(options),
    )
    if not options["set_alpha_to_one"]:
        keywords["end_at_data"] = False
    if options["prediction_type"] == "v_prediction":
        keywords["averages"] = "v"
    return keywords


def consistency(options: Mapping[str, Any]) -> dict[str, Any]:
    return dict(
        name="ddim", num_steps=1, **({"clip": True} if options["clip_denoised"] else {})
    )


class Family(NamedTuple):
    """A scheduler: its options, and options -> keywords of the sampler."""

    options: Mapping[str, Option]
    sampler: Callable[[Mapping[str, Any]], dict[str, Any]]


CONSISTENCY = "CMStochasticIterativeScheduler"
FAMILIES = {
    "DDPMScheduler": Family(
        BETAS
        | CLIP
        | THRESHOLD
        | spacing("leading")
        | dict(
            variance_type=Option(
                "fixed_small", ("fixed_small", "fixed_small_log", "fixed_large")
            )
        ),
        ddpm,
    ),
    "DDIMScheduler": Family(
        BETAS
        | CLIP
        | THRESHOLD
        | spacing("leading")
        | dict(set_alpha_to_one=Option(True)),
        ddim,
    ),
    "DPMSolverMultistepScheduler": Family(
        BETAS
        | THRESHOLD
        | SIGMAS
        | spacing("linspace")
        | dict(
            solver_order=only(2),
            algorithm_type=only("dpmsolver++"),
            solver_type=only("midpoint"),
            lower_order_final=Option(True, (False, True)),
            euler_at_final=Option(False, (False, True)),
            use_lu_lambdas=Option(False, (False, True)),
            use_flow_sigmas=only(False),
            flow_shift=Option(1.0),
            final_sigmas_type=Option("zero", ("zero", "sigma_min")),
            lambda_min_clipped=only(-float("inf")),
            variance_type=only(None),
            use_dynamic_shifting=only(False),
            time_shift_type=Option("exponential"),
        ),
        dpm_solver,
    ),
    "EulerDiscreteScheduler": Family(
        BETAS
        | SIGMAS
        | spacing("linspace")
        | dict(
            interpolation_type=only("linear"),
            sigma_min=only(None),
            sigma_max=only(None),
            timestep_type=only("discrete"),
            final_sigmas_type=only("zero"),
        ),
        euler,
    ),
    "PNDMScheduler": Family(
        BETAS
        | spacing("leading")
        | dict(
            prediction_type=Option("epsilon", ("epsilon", "v_prediction")),
            set_alpha_to_one=Option(False),
            skip_prk_steps=Option(False),
        ),
        pndm,
    ),
    CONSISTENCY: Family(
        dict(
            num_train_timesteps=Option(40),
            sigma_min=Option(0.002),
            sigma_max=Option(80.0),
            sigma_data=Option(0.5),
            s_noise=Option(1.0),  # of further steps
            rho=Option(7.0),  # of further steps
            clip_denoised=Option(True),
        ),
        consistency,
    ),
}


def read(
    config: Mapping[str, Any], facts: Facts, where: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """({"process", "precondition", "sampler"} of a model's spec, what was assumed).

    Args:
        config: Content of a scheduler_config.json; {} is diffusers' DDPMScheduler.
        facts: `sampler` and `num_steps` stand before the file's.
        where: Name of the file, for errors.

    Raises:
        CheckpointError: If an option, or its value, is not implemented. One line.
    """
    name = config.get("_class_name", "DDPMScheduler")
    if name not in FAMILIES:
        raise CheckpointError(
            f"{where}: _class_name={name!r}: is not read; write one of"
            f" {', '.join(FAMILIES)} with the same betas"
        )
    try:
        options = checked(config, FAMILIES[name].options)
        sampler: dict[str, Any] = FAMILIES[name].sampler(options)
    except Unlike as error:
        option, value, ways = error.args
        raise CheckpointError(
            f"{where}: {option}={value!r}: is not implemented for {name}; there is"
            f" {ways}: edit the file"
        ) from error
    assumed = []
    if facts.num_steps is None and name != CONSISTENCY:
        assumed.append(
            f"num_steps={sampler['num_steps']}: a call's matter in diffusers"
        )
    if facts.sampler not in (None, sampler["name"]):
        sampler = {"name": facts.sampler, "num_steps": sampler["num_steps"]}
    if facts.num_steps is not None:
        sampler["num_steps"] = facts.num_steps
    if name == CONSISTENCY:
        parts = dict(
            process={
                "name": "edm",
                "sigma_min": options["sigma_min"],
                "sigma_max": options["sigma_max"],
            },
            precondition=dict(
                name="boundary",
                sigma_min=options["sigma_min"],
                sigma_data=options["sigma_data"],
                c_noise_scale=1000.0,
            ),
        )
    else:
        parts = dict(
            process=process(options, sampler["name"]),
            precondition=dict(name=OUTPUTS[options["prediction_type"]]),
        )
    return dict(parts, sampler=sampler), tuple(assumed)


def process(options: Mapping[str, Any], sampler: str) -> dict[str, Any]:
    """The spec of the discrete process of a scheduler's options."""
    schedule = SCHEDULES[options["beta_schedule"]]
    keywords: dict[str, Any] = dict(name="discrete", schedule=schedule)
    if schedule != "squaredcos":
        keywords |= dict(beta_min=options["beta_start"], beta_max=options["beta_end"])
    keywords["num_timesteps"] = options["num_train_timesteps"]
    if options.get("use_karras_sigmas") or options.get("use_lu_lambdas"):
        keywords["told"] = "nearest" if sampler == "dpm_solver" else "log"
    return keywords


def clip(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword `clip` of a sampler, where it clips."""
    limit = options["clip_sample_range"]
    return {"clip": True if limit == 1 else limit} if options["clip_sample"] else {}


def offset(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword `offset` of a sampler, where it counts."""
    counts = options["timestep_spacing"] == "leading" and options["steps_offset"]
    return {"offset": options["steps_offset"]} if counts else {}
