r"""Text to image on two CPU cores, without any weights of others: CIFAR-10 by prompts.

    python -m kdiff_jax.main --config=configs/cifar10_text.py --workdir=runs/text

Each image has a caption, its class in one of eight templates ("a small photo of a
frog"), and the model knows all eighty. A tokenizer is made of these captions, and a
text encoder is trained with the teacher, a latent diffusion model with cross-attention:
a Stable Diffusion of 1.1 M parameters, all parts of which are ours [inferred]. What
follows is Stable Diffusion's: one student by DMD2, and four students, a quarter of the
prompts each (MSD), who see as many images together as the one. Captions of your own:
data.class_names, in the order of the labels, and data.templates; model.num_classes is
the product of their numbers.

    python -m kdiff_jax.sample --checkpoint=runs/text/dmd2 --prompt="a photo of a dog"

Autoencoder and latents are those of cifar10_latent.py, and may be taken from a run of
it, which has the same data:

    --config.data.autoencoder=runs/latent/autoencoder/vae \
    --config.data.latents=runs/latent/latents \
    --config.order="('teacher','dmd2','msd','evaluate')"

Distances are FID of 10,000 images where Inception's weights are there (evaluate.fetch
gets them). A CIFAR-10 ResNet-56 is a much smaller network, and tells too whether an
image is of the class that its prompt names:

    --config.evaluate.features=resnet56 --config.evaluate.weights=cifar10_resnet56.npz \
    --config.evaluate.metrics="('fd','class_accuracy')"

The set is read from a prepared tensorflow-datasets folder, or from a file:
--config.data.name=npz --config.data.path=cifar10.npz
"""

from configs import cifar10_latent, common, small_unet

NAMES = (
    *("an airplane", "an automobile", "a bird", "a cat", "a deer"),
    *("a dog", "a frog", "a horse", "a ship", "a truck"),
)
TEMPLATES = (
    *("a photo of {}", "a picture of {}", "an image of {}", "{}"),
    *("a small photo of {}", "a small picture of {}"),
    *("a blurry photo of {}", "a close photo of {}"),
)
LENGTH = 16  # tokens of a prompt
GUIDANCE = 2.0
ORDER = ("autoencoder", "latents", "teacher", "dmd2", "msd", "evaluate")


def text(tiny: bool) -> dict:
    """The text encoder."""
    width = 8 if tiny else 64
    return dict(
        name="clip_text",
        vocab_size=1024,
        width=width,
        num_blocks=1 if tiny else 2,
        num_heads=2,
        hidden=4 * width,
        num_positions=LENGTH,
    )


def network(tiny: bool) -> dict:
    """The denoiser of latents."""
    fields = dict(
        name="unet2d_condition",
        channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        depths=(1, 1),
        num_heads=2,
        num_groups=8,
    )
    small = dict(channels=8, channel_mult=(1,), depths=(1,), num_heads=1, num_groups=4)
    return fields | (small if tiny else {})


def sections(tiny: bool) -> dict:
    """data, model, train and evaluate."""
    pixels = (16, 16, 3) if tiny else small_unet.SHAPE
    parts = small_unet.sections(tiny, shape=pixels, data=small_unet.CIFAR10)
    templates = TEMPLATES[:2] if tiny else TEMPLATES
    parts["data"] |= dict(
        autoencoder="autoencoder",
        latents="latents",
        text_encoder="teacher",
        class_names=NAMES,
        templates=templates,
    )
    parts["model"] |= dict(
        network=network(tiny),
        process=dict(
            name="discrete",
            schedule="scaled_linear",
            beta_min=0.00085,
            beta_max=0.012,
        ),
        space="latents",
        image_shape=cifar10_latent.SHAPE,
        autoencoder=cifar10_latent.encoder_fields(tiny) | dict(scaling_factor=1.0),
        text=text(tiny),
        num_classes=len(NAMES) * len(templates),
        cond_dim=text(tiny)["width"],
        cond_length=LENGTH,
        # Latents have no bounds to be clipped to.
        # Steps that diffusers' pipeline takes, too.
        sampler=dict(
            name="ddim",
            num_steps=4 if tiny else 20,
            spacing="trailing",
            guidance=GUIDANCE,
        ),
    )
    parts["evaluate"] |= dict(features="" if tiny else "inception")
    return parts


def teacher(tiny: bool) -> dict:
    """The denoiser and its text encoder; a tenth of the captions is dropped."""
    found = small_unet.teacher(tiny)
    found["method"] |= dict(null_prob=0.1)
    if not tiny:
        found["train"] |= dict(num_steps=10_000, batch_size=64)
    return found


def dmd2(tiny: bool, *, batch_size: int, **more) -> dict:
    """5,000 updates of the student among those of fake score and discriminator."""
    found = small_unet.dmd2_student(tiny=tiny) | more
    found["method"] |= dict(guidance=GUIDANCE)
    found["sampler"] = dict(name="ddim", num_steps=1, guidance=1)
    if not tiny:
        found["train"] |= dict(num_steps=10_000, batch_size=batch_size)
    return found


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    stages = dict(
        autoencoder=cifar10_latent.autoencoder(tiny),
        latents=dict(kind="latents", batch_size=50),
        teacher=teacher(tiny),
        dmd2=dmd2(tiny, batch_size=32),
        msd=dmd2(tiny, batch_size=8, partition=True),
        evaluate=dict(kind="evaluate", models=("teacher", "dmd2", "msd")),
    )
    return common.config(
        "cifar10_text",
        order=ORDER,
        stages=stages,
        partition=dict(num_groups=2 if tiny else 4, rule="pca"),
        **sections(tiny),
    )
