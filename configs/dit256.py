r"""What the recipes of DiT and SiT on latents of ImageNet 256x256 share.

DiT-XL/2 is a diffusers folder with its autoencoder. SiT-XL/2 is the authors' file, of
which a folder is made first, beside that of its autoencoder:

    python -m kdiff_jax.convert --input=SiT-XL-2-256.pt --precondition=velocity \
        --output=teachers/SiT-XL-2-256

The authors' DiT-XL-2-256x256.pt is read as it is: --config.init.teacher=FILE and
--config.data.autoencoder=teachers/sd-vae-ft-ema. Images, in one folder a class, become
latents once, and so do their mirror images:

    python -m kdiff_jax.cache --data=data/imagenet --output=data/imagenet_latents \
        --teacher=teachers/DiT-XL-2-256 --size=256 --flip

where --teacher is the folder with the autoencoder. The tiny size is a small network of
the same kind on small pixels: it needs no file.
"""

from configs import common, teachers

IMAGES = (
    ": get ILSVRC2012's training images from image-net.org (for research that is not"
    " commercial), one folder a class"
)
# What they answer for, and how they are sampled; guided as in the papers [paper].
DIT = dict(
    precondition=dict(name="eps"),
    process=dict(name="discrete"),
    sampler=dict(name="ddim", num_steps=50, guidance=1.5, guidance_channels=3),
)
SIT = dict(
    precondition=dict(name="velocity", data_at=1),
    process=dict(name="flow"),
    sampler=dict(name="euler", num_steps=64, guidance=1.5, guidance_channels=3),
)
# Teacher, folder of its autoencoder, parts of the model, weight of its own loss.
KINDS = {
    "dit": ("DiT-XL-2-256", "DiT-XL-2-256", DIT, "snr"),
    "sit": ("SiT-XL-2-256", "sd-vae-ft-ema", SIT, "v_mse"),
}


def sizes() -> tuple[str, ...]:
    """Arguments of a recipe for both kinds of teachers."""
    return ("full", "sit", "tiny", "tiny_sit")


def kind_of(size: str) -> str:
    """ "dit" or "sit", of an argument among `sizes`."""
    return "sit" if size.endswith("sit") else "dit"


def one_step(kind: str) -> dict:
    """What a student has otherwise than its teacher, to answer in one step.

    At DiT's last time alpha is 0.006, and x0_hat of an eps that errs by a little is far
    off: the student is Luhman & Luhman's, x_t - eps.
    """
    return dict(precondition=dict(name="residual")) if kind == "dit" else {}


def model(kind: str, tiny: bool) -> dict:
    """The model of the teacher."""
    network = dict(name="dit", learned_variance=kind == "dit", remat=True)
    network |= dict(freq_shift=1.0, mlp_norm_eps=1e-5) if kind == "dit" else {}
    parts = dict(space="latents", autoencoder=dict(name="autoencoder_kl"))
    shape, sampler = (32, 32, 4), KINDS[kind][2]["sampler"]
    if tiny:
        network = dict(name="dit", channels=8, num_blocks=1, num_heads=2, patch_size=4)
        parts, shape, sampler = {}, (16, 16, 3), sampler | dict(num_steps=4)
    return dict(
        network=network,
        image_shape=shape,
        num_classes=10 if tiny else 1000,
        **(KINDS[kind][2] | dict(sampler=sampler)),
        **parts,
    )


def get(name: str, kind: str, *, tiny: bool, stages: dict, models: tuple[str, ...]):
    """The recipe `name`.

    Args:
        name: Name of the recipe.
        kind: "dit" or "sit".
        tiny: Whether it is the small one.
        stages: The stages between the teacher and the evaluation, in order.
        models: What is evaluated.
    """
    teacher, home, _, weight = KINDS[kind]
    made = stages | dict(evaluate=dict(kind="evaluate", models=models))
    begin = dict(precision="bfloat16", **teachers.bring(teacher))
    data = dict(name="folder", path="data/imagenet", size=256, flip=True)
    data |= dict(autoencoder=f"{teachers.FOLDER}/{home}")
    data |= dict(latents="data/imagenet_latents")
    parts = teachers.PART_OF_IT if home == teacher else f": {teachers.where(home)}"
    begin["hints"] = dict(
        path=IMAGES,
        latents=teachers.cached(data, data["autoencoder"]),
        autoencoder=parts,
    )
    if tiny:
        own = dict(
            method=dict(name="denoise", weight=weight, null_prob=0.1),
            optim=dict(lr=1e-3),
            train=dict(num_steps=4, batch_size=8),
        )
        made, begin, data = dict(teacher=own, **made), {}, common.tiny_data((16, 16, 3))
    return common.config(
        name,
        order=tuple(made),
        stages=made,
        data=data,
        model=model(kind, tiny),
        train=common.tiny_train() if tiny else dict(sample_every=5000),
        evaluate=common.evaluate(tiny),
        **begin,
    )
