"""Checkpoints in and out: python -m kdiff_jax.convert --input=PATH --output=DIR

Reads NVIDIA EDM pickles and state dicts, diffusers folders, Flax msgpack of
diffusion_distillation, score_sde and consistency models, PyTorch state dicts of DDPM,
and our own models; no code of a file is run. The output is a model folder for
--config.init.teacher, sample and evaluate; or, with --target, what others read:
`diffusers` (a pipeline folder) or `safetensors` (PyTorch's layout and names).
"""

import functools

from absl import flags

from kdiff_jax import command, options, output, start
from kdiff_jax.errors import ConfigError

INPUT = flags.DEFINE_string("input", None, "A file or folder.")
OUTPUT = flags.DEFINE_string("output", None, "A folder, made where it does not exist.")
SOURCE = flags.DEFINE_string("source", "auto", "The family; found out if not given.")
TARGET = flags.DEFINE_enum(
    "target", "kdiff", ["kdiff", "diffusers", "safetensors"], "What to write."
)
PRECONDITION = flags.DEFINE_string(
    "precondition",
    None,
    "Where the file does not say: edm, vp, ve, iddpm, x, eps, v, velocity.",
)
SIZE = flags.DEFINE_integer(
    "image_size", None, "Where the file does not say: pixels.", lower_bound=1
)
SAMPLER = flags.DEFINE_string("sampler", None, "The model's own; default: the file's.")
STEPS = flags.DEFINE_integer("num_steps", None, "Steps of the sampler.", lower_bound=1)
CONFIG = flags.DEFINE_string(
    "config",
    None,
    "With a single file of Stable Diffusion: diffusers' folder of such a network, or"
    " its config.json, which says what the file does not.",
)
HEADS = flags.DEFINE_integer(
    "num_heads", None, "Where the file does not say.", lower_bound=1
)
VARIANT = flags.DEFINE_string(
    "variant", None, "Variant of the weights in a folder of diffusers, as fp16."
)
PIPELINE = flags.DEFINE_string(
    "pipeline",
    None,
    "With --target=diffusers, of a network of Stable Diffusion: pipeline whose other"
    " parts are copied beside it; default: that which it came from.",
)
STUDENT = flags.DEFINE_integer(
    "student", None, "One of many, to be written alone.", lower_bound=0
)
AVERAGE = flags.DEFINE_string(
    "average",
    None,
    "Weights of a stage folder or a step: params, the name of a moving average, or"
    " posthoc:SIGMA, the power average of this relative width.",
)


def main() -> None:
    source = output.expanded("--input", command.required(INPUT))
    text = command.required(OUTPUT)
    inputs = {"--input": source, "model of the --input": source / "model"}
    inputs |= {"--pipeline": PIPELINE.value}
    folder = output.folder(
        "--output", text, foreign=output.no_conversion, inputs=inputs
    )
    start.platform()
    from kdiff_jax import samplers
    from kdiff_jax.interop import convert
    from kdiff_jax.train import snapshots

    family = None if SOURCE.value == "auto" else SOURCE.value
    facts = dict(
        precondition=PRECONDITION.value,
        image_size=SIZE.value,
        sampler=SAMPLER.value,
        num_steps=STEPS.value,
        config=CONFIG.value,
        variant=VARIANT.value,
        num_heads=HEADS.value,
    )
    read = None
    if AVERAGE.value is not None:
        read = functools.partial(snapshots.load, average=AVERAGE.value)
    try:
        named = ("average", "pipeline", "source", "student", "target", *facts)
        with options.named(*named):
            if SAMPLER.value is not None:
                samplers.make_function(SAMPLER.value)  # which says if there is none
            lines = convert.run(
                source,
                folder,
                TARGET.value,
                family=family,
                facts=facts,
                student=STUDENT.value,
                read=read,
                pipeline=PIPELINE.value,
            )
    except OSError as error:
        where = error.filename or text
        raise ConfigError(f"{where}: {error.strerror}") from error
    for line in lines:
        print(output.printable(line))


if __name__ == "__main__":
    command.run(main)
