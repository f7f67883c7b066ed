"""Latents and tokens of images and captions, made once and kept on disk.

    python -m kdiff_jax.cache --data=PATH --teacher=FOLDER --output=DIR

PATH is a folder of images with captions (NAME.txt beside NAME.png, or metadata.jsonl or
.csv with file_name and text) or of .tar files of them (here, or on gs:// or s3://), a
.json of COCO's captions (with --images=FOLDER), or a .txt of prompts, one a line.
FOLDER is a pipeline folder of diffusers; of one without a tokenizer (DiT) images are
cached with the labels that a recipe's data have. DIR gets mean and log-variance of each
image's latents (float16) and the tokens of each caption (uint16); with --flip those of
its mirror image, too. The same command again goes on where it was stopped, and gives
the same bytes on any number of devices.
"""

import pathlib
from typing import Any

from absl import flags

from kdiff_jax import command, output
from kdiff_jax.errors import ConfigError, ImageError

DATA = flags.DEFINE_string("data", None, "Images with captions, or prompts; see above.")
IMAGES = flags.DEFINE_string(
    "images", None, "Folder of the images of a .json; default: the one it lies in."
)
TEACHER = flags.DEFINE_string("teacher", None, "A pipeline folder of diffusers.")
TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    None,
    "Folder of the tokenizer, or none for labels in place of captions; default: the"
    " teacher's.",
)
OUTPUT = flags.DEFINE_string("output", None, "A folder, new or of an earlier run.")
SIZE = flags.DEFINE_integer(
    "size",
    None,
    "Side in pixels that images are cropped and resized to; default: that of the"
    " autoencoder's config.",
    lower_bound=1,
)
BATCH = flags.DEFINE_integer(
    "batch_size", 8, "Images a call on each device.", lower_bound=1
)
SHARD = flags.DEFINE_integer("shard_size", 1024, "Images a shard.", lower_bound=1)
FLIP = flags.DEFINE_bool(
    "flip",
    False,
    "Encode each image and its mirror image, for recipes with data.flip=True; twice the"
    " disk.",
)
UNREADABLE = flags.DEFINE_enum(
    "unreadable",
    "stop",
    ["stop", "skip"],
    "What an image whose content cannot be read does: end the run, or be left out, with"
    " its name and the reason in OUTPUT/unreadable.json.",
)
VARIANT = flags.DEFINE_string("variant", None, "Variant of the weights, as fp16.")
PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16"],
    "Type that the autoencoder computes in.",
)
DRYRUN = flags.DEFINE_bool("dryrun", False, "Say what it needs, and make nothing.")

TOKENIZERS = {"ids": "tokenizer", "ids_2": "tokenizer_2"}  # what they make -> folders


def main() -> None:
    try:
        _make()
    except ImageError as error:
        raise ImageError(f"{error}, or leave it out by --unreadable=skip") from error


def _make() -> None:
    data, teacher = command.required(DATA), command.required(TEACHER)
    text = command.required(OUTPUT)
    inputs = {"--data": data, "--teacher": teacher, "--images": IMAGES.value}
    if TOKENIZER.value not in (None, "none"):
        inputs["--tokenizer"] = TOKENIZER.value
    folder = output.folder("--output", text, foreign=_others, inputs=inputs)

    command.start_distributed()
    import jax

    from kdiff_jax import shards
    from kdiff_jax.data import latents
    from kdiff_jax.lock import Lock
    from kdiff_jax.stages import latents as stage

    tokenizers = read_tokenizers(output.expanded("--teacher", teacher))
    content, vae = read(data, teacher, with_captions=bool(tokenizers))
    facts = stage.facts(
        content, vae, tokenizers, shard_size=SHARD.value, flip=FLIP.value
    )
    need = latents.disk_need(facts, stage.text_bytes(content))
    print(said(folder, facts, need), flush=True)
    if DRYRUN.value:
        return
    shards.check_room(folder, need, "latents", "or name another --output")
    with output.speaking("--output", text):
        lock = Lock(folder / f".lock.{jax.process_index()}", f"--output={text}")
    try:
        made = stage.make(
            *(folder, facts, content, vae, tokenizers),
            batch_size=BATCH.value,
            skip=UNREADABLE.value == "skip",
        )
    finally:
        lock.release()
    lost = latents.num_left_out(folder)
    report = f", {lost} images left out (see {latents.REPORT})" if lost else ""
    print(f"{made} shards made{report}: {output.printable(text)}")


