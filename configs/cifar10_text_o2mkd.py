r"""Four smaller denoisers of prompts, each a quarter of the times: O2MKD on latents.

    python -m kdiff_jax.main --config=configs/cifar10_text_o2mkd.py \
        --workdir=runs/text_o2mkd --config.init.teacher=runs/text/teacher/model \
        --config.data.autoencoder=runs/latent/autoencoder/vae \
        --config.data.latents=runs/latent/latents

Zhang & Ma 2024, arXiv:2410.04191; of the paper only abstract and introduction could be
had. The teacher, its tokenizer and its text encoder are those of cifar10_text.py; so
are captions and metrics, and its options for features of a ResNet-56. Students have
half its channels. First `common`, one student of all times; then `one`, which goes on
from it, and `student`, four copies that go on in a quarter of the times each, with as
many updates each and a quarter of the batch, so that they see as many images together
as the one [inferred].

Without a teacher, autoencoder and latents of another run the recipe makes them first:
leave those options out.
"""

from configs import cifar10_latent, cifar10_text, common, o2mkd

NUM_STEPS = 5000
MODELS = ("common", "one", "student")
ORDER = ("autoencoder", "latents", "teacher", *MODELS, "evaluate")


def student(tiny: bool) -> dict:
    """The stage of the four, before they begin as copies of another."""
    found = o2mkd.student(
        tiny,
        channels=16,
        lr=1e-3,
        batch_size=32,
        num_steps=NUM_STEPS,
        sampler=dict(num_steps=20, spacing="trailing", guidance=cifar10_text.GUIDANCE),
    )
    # Weights of the teacher's own loss.
    found["method"] |= dict(weight="v_mse", null_prob=0.1)
    found["optim"] = dict(
        lr=1e-3, warmup_steps=50, schedule="cosine", ema_half_life=4000.0
    )
    return found


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    made = o2mkd.after_common(student(tiny), 4 if tiny else NUM_STEPS)
    each = made["student"]
    one = each | dict(partition=False, train=dict(each["train"]))
    if not tiny:
        # As many images as the four see together.
        one["train"] |= dict(batch_size=4 * each["train"]["batch_size"])
    stages = dict(
        autoencoder=cifar10_latent.autoencoder(tiny),
        latents=dict(kind="latents", batch_size=50),
        teacher=cifar10_text.teacher(tiny),
        common=made["common"],
        one=one,
        student=each,
        evaluate=dict(kind="evaluate", models=("teacher", *MODELS)),
    )
    return common.config(
        "cifar10_text_o2mkd",
        order=ORDER,
        stages=stages,
        partition=dict(num_ranges=2 if tiny else 4),
        **cifar10_text.sections(tiny),
    )
