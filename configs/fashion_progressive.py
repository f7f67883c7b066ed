"""Progressive Distillation, 16 -> 1 steps, of Fashion-MNIST, on two CPU cores.

    python -m kdiff_jax.main --config=configs/fashion_progressive.py --workdir=runs/f

The set is read from a prepared tensorflow-datasets folder, or from a file:
--config.data.name=npz --config.data.path=fashion_mnist.npz. No figure is published for
this network; the recipe prints the distances of teacher and student side by side.
"""

from configs import common, small_unet

SHAPE = (28, 28, 1)


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    stages = dict(
        teacher=small_unet.teacher(tiny),
        progressive=small_unet.progressive(tiny),
        evaluate=dict(
            kind="evaluate", models=("teacher", "teacher@4", "teacher@1", "progressive")
        ),
    )
    order = ("teacher", "progressive", "evaluate")
    data = dict(name="fashion_mnist", path="", flip=False)
    sections = small_unet.sections(tiny, shape=SHAPE, data=data)
    return common.config("fashion_progressive", order=order, stages=stages, **sections)
