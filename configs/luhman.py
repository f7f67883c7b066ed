"""What the recipes of Luhman & Luhman (2021, arXiv:2101.02388) share [code].

A DDPM teacher with linear betas, pairs of its DDIM samples, and a student with the
teacher's network and weights: F(x_T) = x_T - eps(x_T, 999).
"""

from configs import common


def sections(tiny: bool, *, network: dict, shape, sampler: dict, data: dict) -> dict:
    """data, model, train and evaluate; `sampler` is the teacher's."""
    if tiny:
        network = common.tiny_network("ddpm_unet", num_groups=4)
        shape, sampler = (16, 16, 3), sampler | dict(num_steps=4)
    else:
        network = dict(name="ddpm_unet", **network)
    model = dict(
        network=network,
        precondition=dict(name="eps"),
        process=dict(name="discrete"),
        image_shape=shape,
        num_classes=0,
        sampler=dict(name="ddim", **sampler),
    )
    return dict(
        data=common.tiny_data(shape) if tiny else data,
        model=model,
        train=common.tiny_train() if tiny else dict(sample_every=5000),
        evaluate=common.evaluate(tiny),
    )


def teacher(tiny: bool, *, train: dict, lr: float) -> dict:
    """Ho et al. 2020, arXiv:2006.11239, Appendix B [memory]."""
    short = dict(num_steps=4, batch_size=8) if tiny else {}
    return dict(
        method=dict(name="denoise", weight="snr"),
        optim=dict(lr=lr, warmup_steps=5000, clip_norm=1.0, ema_decay=0.9999),
        train=dict(result="ema") | train | short,
    )


def stages(
    tiny: bool,
    *,
    pairs: dict,
    sampler: dict,
    loss: str,
    optim: dict,
    train: dict,
    models,
) -> dict:
    """Pairs, student, evaluation; `sampler` is that of the teacher, however brought."""
    made = common.tiny_pairs() if tiny else dict(kind="pairs", **pairs)
    sampler = sampler | (dict(num_steps=4) if tiny else {})
    short = dict(num_steps=4, batch_size=8, validate_every=2)
    student = dict(
        method=dict(name="denoising_student", loss=loss),
        model=dict(precondition=dict(name="residual")),
        pairs="pairs",
        optim=optim,
        sampler=dict(name="ddim", num_steps=1),
        train=dict(result="best") | train | (short if tiny else {}),
    )
    return dict(
        pairs=made | dict(sampler=dict(name="ddim") | sampler),
        student=student,
        evaluate=dict(kind="evaluate", models=models),
    )
