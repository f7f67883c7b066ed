"""A one-step generator of 8x8 digits from their teacher, by GDD: two CPU cores.

    python -m kdiff_jax.main --config=configs/digits_gdd.py --workdir=runs/digits_gdd

The discriminator reads the teacher's own encoder, so that nothing is downloaded; of
images with little noise, as more hides what is left to learn. A teacher that is there
may be taken: --config.init.teacher=runs/digits/teacher
Expected: fd_pixels of the student in docs/results.md [measured].
"""

from configs import common, digits, gdd


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    train = dict(num_steps=4000, batch_size=64, result="ema")
    stages = dict(
        teacher=digits.teacher(tiny),
        student=dict(
            method=dict(
                name="gdd",
                noise_levels=(0.05, 0.3),
                width=4 if tiny else 32,
                virtual_local_batch=4 if tiny else 32,
                r1_weight=1e-3,
            ),
            optim=dict(
                lr=3e-4, b1=0.0, b2=0.99, schedule="cosine", ema_half_life=20_000.0
            ),
            # Where both rates fall, student and discriminator stop in the middle of a
            # turn about each other; with this one's kept, the student settles.
            roles=gdd.roles(lr=1e-3, schedule="constant"),
            sampler=dict(name="ddim", num_steps=1),
            train=train | (dict(num_steps=4, batch_size=8) if tiny else {}),
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "teacher@1", "student")),
    )
    order = ("teacher", "student", "evaluate")
    return common.config(
        "digits_gdd", order=order, stages=stages, **digits.sections(tiny)
    )
