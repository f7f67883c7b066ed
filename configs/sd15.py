"""What the recipes of Stable Diffusion 1.5 share.

The teacher is a diffusers folder, of which the autoencoder, the text encoder and the
tokenizer are used, too. Images and prompts are those of a cache, which

    python -m kdiff_jax.cache --data=IMAGES --output=LATENTS --size=512 \
        --teacher=teachers/stable-diffusion-v1-5

makes of a folder of images with captions; `model.num_classes` is the number of them.

The tiny size is a table of text states and small pixels: it needs no file.
"""

import pathlib

from configs import common, dmd, teachers

TEACHER = "stable-diffusion-v1-5"
FOLDER = f"{teachers.FOLDER}/{TEACHER}"
TINY_TEXTS = pathlib.Path(__file__).parent / "tiny_texts.npy"
# How to get the images of a recipe.
IMAGES = dict(
    laion=": get images and captions of LAION-Aesthetics (laion.ai; the list is CC BY"
    " 4.0, the images are under their owners' terms), an image and a .txt each",
    dogs=": get images of dogs with captions, an image and a .txt each, such as those"
    " of LAION-Aesthetics (laion.ai; the list is CC BY 4.0, the images are under their"
    " owners' terms) whose captions name a dog",
)
SHOWN = dict(name="pndm", num_steps=25, guidance=7.5)  # of BK-SDM's tables [code]


def model(tiny: bool, *, num_prompts: int, network: dict, sampler: dict) -> dict:
    """The teacher as its folder says it; or a small one on pixels.

    Args:
        tiny: Whether it is the small one.
        num_prompts: Number of prompts.
        network: Fields of the small network that differ.
        sampler: How the teacher is sampled.
    """
    fields: dict = dict(name="unet2d_condition", remat=True)
    texts = dict(cond_dim=768, cond_length=77, num_classes=num_prompts)
    if tiny:
        small = dict(channels=8, channel_mult=(1,), num_blocks=1, depths=(1,))
        fields = dict(name="unet2d_condition", num_heads=1, num_groups=4, **small)
        fields |= network
        texts = dict(cond_dim=4, cond_length=3, num_classes=10)
        sampler = sampler | dict(num_steps=2)
    parts = dict(
        space="latents",
        autoencoder=dict(name="autoencoder_kl"),
        text=dict(name="clip_text"),
    )
    return dict(
        network=fields,
        precondition=dict(name="eps"),
        process=dict(
            name="discrete",
            schedule="scaled_linear",
            beta_min=0.00085,
            beta_max=0.012,
        ),
        image_shape=(16, 16, 3) if tiny else (64, 64, 4),
        sampler=sampler,
        **texts,
        **({} if tiny else parts),
    )


def dmd2(
    tiny: bool,
    *,
    gan: bool,
    lr: float,
    num_steps: int,
    batch_size: int = 2048,
    num_microbatches: int = 4,
    guidance: float = 1.75,
    **more,
) -> dict:
    """One of the two stages of DMD2; see sd15_dmd2.py."""
    method = dict(
        name="dmd2",
        guidance=guidance,
        fake_weight="snr",  # the plain loss on eps
        student_every=2 if tiny else 10,
        gan_weight=1e-3 if gan else 0.0,
        disc_weight=1e-2,
        head_place="middle",
        head_groups=4 if tiny else 32,
    )
    train = dict(
        num_steps=num_steps, batch_size=batch_size, num_microbatches=num_microbatches
    )
    short = dict(num_steps=4, batch_size=8, num_microbatches=1)
    return dict(
        method=method,
        optim=dict(lr=lr, **dmd.OPTIM),
        sampler=dict(name="renoise", num_steps=1, guidance=1),
        train=short if tiny else train | dict(layout="zero1"),
        **more,
    )


def get(
    name: str,
    size: str,
    *,
    stages: dict,
    data: str = "laion",
    num_prompts: int = 500_000,
    network: dict | None = None,
    sampler: dict = SHOWN,
    **more,
):
    """The recipe `name`.

    Args:
        name: Name of the recipe.
        size: "tiny", or any other for the full one.
        stages: The stages between the teacher and the evaluation, in order; those that
            train are evaluated.
        data: Name of the folder of images; that of its cache ends in _latents.
        num_prompts, network, sampler: See `model`.
        more: Further sections, as `partition`.
    """
    tiny = size == "tiny"
    models = (key for key, one in stages.items() if one.get("kind") != "pairs")
    made = stages | dict(evaluate=dict(kind="evaluate", models=("teacher", *models)))
    begin = dict(precision="bfloat16", **teachers.bring(TEACHER))
    source = dict(name="folder", path=f"data/{data}", size=512)
    source |= dict(autoencoder=FOLDER, text_encoder=FOLDER)
    source |= dict(latents=f"data/{data}_latents")
    begin["hints"] = dict(
        path=IMAGES.get(data, ""),
        latents=teachers.cached(source, FOLDER),
        autoencoder=teachers.PART_OF_IT,
        text_encoder=teachers.PART_OF_IT,
    )
    if tiny:
        teacher = dict(
            method=dict(name="denoise", weight="snr", null_prob=0.1),
            optim=dict(lr=1e-4),
            train=dict(num_steps=2, batch_size=8),
        )
        made, begin = dict(teacher=teacher, **made), {}
        source = common.tiny_data((16, 16, 3)) | dict(conditions=str(TINY_TEXTS))
    shown = dict(num_prompts=num_prompts, network=network or {}, sampler=sampler)
    return common.config(
        name,
        order=tuple(made),
        stages=made,
        data=source,
        model=model(tiny, **shown),
        train=common.tiny_train() if tiny else dict(sample_every=1000, save_every=500),
        evaluate=common.evaluate(tiny) | ({} if tiny else dict(num_images=30_000)),
        **begin,
        **more,
    )
