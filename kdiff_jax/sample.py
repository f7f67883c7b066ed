"""Images from a model: python -m kdiff_jax.sample --checkpoint=PATH --output=FILE.png

PATH is a stage folder of a workdir, a step in it, or a converted model. The output is a
picture grid (.png), arrays (.npz: `images` uint8 NHWC, `labels`), or a folder of PNGs.
"""

import pathlib

import numpy as np
from absl import flags

from kdiff_jax import command
from kdiff_jax.errors import ConfigError

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A model, see above.")
OUTPUT = flags.DEFINE_string("output", None, "FILE.png, FILE.npz, or a folder.")
NUM = flags.DEFINE_integer("num_images", 64, "How many images.", lower_bound=1)
SAMPLER = flags.DEFINE_string("sampler", None, "Default: the model's own.")
STEPS = flags.DEFINE_integer(
    "num_steps", None, "Default: the model's own.", lower_bound=1
)
SEED = flags.DEFINE_integer("seed", 0, "Image i of a seed is always the same.")
LABELS = flags.DEFINE_string(
    "labels", None, "Classes, as 3 or 0,1,2 or 0-4, repeated; default: all in turn."
)
STUDENT = flags.DEFINE_integer(
    "student", None, "One of many, alone; default: each makes what it owns."
)
BATCH = flags.DEFINE_integer("batch_size", 250, "Images a call.", lower_bound=1)


def main() -> None:
    output = pathlib.Path(command.required(OUTPUT))
    checkpoint = command.required(CHECKPOINT)
    if output.suffix not in (".png", ".npz", ""):
        raise ConfigError(f"--output={output}: give FILE.png, FILE.npz, or a folder")

    command.start_distributed()
    import jax

    from kdiff_jax import interop

    model = interop.load(checkpoint)
    wanted, k, partition = LABELS.value, STUDENT.value, model.partition
    if k is not None:
        model = model.student(k)
        if wanted is None and partition is not None and model.num_classes:
            wanted = ",".join(map(str, partition.labels(k, model.num_classes)))
    labels = parse_labels(wanted, NUM.value, model.num_classes)
    images = sample_images(model, labels)
    if jax.process_index() == 0:
        try:
            save(output, images, labels)
        except OSError as error:
            raise ConfigError(f"--output={output}: {error.strerror}") from error
        print(f"{len(images)} images: {output}")


def sample_images(model, labels) -> np.ndarray:
    """uint8[N, H, W, C], one image per label, by the flags' sampler and seed."""
    from kdiff_jax.train import generate, parallel

    mesh = parallel.make_mesh()
    sampler = model.sampler(SAMPLER.value, STEPS.value)
    make = generate.of_model(model, sampler, mesh=mesh)
    size = min(BATCH.value, len(labels))
    return make.images(model.params, seed=SEED.value, labels=labels, batch_size=size)


def parse_labels(text: str | None, num: int, num_classes: int) -> np.ndarray:
    """i32[num] from "3", "0,1,2", "0-4" or None, repeated in turn.

    Raises:
        ConfigError: If a label is not one of the model's classes.
    """
    if text is None:
        wanted = list(range(max(num_classes, 1)))
    else:
        wanted = []
        for part in text.split(","):
            first, _, last = part.partition("-")
            if not first.isdigit() or (last and not last.isdigit()):
                raise ConfigError(f"--labels={text!r}: give 3, or 0,1,2, or 0-4")
            wanted += range(int(first), int(last or first) + 1)
        if not wanted or max(wanted) >= num_classes:
            raise ConfigError(
                f"--labels={text!r}: this model has {num_classes} classes"
                + (f", 0 to {num_classes - 1}" if num_classes else "; leave it out")
            )
    return np.resize(np.array(wanted, np.int32), num)


def save(output: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes a grid, arrays, or a folder of numbered pictures."""
    from kdiff_jax.report import grid

    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".npz":
        np.savez(output, images=images, labels=labels)
    elif output.suffix == ".png":
        columns = max(1, round(len(images) ** 0.5))
        if columns > 10 and len(images) % 10 == 0:
            columns = 10
        grid.save_png(output, grid.image_grid(images, num_cols=columns))
    else:
        for i, image in enumerate(images):
            grid.save_png(output / f"{i:06d}.png", image)


if __name__ == "__main__":
    command.run(main)
