"""Networks and samplers against the diffusers library itself, in three phases.

diffusers and PyTorch are no dependencies of kdiff_jax: they live in an environment of
their own (diffusers 0.42.1, torch 2.13.0, safetensors, numpy), here called theirs/.

    theirs/bin/python benchmarks/compare_diffusers.py make folder
    python benchmarks/compare_diffusers.py read folder
    theirs/bin/python benchmarks/compare_diffusers.py load folder

`make` saves tiny `UNet2DModel`s of each style, with random weights, and their outputs.
`read` compares ours with them, and exports models with the images of our samplers.
`load` compares the images that diffusers makes of those exports. Each prints one line
per style with the largest difference, and fails if one is too large. A fourth phase,
`fixtures`, is `make` for two small networks: tests/parity/data/diffusers_*; `schedules`
is the same for tests/samplers/data.
"""

import argparse
import functools
import importlib
import json
import pathlib
from typing import Any

import numpy as np

TOLERANCE = 1e-4
PLAIN = dict(
    sample_size=8,
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
)
DDPM = PLAIN | dict(
    attention_head_dim=None,
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    norm_eps=1e-6,
)
CONSISTENCY = PLAIN | dict(
    down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    downsample_type="resnet",
    upsample_type="resnet",
    resnet_time_scale_shift="scale_shift",
    attention_head_dim=8,
    attn_norm_num_groups=8,
    num_class_embeds=7,
)
STYLES = {
    "ddpm": DDPM,
    "defaults": PLAIN,
    "class_conditional": PLAIN | dict(num_class_embeds=5, attention_head_dim=4),
    "consistency": CONSISTENCY,
    "consistency_three_levels": CONSISTENCY
    | dict(
        block_out_channels=(16, 32, 32),
        down_block_types=("ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 2),
        up_block_types=(*["AttnUpBlock2D"] * 2, "ResnetUpsampleBlock2D"),
        layers_per_block=2,
    ),
    "no_norm_in_the_middle": CONSISTENCY | dict(attn_norm_num_groups=None),
    "asymmetric_padding": PLAIN | dict(downsample_padding=0, center_input_sample=True),
    "odd_widths": PLAIN
    | dict(
        sample_size=(8, 16),
        block_out_channels=(16, 24, 40),
        down_block_types=("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        time_embedding_dim=48,
        mid_block_scale_factor=1.5,
        act_fn="swish",
        dropout=0.1,
    ),
    "middle_without_attention": PLAIN | dict(add_attention=False),
    "no_middle": PLAIN | dict(mid_block_type=None),
    "one_channel_one_level": PLAIN
    | dict(
        in_channels=1,
        out_channels=1,
        block_out_channels=(16,),
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
    ),
}
DPM = "DPMSolverMultistepScheduler"
EULER = "EulerDiscreteScheduler"
PNDM = "PNDMScheduler"
PLMS = dict(  # Stable Diffusion's
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="epsilon",
    skip_prk_steps=True,
    steps_offset=1,
)
COUNTED_FROM_0 = PLMS | dict(steps_offset=0)
SCHEDULERS: dict[str, tuple[str, int, dict]] = {  # name -> class, steps, options
    "ddpm_trailing": ("DDPMScheduler", 20, dict(timestep_spacing="trailing")),
    "ddpm_linspace": ("DDPMScheduler", 7, dict(timestep_spacing="linspace")),
    "ddpm_offset": ("DDPMScheduler", 10, dict(steps_offset=1, clip_sample_range=0.7)),
    "ddpm_unclipped": ("DDPMScheduler", 20, dict(clip_sample=False)),
    "ddim_linspace": ("DDIMScheduler", 10, dict(timestep_spacing="linspace")),
    "ddim_trailing_ragged": ("DDIMScheduler", 30, dict(timestep_spacing="trailing")),
    "ddim_trailing_to_0": ("DDIMScheduler", 37, dict(timestep_spacing="trailing")),
    "ddim_one_step": ("DDIMScheduler", 1, dict(timestep_spacing="trailing")),
    "dpm_lu": (DPM, 20, dict(use_lu_lambdas=True)),
    "dpm_leading": (DPM, 12, dict(timestep_spacing="leading", steps_offset=1)),
    "dpm_trailing": (DPM, 12, dict(timestep_spacing="trailing")),
    "dpm_sigma_min_10": (DPM, 10, dict(final_sigmas_type="sigma_min")),
    "dpm_sigma_min_20": (DPM, 20, dict(final_sigmas_type="sigma_min")),
    "dpm_karras_sigma_min": (
        DPM,
        20,
        dict(final_sigmas_type="sigma_min", use_karras_sigmas=True),
    ),
    "euler_leading": (EULER, 20, dict(timestep_spacing="leading", steps_offset=1)),
    "euler_trailing": (EULER, 20, dict(timestep_spacing="trailing")),
    "euler_karras": (EULER, 20, dict(use_karras_sigmas=True)),
    "pndm_sd": (PNDM, 10, PLMS),
    "pndm_one_step": (PNDM, 1, PLMS),
    "pndm_two_steps": (PNDM, 2, PLMS),
    "pndm_v": (PNDM, 7, PLMS | dict(prediction_type="v_prediction")),
    "pndm_to_data": (PNDM, 9, PLMS | dict(set_alpha_to_one=True)),
    "pndm_linspace": (PNDM, 10, COUNTED_FROM_0 | dict(timestep_spacing="linspace")),
    "pndm_trailing": (PNDM, 12, COUNTED_FROM_0 | dict(timestep_spacing="trailing")),
}
CLIPPED = dict(name="ddim", clip=True, clip_eps=False)
EXPORTS = {  # name -> precondition, sampler, number of classes
    "one_step_eps": ("eps", dict(name="ddim", num_steps=1, clip=True), 0),
    "one_step_v": ("v", dict(name="ddim", num_steps=1), 0),
    "one_step_x": ("x", dict(name="ddim", num_steps=1), 0),
    "one_step_residual": ("residual", dict(name="ddim", num_steps=1), 0),
    "ddim_50_eps": ("eps", CLIPPED | dict(num_steps=50), 0),
    "ddim_50_v": ("v", CLIPPED | dict(num_steps=50), 0),
    "ddim_50_clip_eps": ("v", dict(name="ddim", num_steps=50, clip=True), 0),
    "ddim_7_even": (
        "v",
        dict(name="ddim", num_steps=7, spacing="trailing", even=True),
        0,
    ),
    "ddim_20_offset": (
        "v",
        dict(name="ddim", num_steps=20, spacing="leading", offset=1, end_at_data=False),
        0,
    ),
    "dpm_solver_20_karras": (
        "v",
        dict(name="dpm_solver", num_steps=20, spacing="karras"),
        0,
    ),
    "dpm_solver_16_sigma_min": (
        "v",
        dict(name="dpm_solver", num_steps=16, end_at_data=False),
        0,
    ),
    "class_conditional": ("v", CLIPPED | dict(num_steps=10), 5),
}


def theirs() -> tuple[Any, Any]:
    """The modules of the other environment."""
    return importlib.import_module("diffusers"), importlib.import_module("torch")


def make(folder: pathlib.Path) -> None:
    """Saves diffusers' networks and their outputs."""
    for name, config in STYLES.items():
        save(folder / "theirs" / name, config)


def fixtures(folder: pathlib.Path) -> None:
    """Saves the small ones of the tests, in half precision."""
    for name in ("class_conditional", "consistency"):
        config = STYLES[name] | dict(block_out_channels=(8, 16))
        save(folder / f"diffusers_{name}", config, variant="fp16")


def schedules(folder: pathlib.Path) -> None:
    """Adds runs of schedulers with other options to diffusers_schedulers.npz."""
    diffusers, torch = theirs()
    path = folder / "diffusers_schedulers.npz"
    with np.load(path) as file:
        arrays = dict(file)
    for name, (kind, num_steps, options) in SCHEDULERS.items():
        options = {"prediction_type": "v_prediction", **options}
        made = getattr(diffusers, kind)(**options)
        made.set_timesteps(num_steps)
        x = torch.tensor(arrays["x_T"]) * made.init_noise_sigma
        noise = iter(torch.tensor(arrays["noise"]))
        module: Any = importlib.import_module(type(made).__module__)
        module.randn_tensor = functools.partial(_next, noise)
        for t in made.timesteps:
            scaled = made.scale_model_input(x, t)
            out = torch.tanh(1.3 * scaled) * (0.2 + 0.8 * torch.cos(t / 700))
            x = made.step(out + 0.1 * scaled, t, x).prev_sample
        config = {"_class_name": kind, **options}
        arrays[f"options/{name}"] = x.numpy().astype(np.float32)
        arrays[f"config/{name}"] = np.array(json.dumps(config))
        arrays[f"num_steps/{name}"] = np.array(num_steps)
    np.savez_compressed(path, **arrays)


def _next(noise, *args, **keywords):
    return next(noise)


def save(home: pathlib.Path, config: dict, variant: str | None = None) -> None:
    """Saves a network with random weights, none of them zero, and its outputs."""
    diffusers, torch = theirs()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**config).eval()
    for key, leaf in unet.named_parameters():
        noise = torch.randn(leaf.shape)
        if leaf.ndim > 1:
            noise = noise / leaf[0].numel() ** 0.5
        elif "norm" in key and key.endswith("weight"):
            noise = 1 + 0.2 * noise
        else:
            noise = 0.1 * noise
        leaf.data.copy_(noise.half() if variant else noise)
    size = unet.config.sample_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    x = torch.randn(3, unet.config.in_channels, *size)
    if config.get("resnet_time_scale_shift"):
        scheduler = diffusers.CMStochasticIterativeScheduler()
        t = torch.tensor([-1553.6, 12.25, 1095.5])
    else:
        scheduler = diffusers.DDPMScheduler()
        t = torch.tensor([0.0, 437.0, 999.0])
    y = torch.tensor([0, 3, 4]) if config.get("num_class_embeds") else None
    with torch.no_grad():
        out = unet(x, t, y).sample
    (unet.half() if variant else unet).save_pretrained(home, variant=variant)
    scheduler.save_pretrained(home)
    y = np.zeros(3, np.int32) if y is None else y.numpy()
    np.savez(home / "io.npz", x=x.numpy(), t=t.numpy(), y=y, out=out.numpy())
    print(f"{home.name}: {sum(p.numel() for p in unet.parameters())} parameters")


def read(folder: pathlib.Path) -> None:
    """Compares our networks with diffusers', and exports ours."""
    import jax
    import jax.numpy as jnp

    from kdiff_jax import interop, models
    from kdiff_jax.interop import diffusers, diffusers_export
    from kdiff_jax.interop.checkpoint import checked
    from kdiff_jax.interop.source import Facts
    from kdiff_jax.interop.trees import unflatten

    for name in STYLES:
        home = folder / "theirs" / name
        source = diffusers.convert(home, Facts())
        spec = interop.Spec.of(source.spec)
        leaves = {k: leaf.read() for k, leaf in checked(spec, source, home).items()}
        params = unflatten(leaves)
        channels, num_classes = spec.image_shape[-1], spec.num_classes
        about = dict(out_channels=channels, num_classes=num_classes)
        module = spec.network.call(models.make, **about)
        io = np.load(home / "io.npz")
        x = jnp.asarray(np.moveaxis(io["x"], 1, -1))
        out = jax.jit(module.apply)(
            {"params": params}, x, io["t"], jnp.asarray(io["y"])
        )
        report(name, np.moveaxis(np.asarray(out), -1, 1), io["out"])
        interop.save(folder / "ours" / name, params=params, spec=spec)
        model = interop.load(folder / "ours" / name)
        back = diffusers_export.save(folder / "back" / name, model, num_steps=1)
        again = diffusers.convert(back, Facts())
        for key, leaf in again.leaves.items():
            assert leaf.read().tobytes() == leaves[key].tobytes(), key
        assert interop.Spec.of(again.spec).network == spec.network, name

    ddpm = interop.load(folder / "ours" / "ddpm")
    labelled = interop.load(folder / "ours" / "class_conditional")
    for name, (output, sampler, num_classes) in EXPORTS.items():
        base = labelled if num_classes else ddpm
        process: dict = {"name": "discrete"}
        if sampler.get("spacing") == "karras":
            process["told"] = "nearest"
        if name == "ddim_50_eps":
            # x0 = (x - sigma eps) / alpha; with the usual alpha of 0.006 an untrained
            # network's chain is so wild that 1e-6 in z becomes 2e-4 in the image.
            process["beta_max"] = 0.005
        spec = base.spec.changed(
            dict(precondition=dict(name=output), process=process, sampler=sampler)
        )
        home = folder / "exports" / name
        # A wild network in a long chain is chaotic: float32 and float64 part ways.
        params = base.params | {
            "conv_out": jax.tree.map(lambda leaf: 0.1 * leaf, base.params["conv_out"])
        }
        interop.save(home / "model", params=params, spec=spec)
        export(diffusers_export, interop.load(home / "model"), home)
    cm = interop.load(folder / "ours" / "consistency")
    export(diffusers_export, cm, folder / "exports" / "consistency_one_step")


def export(diffusers_export, model, home: pathlib.Path) -> None:
    """Writes a model for diffusers, and noise with the images of our sampler."""
    import jax
    import jax.numpy as jnp

    z = np.random.default_rng(0).standard_normal((4, *model.image_shape), np.float32)
    y = jnp.arange(4, dtype=jnp.int32)
    sampler = model.sampler()
    sample = jax.jit(lambda z, y: sampler.sample(model.apply, z, y))
    x0 = np.asarray(sample(jnp.asarray(z), y))
    diffusers_export.save(home / "diffusers", model)
    np.savez(
        home / "images.npz", z=np.moveaxis(z, -1, 1), x0=np.moveaxis(x0, -1, 1), y=y
    )


def load(folder: pathlib.Path) -> None:
    """Compares the images that diffusers makes of our exports."""
    diffusers, torch = theirs()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for home in sorted((folder / "exports").iterdir()):
        saved, images = home / "diffusers", np.load(home / "images.npz")
        unet = diffusers.UNet2DModel.from_pretrained(saved)
        assert isinstance(unet, diffusers.UNet2DModel)
        config = json.loads((saved / "scheduler_config.json").read_text())
        scheduler = getattr(diffusers, config["_class_name"]).from_pretrained(saved)
        call = _call(saved / "README.md")
        scheduler.set_timesteps(call.pop("num_inference_steps"))
        x = torch.tensor(images["z"]) * getattr(scheduler, "init_noise_sigma", 1)
        y = torch.tensor(images["y"]) if unet.config.num_class_embeds else None
        with torch.no_grad():
            for t in scheduler.timesteps:
                scaled = (
                    scheduler.scale_model_input(x, t)
                    if hasattr(scheduler, "scale_model_input")
                    else x
                )
                out = unet(scaled, t, y).sample
                x = scheduler.step(out, t, x, **call).prev_sample
        report(home.name, x.numpy(), images["x0"])
        if (saved / "model_index.json").is_file():
            _check_pipeline(diffusers, torch, saved, unet, y)


def _check_pipeline(diffusers, torch, saved, unet, y) -> None:
    """The pipeline loads from the same folder, by its own name and as DDPMPipeline."""
    call = _call(saved / "README.md")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(saved)
    pipeline.set_progress_bar_config(disable=True)
    labels = {} if y is None else {"class_labels": list(range(4))}
    made = pipeline(
        batch_size=4,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **labels,
        **call,
    ).images
    assert made.shape[0] == 4 and np.isfinite(made).all()
    print(f"    {type(pipeline).__name__} made {made.shape}, std {made.std():.3f}")
    if y is None:
        other = diffusers.DDPMPipeline.from_pretrained(saved)
        other.set_progress_bar_config(disable=True)
        extra = set(call) - {"num_inference_steps"}
        if not extra:
            again = other(
                batch_size=4,
                generator=torch.Generator().manual_seed(0),
                output_type="np",
                **call,
            ).images
            assert np.array_equal(made, again)


def _call(card: pathlib.Path) -> dict:
    """The keywords of the call, which the card shows between single backticks."""
    line = card.read_text().splitlines()[-2]
    pairs = (pair.split("=") for pair in line.strip("`").split(", "))
    return {name: json.loads(value.lower()) for name, value in pairs}


def report(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Prints the largest difference, in units of the largest value above 1."""
    scale = max(1.0, float(np.abs(theirs).max()))
    worst = float(np.abs(ours - theirs).max())
    print(f"{name}: max difference {worst:.1e}, of values up to {scale:.1f}")
    if not worst / scale < TOLERANCE:
        raise SystemExit(f"{name}: {worst / scale} is not below {TOLERANCE}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    phases = {f.__name__: f for f in (make, read, load, fixtures, schedules)}
    parser.add_argument("phase", choices=phases)
    parser.add_argument("folder", type=pathlib.Path)
    given = parser.parse_args()
    phases[given.phase](given.folder)
