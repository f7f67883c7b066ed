"""Images from a model: python -m kdiff_jax.sample --checkpoint=PATH --output=FILE.png

PATH is a stage folder of a workdir, a step in it, or a converted model. The output is a
picture grid (.png), arrays (.npz: `images` uint8 NHWC, and the `labels`, `conditions`
or `prompts` that they were asked by), or a folder of PNGs, which is replaced if there
is nothing else in it.
"""

import io
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from absl import flags

from kdiff_jax import arguments, command, files, memory, options, output
from kdiff_jax.errors import ConfigError

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A model, see above.")
OUTPUT = flags.DEFINE_string("output", None, "FILE.png, FILE.npz, or a folder.")
NUM = flags.DEFINE_integer(
    "num_images", 64, "How many images.", lower_bound=1, upper_bound=2**31 - 1
)
SAMPLER = flags.DEFINE_string(
    "sampler",
    None,
    "Default: the model's own. --sampler.KEY=VALUE sets any of its keywords.",
)
STEPS = flags.DEFINE_integer(
    "num_steps",
    None,
    "As --sampler.num_steps; default: the model's own.",
    lower_bound=1,
)
options.section("sampler")
SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Image i of a seed is always the same.",
    lower_bound=0,
    upper_bound=arguments.MAX_SEED,
)
LABELS = flags.DEFINE_string(
    "labels", None, "Classes, as 3 or 0,1,2 or 0-4, repeated; default: all in turn."
)
CONDITIONS = flags.DEFINE_string(
    "conditions",
    None,
    "In place of labels: FILE.npy of f32[N, D], vectors to ask for, repeated; of models"
    " with cond_dim.",
)
PROMPT = flags.DEFINE_string(
    "prompt", None, "In place of labels: what all images show; of models of prompts."
)
PROMPTS = flags.DEFINE_string(
    "prompts", None, "In place of labels: FILE.txt of prompts, one a line, repeated."
)
NEGATIVE = flags.DEFINE_string(
    "negative_prompt", "", "What guidance leads away from; default: no text."
)
STUDENT = flags.DEFINE_integer(
    "student",
    None,
    "One of many, alone; default: each makes what it owns.",
    lower_bound=0,
)
BATCH = flags.DEFINE_integer("batch_size", 250, "Images a call.", lower_bound=1)
PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    ["float32", "bfloat16"],
    "Type that the network computes in; default: the model's own.",
)

PICTURE = re.compile(r"\d{6,}\.png")  # of a folder; others in it are not ours


def main() -> None:
    checkpoint, text = command.required(CHECKPOINT), command.required(OUTPUT)
    given = [f for f in (LABELS, CONDITIONS, PROMPT, PROMPTS) if f.value is not None]
    if len(given) > 1:
        names = " and ".join(f"--{flag.name}" for flag in given)
        raise ConfigError(f"{names}: give one of them")
    if NEGATIVE.value and not (given and given[0] in (PROMPT, PROMPTS)):
        raise ConfigError("--negative_prompt: needs --prompt or --prompts beside it")
    path, kind = place(text, checkpoint)

    command.start_distributed()
    import jax

    from kdiff_jax import text as texts_to_images
    from kdiff_jax.interop import beside
    from kdiff_jax.interop.checkpoint import located

    model = texts_to_images.load_model(checkpoint, PRECISION.value)
    wanted, k, partition = LABELS.value, STUDENT.value, model.partition
    if k is not None:
        model = model.student(k)
        if wanted is None and model.num_classes:
            wanted = ",".join(map(str, partition.labels(k, model.num_classes)))
    row = model.net.cond_dim * max(model.net.conditions.length, 1)
    dim = row if CONDITIONS.value is not None else 0
    dim = 2 * row if PROMPT.value is not None or PROMPTS.value is not None else dim
    check(path, kind, model.net.space.pixel_shape, NUM.value, dim)
    texts = None
    if CONDITIONS.value is not None:
        labels = read_vectors(CONDITIONS.value, NUM.value, model)
        asked = {"conditions": labels}
    elif PROMPT.value is not None or PROMPTS.value is not None:
        labels, texts = read_prompts(checkpoint, NUM.value, model)
        asked = {"prompts": texts}
    else:
        labels = parse_labels(wanted, NUM.value, model.num_classes)
        asked = {"labels": labels}
        of_labels = beside.with_tokenizer(located(checkpoint))
        texts = beside.prompts(model.frozen, of_labels, labels)
    images = sample_images(model, labels, NUM.value)
    if jax.process_index() == 0:
        with output.speaking("--output", text):
            told = None if texts is None else list(texts)
            save(path, kind, {"images": images, **asked}, told)
        print(f"{len(images)} images: {output.printable(text)}")


def place(text: str, checkpoint: str) -> tuple[pathlib.Path, str]:
    """(where the images go, ".png", ".npz" or "" for a folder)."""
    inputs = {"--checkpoint": checkpoint, "--conditions": CONDITIONS.value}
    given = output.expanded("--output", text)
    there = text.endswith("/") or os.path.isdir(given)
    kind = "" if there else given.suffix.lower()
    if kind not in (".png", ".npz", ""):
        raise ConfigError(f"--output={text}: give FILE.png, FILE.npz, or a folder")
    if kind:
        return output.file("--output", text, suffixes=[kind], inputs=inputs), kind
    path = output.folder("--output", text, foreign=_others, inputs=inputs)
    if path.is_mount() or path == pathlib.Path.cwd():
        raise ConfigError(
            f"--output={text}: is replaced as a whole, which the working folder and"
            " mounted ones cannot be; name a folder in it"
        )
    with output.speaking("--output", text):
        files.probe(path)
    return path, kind


