"""A recipe for 32x32 images on two CPU cores: small network, short training.

Shared by Fashion-MNIST and CIFAR-10. The networks and lengths of the papers are in the
recipes of size "full".
"""

from configs import common, gdd, o2mkd

SHAPE = (32, 32, 3)
CIFAR10 = dict(name="cifar10", path="", flip=True)


def sections(tiny: bool, *, shape, data: dict) -> dict:
    """data, model, train and evaluate."""
    network = dict(
        name="iddpm_unet",
        channels=16,
        emb_channels=128,
        channel_mult=(1, 2, 4),
        num_blocks=1,
        attn_resolutions=(shape[0] // 4,),
        num_heads=2,
    )
    if tiny:
        network = common.tiny_network("iddpm_unet", emb_channels=16)
    model = dict(
        network=network,
        precondition=dict(name="v"),
        process=dict(name="cosine"),
        image_shape=shape,
        num_classes=10,
        sampler=dict(name="ddim", num_steps=4 if tiny else 16, clip=True),
    )
    evaluate = dict(num_images=20 if tiny else 10_000, features="pixels", weights="")
    return dict(
        data=common.tiny_data(shape) | {"flip": False} if tiny else dict(data),
        model=model,
        train=common.tiny_train() if tiny else dict(log_every=50, sample_every=500),
        evaluate=evaluate,
    )


def teacher(tiny: bool) -> dict:
    train = dict(num_steps=4000, batch_size=32, result="ema")
    return dict(
        method=dict(name="denoise", weight="v_mse"),
        optim=dict(
            lr=1e-3,
            warmup_steps=200,
            schedule="cosine",
            clip_norm=1.0,
            ema_half_life=10_000.0,
        ),
        train=train | (dict(num_steps=4, batch_size=8) if tiny else {}),
    )


def progressive(tiny: bool) -> dict:
    rounds = dict(start_steps=16, end_steps=1, last_train_steps=300)
    return dict(
        method=dict(name="progressive", weight="snr_trunc"),
        optim=dict(lr=3e-4, schedule="linear", clip_norm=1.0),
        sampler=dict(name="ddim", clip=True),
        rounds=common.tiny_rounds() if tiny else rounds,
        train=dict(num_steps=4 if tiny else 200, batch_size=8 if tiny else 32),
    )


def pairs(tiny: bool) -> dict:
    sizes = dict(num_pairs=4096, num_held_out=256, shard_size=512, batch_size=128)
    return common.tiny_pairs() if tiny else dict(kind="pairs", **sizes)


def student(tiny: bool, *, loss: str) -> dict:
    train = dict(num_steps=1000, batch_size=32, result="best", validate_every=250)
    short = dict(num_steps=4, batch_size=8, validate_every=2)
    return dict(
        method=dict(name="denoising_student", loss=loss),
        pairs="pairs",
        optim=dict(
            lr=5e-4, b2=0.98, warmup_steps=100, schedule="cosine", ema_decay=0.99
        ),
        sampler=dict(name="ddim", num_steps=1),
        train=train | (short if tiny else {}),
    )


def gdd_student(*, freeze: bool, tiny: bool = False) -> dict:
    """As digits_gdd, but with the paper's penalty, and both rates falling to 0."""
    train = dict(num_steps=1000, batch_size=32, result="ema")
    short = dict(num_steps=4, batch_size=8) if tiny else {}
    return dict(
        method=dict(
            name="gdd",
            noise_levels=(0.05, 0.3),
            width=4 if tiny else 32,
            virtual_local_batch=1 if tiny else 32,
            freeze=freeze,
        ),
        optim=dict(lr=3e-4, b1=0.0, b2=0.99, schedule="cosine", ema_half_life=2000.0),
        roles=gdd.roles(lr=1e-3),
        sampler=dict(name="ddim", num_steps=1),
        train=train | short,
    )


def dmd2_student(*, tiny: bool = False) -> dict:
    """As digits_dmd2; a thousand updates of the student among those of the guidance."""
    train = dict(num_steps=2000, batch_size=32, result="ema")
    short = dict(num_steps=4, batch_size=8) if tiny else {}
    return dict(
        method=dict(
            name="dmd2",
            student_every=2,
            fake_weight="v_mse",  # of the teacher
            gan_weight=0.02,
            disc_weight=0.03,
            head_groups=4,
        ),
        optim=dict(lr=3e-4, b1=0.5, warmup_steps=50, schedule="cosine", ema_decay=0.99),
        roles=dict(fake_score=dict(lr=1e-3), disc=dict(lr=1e-3)),
        sampler=dict(name="ddim", num_steps=1),
        train=train | short,
    )


def cifar10(name: str, student: dict):
    """The recipe `name` of a student that needs no pairs, of CIFAR-10."""
    stages = dict(
        teacher=teacher(tiny=False),
        student=student,
        evaluate=dict(kind="evaluate", models=("teacher", "teacher@1", "student")),
    )
    order = ("teacher", "student", "evaluate")
    parts = sections(tiny=False, shape=SHAPE, data=CIFAR10)
    return common.config(name, order=order, stages=stages, **parts)


def cifar10_o2mkd(name: str):
    """The recipe `name` of O2MKD on CIFAR-10: students with half the channels.

    Each begins as a copy of one student of all times: short trainings are not spent on
    learning the same thing N times.
    """
    student = o2mkd.student(
        tiny=False,
        channels=8,
        lr=1e-3,
        batch_size=32,
        num_steps=500,
        sampler=dict(num_steps=16, clip=True),
    )
    student["method"]["weight"] = "v_mse"  # of the teacher
    student["optim"] = dict(
        lr=1e-3, warmup_steps=50, schedule="cosine", ema_half_life=4000.0
    )
    stages = dict(
        teacher=teacher(tiny=False),
        **o2mkd.after_common(student, 1000),
        evaluate=dict(kind="evaluate", models=("teacher", "common", "student")),
    )
    return common.config(
        name,
        order=("teacher", "common", "student", "evaluate"),
        stages=stages,
        partition=dict(num_ranges=4),
        **sections(tiny=False, shape=SHAPE, data=CIFAR10),
    )
