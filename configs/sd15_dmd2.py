"""One-step student of Stable Diffusion 1.5, by DMD2, in the authors' two stages.

    python -m kdiff_jax.cache --data=data/laion --output=data/laion_latents \
        --teacher=teachers/stable-diffusion-v1-5 --size=512
    python -m kdiff_jax.main --config=configs/sd15_dmd2.py --workdir=runs/sd15_dmd2

Distribution matching against the teacher guided by 1.75, then the discriminator on the
middle of the fake score, at a twentieth of the rate. The teacher is a diffusers folder,
of which the autoencoder, the text encoder and the tokenizer are used, too. Real images
and prompts are those of the cache: the authors had 500,000 of LAION-Aesthetics 6.25+
for the discriminator and three million prompts beside them [code]; here the prompts are
those of the images, and `model.num_classes` is their number. Hardware: 64 accelerators
of 80 GB, or fewer with more microbatches; the authors had 64 A100 for 25 and 2 hours,
a batch of 2048, bfloat16, and recomputed activations [code]. Expected: FID of 30,000
prompts of COCO-2014 9.28, then 8.35 [code]. It has not been run at full size here.

The tiny size is a table of text states and small pixels: it needs no file.
"""

import pathlib

from configs import common, dmd

FOLDER = "teachers/stable-diffusion-v1-5"
TINY_TEXTS = pathlib.Path(__file__).parent / "tiny_texts.npy"


def model(tiny: bool) -> dict:
    """The teacher as its folder says it; or a small one on pixels."""
    network = dict(name="unet2d_condition")
    texts = dict(cond_dim=768, cond_length=77, num_classes=500_000)
    if tiny:
        small = dict(channels=8, channel_mult=(1, 1), num_blocks=1, depths=(1, 0))
        network |= small | dict(num_heads=1, num_groups=4)
        texts = dict(cond_dim=4, cond_length=3, num_classes=10)
    else:
        network |= dict(remat=True)
    parts = dict(
        space="latents",
        autoencoder=dict(name="autoencoder_kl"),
        text=dict(name="clip_text"),
    )
    return dict(
        network=network,
        precondition=dict(name="eps"),
        process=dict(
            name="discrete",
            schedule="scaled_linear",
            beta_min=0.00085,
            beta_max=0.012,
        ),
        image_shape=(16, 16, 3) if tiny else (64, 64, 4),
        sampler=dict(name="ddim", num_steps=2 if tiny else 50, guidance=3.0),
        **texts,
        **({} if tiny else parts),
    )


def student(tiny: bool, *, gan: bool, lr: float, num_steps: int, **more) -> dict:
    """One of the two stages."""
    method = dict(
        name="dmd2",
        guidance=1.75,
        fake_weight="snr",  # the plain loss on eps
        student_every=2 if tiny else 10,
        gan_weight=1e-3 if gan else 0.0,
        disc_weight=1e-2,
        head_place="middle",
        head_groups=4 if tiny else 32,
    )
    train = dict(num_steps=num_steps, batch_size=2048, num_microbatches=4)
    short = dict(num_steps=4, batch_size=8, num_microbatches=1)
    return dict(
        method=method,
        optim=dict(lr=lr, **dmd.OPTIM),
        sampler=dict(name="renoise", num_steps=1, guidance=1),
        train=short if tiny else train | dict(layout="zero1"),
        **more,
    )


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    stages = dict(
        matching=student(tiny, gan=False, lr=1e-5, num_steps=39_000),
        student=student(
            tiny,
            gan=True,
            lr=5e-7,
            num_steps=2_000,
            init=dict(student="matching", fake_score="matching/fake_score"),
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "matching", "student")),
    )
    files = dict(autoencoder=FOLDER, text_encoder=FOLDER, latents="data/laion_latents")
    more = dict(init=dict(teacher=FOLDER), precision="bfloat16")
    data = dict(name="folder", path="data/laion", size=512) | files
    if tiny:
        stages["teacher"] = dict(
            method=dict(name="denoise", weight="snr", null_prob=0.1),
            optim=dict(lr=1e-4),
            train=dict(num_steps=2, batch_size=8),
        )
        data = common.tiny_data((16, 16, 3)) | dict(conditions=str(TINY_TEXTS))
        more = {}
    order = ("teacher",) * tiny + ("matching", "student", "evaluate")
    return common.config(
        "sd15_dmd2",
        order=order,
        stages=stages,
        data=data,
        model=model(tiny),
        train=common.tiny_train() if tiny else dict(sample_every=1000, save_every=500),
        evaluate=common.evaluate(tiny) | ({} if tiny else dict(num_images=30_000)),
        **more,
    )
