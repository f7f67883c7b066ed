"""What the recipes of Zheng & Yang (2024, arXiv:2405.20750) share [code].

The generator is a public EDM network at sigma = 80 with its consistency-style wrapper;
no pairs, no teacher in the loss. The authors read features of classifiers; these
recipes read the teacher's own encoder, at noise levels that are a guess [inferred], and
need no further file. With the files of the classifiers the discriminator is the
authors':

    --config.stages.student.method.features="('vgg16_bn', 'efficientnet_lite0')"
    --config.stages.student.method.feature_files="('VGG.pth', 'EFFICIENTNET.pth')"

and for 64x64 images 'deit_base_distilled' in place of the first. Where there are
classes, its heads start from the classifier's table of them, a file, too:
--config.stages.student.method.class_embedding=FILE, whose rows have
`class_embedding_dim` entries, 320 unless it is said.

The authors keep the checkpoint with the lowest FID, and replace gradients that are not
finite (--config.stages.student.optim.zero_nonfinite=True); these recipes keep the last
average, and stop.
"""

from configs import common, teachers

DATA_64 = dict(name="edm_zip", path="", size=64)
NCSNPP = dict(
    name="song_unet",
    embedding="fourier",
    noise_mult=2,
    encoder="residual",
    taps=(1, 3, 3, 1),
)


def cifar10(name: str, size: str, *, freeze: bool):
    """The recipe `name` on CIFAR-10; `size` may be "cond", with classes."""
    common.check_size(size, ("full", "cond", "cpu", "tiny"))
    cond = size == "cond"
    return get(
        f"{name}_cond" if cond else name,
        "full" if cond else size,
        teacher=f"edm-cifar10-32x32-{'cond' if cond else 'uncond'}-ve.pkl",
        network=NCSNPP,
        shape=(32, 32, 3),
        num_classes=10 if cond else 0,
        data=dict(name="cifar10", path="", use_labels=cond),
        freeze=freeze,
        lr=1e-4,
        disc_lr=1e-4,
        num_images=5_000_000,
        num_steps=18,
    )


def roles(lr: float, **more) -> dict:
    """The optimizer of the discriminator: Adam, corrected for the lazy penalty.

    It makes 17 updates where the others make 16 (Karras et al. 2020, arXiv:1912.04958,
    Appendix B).
    """
    ratio = 16 / 17
    return dict(disc=dict(lr=lr * ratio, b1=0.0, b2=0.99**ratio, **more))


def get(
    name: str,
    size: str,
    *,
    teacher: str,
    network: dict,
    shape,
    num_classes: int,
    data: dict,
    freeze: bool,
    lr: float,
    disc_lr: float,
    num_images: int,
    num_steps: int = 40,
    augment_dim: int = 9,
    batch_size: int = 256,
    num_microbatches: int = 1,
    local_batch: int = 64,
    virtual_local_batch: int = 64,
    ema_half_life: float = 500_000.0,
):
    """The recipe `name`.

    Args:
        num_images: Images that the run sees.
        num_steps: Steps of the teacher's Heun sampler, of 2 N - 1 evaluations.
        local_batch: Images of a GPU of the authors; with a `virtual_local_batch` of
            fewer, the penalty weighs less, as the discriminator's own loss does.

    The others are those of the model, the data and the training.
    """
    common.check_size(size)
    tiny = size == "tiny"
    if tiny:
        network = common.tiny_network(network["name"])
        shape, batch_size, num_microbatches = (16, 16, 3), 8, 1
        local_batch = virtual_local_batch = 4
    sampler = dict(name="heun", num_steps=3 if tiny else num_steps)
    model = dict(
        network=network,
        precondition=dict(name="edm"),
        process=dict(name="edm"),
        image_shape=shape,
        num_classes=num_classes,
        augment_dim=augment_dim,
        sampler=sampler,
    )
    train_steps = 4 if tiny else num_images // batch_size
    student = dict(
        method=dict(
            name="gdd",
            noise_levels=(0.2, 1.0),
            width=4 if tiny else 64,
            virtual_local_batch=virtual_local_batch,
            r1_weight=1e-4 * virtual_local_batch / local_batch,
            freeze=freeze,
        ),
        model=dict(precondition=dict(name="boundary"), network=dict(dropout=0.0)),
        optim=dict(lr=lr, b1=0.0, b2=0.99, ema_half_life=ema_half_life),
        roles=roles(disc_lr),
        sampler=dict(name="ddim", num_steps=1),
        train=dict(
            num_steps=train_steps,
            batch_size=batch_size,
            num_microbatches=num_microbatches,
            result="ema",
        ),
    )
    stages = dict(
        student=student,
        evaluate=dict(kind="evaluate", models=("teacher", "student")),
    )
    order, begin = ("student", "evaluate"), teachers.bring(teacher)
    if tiny:
        stages["teacher"] = dict(
            method=dict(name="denoise", times="edm", weight="edm"),
            optim=dict(lr=1e-3, ema_half_life=500_000.0),
            train=dict(num_steps=4, batch_size=8, result="ema"),
        )
        order, begin = ("teacher", *order), {}
    return common.config(
        name,
        order=order,
        stages=stages,
        data=common.tiny_data(shape) if tiny else data,
        model=model,
        train=common.tiny_train() if tiny else dict(sample_every=1000),
        evaluate=common.evaluate(tiny),
        **begin,
    )
