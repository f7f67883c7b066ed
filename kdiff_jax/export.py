"""A model for others: python -m kdiff_jax.export --checkpoint=W/student --output=FILE

The target `stablehlo` is one program that runs with JAX alone, on CPUs, GPUs and TPUs:
(seed, y) -> images by the model's sampler, or the bare denoiser, for any number of
images. `onnx` is a file for so many images, checked by onnxruntime. `diffusers` and
`safetensors` are folders that other projects read; `convert` has more options for
these. docs/export.md loads each in a few lines.
"""

import os
import pathlib

from absl import flags

from kdiff_jax import command, files, options, output
from kdiff_jax.errors import ConfigError

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A model, as for `sample`.")
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "A file, or a folder for one that is called as --what; of diffusers and safetensors"
    " a folder.",
)
TARGET = flags.DEFINE_enum(
    "target",
    "stablehlo",
    ["stablehlo", "onnx", "diffusers", "safetensors"],
    "What to write.",
)
STUDENT = flags.DEFINE_integer(
    "student", None, "One of many, alone; default: all, by label.", lower_bound=0
)
WHAT = flags.DEFINE_enum(
    "what",
    "generator",
    ["generator", "denoiser"],
    "Images by a sampler, or x0_hat of (x_t, t, y).",
)
START = flags.DEFINE_enum(
    "start", "seed", ["seed", "noise"], "What images start from: (seed, y), or (z, y)."
)
IMAGES = flags.DEFINE_enum(
    "images",
    "uint8",
    ["uint8", "float32", "latents"],
    "Pixels, images in [-1, 1], or what the denoiser makes.",
)
CONDITIONS = flags.DEFINE_enum(
    "conditions",
    None,
    ["numbers", "vectors", "tokens"],
    "What y is; default: tokens of a model of prompts, vectors of one that has no table"
    " of them, else numbers: labels.",
)
WEIGHTS = flags.DEFINE_enum(
    "weights",
    "auto",
    ["auto", "inside", "beside"],
    "Inside the program, or beside it in FILE.npz; auto: beside from 1 GiB.",
)
SAMPLER = flags.DEFINE_string(
    "sampler",
    None,
    "Default: the model's own. --sampler.KEY=VALUE sets any of its keywords.",
)
STEPS = flags.DEFINE_integer(
    "num_steps", None, "As --sampler.num_steps.", lower_bound=1
)
options.section("sampler")
BATCH = flags.DEFINE_integer(
    "batch_size", 1, "With --target=onnx: images a call, fixed.", lower_bound=1
)
PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    ["float32", "bfloat16"],
    "Type that the network computes in; default: the model's own.",
)

OF_STABLEHLO = (START, WEIGHTS)
OF_PROGRAMS = (WHAT, IMAGES, CONDITIONS, SAMPLER, STEPS, PRECISION)


def main() -> None:
    checkpoint, text = command.required(CHECKPOINT), command.required(OUTPUT)
    if TARGET.value in ("diffusers", "safetensors"):
        _refuse("stablehlo and --target=onnx", OF_PROGRAMS)
        _refuse("stablehlo", OF_STABLEHLO)
        _refuse("onnx", [BATCH])
        _convert(checkpoint, text)
        return
    if TARGET.value == "onnx":
        _refuse("stablehlo", OF_STABLEHLO)
    else:
        _refuse("onnx", [BATCH])
    path, beside = _places(checkpoint, text)
    command.start_distributed()
    from kdiff_jax import text as texts_to_images

    model = texts_to_images.load_model(checkpoint, PRECISION.value)
    if STUDENT.value is not None:
        with options.named("student"):
            model = model.student(STUDENT.value)
    sampler = None
    if WHAT.value == "generator":
        with options.keywords("sampler", name=SAMPLER, num_steps=STEPS) as keywords:
            sampler = model.sampler(**keywords)
    if TARGET.value == "onnx":
        _onnx(model, sampler, path, text)
    else:
        _stablehlo(model, sampler, path, beside, text)


def _stablehlo(model, sampler, path, beside, text: str) -> None:
    from kdiff_jax import exported

    inside = {"auto": None, "inside": True, "beside": False}[WEIGHTS.value]
    about: dict = dict(read=CONDITIONS.value, inside=inside)
    if sampler is None:
        program = exported.denoiser(model, **about)
    else:
        about |= dict(start=START.value, images=IMAGES.value)
        program = exported.generator(model, sampler, **about)
    content = program.serialized()
    size = sum(x.nbytes for x in program.weights.values())
    output.check_disk("--output", path, len(content) + size)
    with output.speaking("--output", text):
        if program.weights:  # first: without them the program is of no use
            files.write_atomically(beside, program.write_weights)
        files.write_atomically(path, content)
    print(f"{WHAT.value}{program}: {output.printable(str(path))}")
    print(f"{len(content):,} bytes, for {', '.join(exported.PLATFORMS)}")
    if program.weights:
        print(f"weights, {size:,} bytes: {output.printable(str(beside))}")


def _onnx(model, sampler, path, text: str) -> None:
    from kdiff_jax import exported

    about: dict = dict(images=IMAGES.value, read=CONDITIONS.value)
    content, apart = exported.onnx(model, sampler, batch_size=BATCH.value, **about)
    output.check_disk("--output", path, len(content))
    with output.speaking("--output", text):
        files.write_atomically(path, content)
    print(f"{WHAT.value} of {BATCH.value}: {output.printable(str(path))}")
    print(f"{len(content):,} bytes; at most {apart:.2g} from the model's own results")


def _refuse(targets: str, of_them) -> None:
    """Refuses options of other targets."""
    for flag in of_them:
        if flag.present:
            raise ConfigError(
                f"--{flag.name}={flag.value}: is for --target={targets}; leave it out"
            )


def _places(checkpoint: str, text: str) -> tuple[pathlib.Path, pathlib.Path]:
    """(where the program goes, where weights go that lie beside it)."""
    given = output.expanded("--output", text)
    if text.endswith("/") or os.path.isdir(given) or not given.suffix:
        given = given / f"{WHAT.value}.{TARGET.value}"
    beside = given.with_suffix(".npz")
    if given == beside:
        raise ConfigError(
            f"--output={text}: .npz is the ending of weights; name FILE.stablehlo"
        )
    inputs = {"--checkpoint": checkpoint}
    path, beside = (
        output.file("--output", str(p), suffixes=[p.suffix.lower()], inputs=inputs)
        for p in (given, beside)
    )
    return path, beside


def _convert(checkpoint: str, text: str) -> None:
    """What `convert` does, with its own defaults."""
    source = output.expanded("--checkpoint", checkpoint)
    inputs = {"--checkpoint": source, "model of the --checkpoint": source / "model"}
    folder = output.folder(
        "--output", text, foreign=output.no_conversion, inputs=inputs
    )
    command.start_distributed()
    from kdiff_jax.interop import convert

    with options.named("student", "target"), output.speaking("--output", text):
        about: dict = dict(target=TARGET.value, student=STUDENT.value)
        for line in convert.run(source, folder, **about):
            print(output.printable(line))


if __name__ == "__main__":
    command.run(main)
