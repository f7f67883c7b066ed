"""A recipe with several roles, optimizers and a carry: GDD and DMD2."""

from configs import common, digits, gdd


def get_config(num_steps: str = "24"):
    sections = digits.sections(tiny=True)
    train = dict(num_steps=int(num_steps), batch_size=8, result="ema")
    stages = dict(
        teacher=digits.teacher(tiny=True),
        gdd=dict(
            method=dict(
                name="gdd",
                noise_levels=(0.5,),
                width=2,
                virtual_local_batch=4,
                r1_every=4,
                freeze=True,
            ),
            optim=dict(lr=1e-3, b1=0.0, b2=0.99, ema_half_life=500.0),
            roles=gdd.roles(lr=2e-3),
            sampler=dict(name="ddim", num_steps=1),
            train=train,
        ),
        dmd2=dict(
            method=dict(name="dmd2", student_every=3, head_groups=4),
            optim=dict(lr=1e-3, b1=0.5, schedule="cosine", ema_decay=0.9),
            roles=dict(disc=dict(lr=2e-3, clip_norm=1.0)),
            sampler=dict(name="ddim", num_steps=1),
            train=train,
        ),
    )
    sections["train"] = dict(log_every=1, sample_every=1000, save_every=4)
    order = ("teacher", "gdd", "dmd2")
    return common.config("several_roles", order=order, stages=stages, **sections)