def _others(folder: pathlib.Path) -> str:
    """The first thing in a folder that is no picture of ours."""
    with os.scandir(folder) as entries:
        return next((e.name for e in entries if not PICTURE.fullmatch(e.name)), "")


def check(path: pathlib.Path, kind: str, shape, num: int, dim: int = 0) -> None:
    """Refuses images that such an output, the memory or the disk cannot hold.

    `dim` is the length of the vectors that they are asked by; 0 for labels.
    """
    height, width, channels = shape
    points = kind == ".png" and shape == (1, 1, 2)
    if kind != ".npz" and channels not in (1, 3) and not points:
        raise ConfigError(
            f"--output={path}: images of {channels} channels are no pictures; give"
            " FILE.npz"
        )
    size = num * height * width * channels
    # Of the images, and of a copy: as a file, or as tiles of 50 pixels at least.
    copy = num * max(height, 50) * max(width, 50) * channels if kind == ".png" else size
    way_out = "ask for fewer, and for more with another seed"
    memory.check(f"--num_images={num}", size + copy + (16 + 4 * dim) * num, way_out)
    output.check_disk(f"--num_images={num}", path, size if kind == ".npz" else 0)


def sample_images(model, labels, num: int) -> np.ndarray:
    """uint8[num, H, W, C], by the flags' sampler and seed, of labels or what is so."""
    from kdiff_jax.train import generate, parallel

    mesh = parallel.make_mesh()
    with options.keywords("sampler", name=SAMPLER, num_steps=STEPS) as keywords:
        sampler = model.sampler(**keywords)
    name = f"--checkpoint={CHECKPOINT.value}"
    make = generate.of_model(model, sampler, mesh=mesh, name=name)
    size = min(BATCH.value, num)
    return make.images(model.students, seed=SEED.value, labels=labels, batch_size=size)


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
            if not (found := re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)):
                raise ConfigError(f"--labels={text!r}: give 3, or 0,1,2, or 0-4")
            first, last = int(found[1]), int(found[2] or found[1])
            if last < first:
                raise ConfigError(f"--labels={text!r}: {part} is empty; give 0-4")
            if last >= num_classes:
                raise ConfigError(
                    f"--labels={text!r}: this model has {num_classes} classes"
                    + (f", 0 to {num_classes - 1}" if num_classes else "; leave it out")
                )
            wanted += range(first, last + 1)
    return np.resize(np.array(wanted, np.int32), num)


def read_vectors(path: str, num: int, model) -> np.ndarray:
    """f32[num, D] of the rows of an .npy, repeated in turn.

    Raises:
        ConfigError: If the model reads labels, or none.
        DataError: If the file is missing or damaged, or has other rows.
    """
    from kdiff_jax.data import conditions

    if not (dim := model.net.cond_dim):
        way_out = "give --labels" if model.num_classes else "leave it out"
        raise ConfigError(
            f"--conditions={path}: this model reads no vectors; {way_out}"
        )
    length = model.net.conditions.length
    rows = conditions.read_asked(path, dim, "--conditions", length)
    return np.resize(rows, (num, *rows.shape[1:]))


def read_prompts(checkpoint: str, num: int, model):
    """(what the model reads of each image's prompt, the prompts), repeated in turn.

    Raises:
        CheckpointError: If there is no tokenizer beside the model.
        ConfigError: If the model reads no prompts.
        DataError: If the file of prompts is missing or damaged.
    """
    import jax

    from kdiff_jax import prompting
    from kdiff_jax.data import captions
    from kdiff_jax.interop.checkpoint import located

    if PROMPTS.value is not None:
        texts = [*captions.read(PROMPTS.value).captions[0]]
    else:
        texts = [str(PROMPT.value)]
    of_each = np.arange(num) % len(texts)
    asked = prompting.prompts(model, located(checkpoint), texts, NEGATIVE.value)
    return jax.tree.map(lambda x: x[of_each], asked), np.array(texts)[of_each]


def save(
    path: pathlib.Path,
    kind: str,
    found: dict[str, np.ndarray],
    texts: Sequence[str] | None = None,
) -> None:
    """Writes a grid, arrays, or a folder of numbered pictures; whole or not at all.

    Args:
        path: Where to.
        kind: ".png", ".npz" or "" for a folder.
        found: The arrays of an .npz, with the images.
        texts: What stands below each image of a grid, or None.
    """
    from kdiff_jax.report import grid

    images = found["images"]
    if kind == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, **found)  # type: ignore[arg-type]
        files.write_atomically(path, buffer.getbuffer())
    elif kind == ".png":
        columns = max(1, round(len(images) ** 0.5))
        if columns > 10 and len(images) % 10 == 0:
            columns = 10
        about: dict = dict(num_cols=columns, captions=texts)
        grid.save_png(path, grid.image_grid(images, **about))
    else:
        with output.replaced(path) as folder:
            for i, image in enumerate(images):
                grid.save_png(folder / f"{i:06d}.png", image)


if __name__ == "__main__":
    command.run(main)