def read_tokenizers(teacher: pathlib.Path) -> dict:
    """Tokenizers by the name of what they make; {} where labels are to be cached."""
    from kdiff_jax.formats import clip_tokenizer

    given = TOKENIZER.value
    if given == "none":
        return {}
    if given is not None:
        folder = output.expanded("--tokenizer", given)
        return {"ids": clip_tokenizer.load(folder)}
    if teacher.is_file():
        raise ConfigError(
            f"--teacher={teacher}: a single file has no tokenizer; give"
            " --tokenizer=FOLDER, or --tokenizer=none for labels in place of captions"
        )
    return {
        name: clip_tokenizer.load(teacher, part)
        for name, part in TOKENIZERS.items()
        if (teacher / part).is_dir()
    }


def read(data: str, teacher: str, *, with_captions: bool):
    """(what is to be cached, the autoencoder; None for prompts alone)."""
    from kdiff_jax import latent
    from kdiff_jax.data import captions
    from kdiff_jax.stages.latents import Content

    found = captions.read(data, IMAGES.value) if with_captions else None
    if found is not None and not found.names:
        texts = tuple((prompt,) for prompt in found.captions[0])
        return Content(None, texts, found.sha256), None
    vae = latent.load(teacher, variant=VARIANT.value, precision=PRECISION.value)
    size = SIZE.value or vae.sample_size
    if size is None:
        raise ConfigError(
            "--size: is missing, and the autoencoder does not say what it was trained"
            " on; give it, as 512"
        )
    if size % vae.module.factor:
        raise ConfigError(
            f"--size={size}: must be a multiple of {vae.module.factor}, the factor of"
            " the autoencoder"
        )
    channels = vae.module.in_channels
    at_once = UNREADABLE.value == "stop"
    if found is not None:
        images = found.images(size, channels, at_once=at_once)
        return Content(images, found.captions, found.sha256), vae
    return Content(of_classes(data, size, channels, at_once), None), vae


def of_classes(data: str, size: int, channels: int, at_once: bool):
    """Images with labels, of a folder, an .npz or EDM's .zip."""
    from kdiff_jax.data import images, objects
    from kdiff_jax.data.folder import FILES

    if objects.is_remote(data):
        raise ConfigError(
            f"--data={data}: of a store .tar files with captions are read; copy images"
            " with labels here"
        )
    kind = FILES.get(pathlib.Path(data).suffix.lower(), "folder")
    decoding: dict[str, Any] = {} if kind == "npz" else dict(at_once=at_once)
    return images.load(kind, path=data, size=size, channels=channels, **decoding)


def said(folder: pathlib.Path, facts, need: int) -> str:
    """One line: what is made, and the disk that it takes."""
    parts = []
    if facts["num_images"]:
        height, width = facts["image_size"]
        flips = " and their flips" if facts.get("flip") else ""
        parts.append(f"{facts['num_images']:,} images of {width}x{height}{flips}")
    if facts["tokens"]:
        parts.append(f"{facts['num_examples']:,} captions")
    else:
        parts.append(f"labels of {facts['images']['num_classes']} classes")
    what, size = " and ".join(parts), f"{need / 1e9:.3g} GB"
    return f"{output.printable(str(folder))}: {what} take {size}"


def _others(folder: pathlib.Path) -> str:
    """The first thing in a folder that is of no cache."""
    from kdiff_jax.data.latents import MANIFEST, REPORT

    names = (p.name for p in folder.iterdir())
    own = (MANIFEST, REPORT, ".lock", "shard-", f".{MANIFEST}", f".{REPORT}")
    return next((name for name in names if not name.startswith(own)), "")


if __name__ == "__main__":
    command.run(main)
