"""Checkpoints in and out: python -m kdiff_jax.convert --input=PATH --output=DIR

Reads NVIDIA EDM pickles and state dicts, diffusers folders, Flax msgpack of
diffusion_distillation, score_sde and consistency models, PyTorch state dicts of DDPM,
and our own models; no code of a file is run. The output is a model folder for
--config.init.teacher, sample and evaluate; or, with --target, what others read:
`diffusers` (a pipeline folder) or `safetensors` (PyTorch's layout and names).
"""

import os
import pathlib

from absl import flags

from kdiff_jax import command, start
from kdiff_jax.errors import ConfigError

INPUT = flags.DEFINE_string("input", None, "A file or folder.")
OUTPUT = flags.DEFINE_string("output", None, "A folder, made where it does not exist.")
SOURCE = flags.DEFINE_string("source", "auto", "The family; found out if not given.")
TARGET = flags.DEFINE_enum(
    "target", "kdiff", ["kdiff", "diffusers", "safetensors"], "What to write."
)
PRECONDITION = flags.DEFINE_string(
    "precondition", None, "Where the file does not say: edm, vp, ve, iddpm, x, eps, v."
)
SIZE = flags.DEFINE_integer(
    "image_size", None, "Where the file does not say: pixels.", lower_bound=1
)
SAMPLER = flags.DEFINE_string("sampler", None, "The model's own; default: the file's.")
STEPS = flags.DEFINE_integer("num_steps", None, "Of the sampler.", lower_bound=1)
STUDENT = flags.DEFINE_integer("student", None, "One of many, to be written alone.")


def main() -> None:
    source = pathlib.Path(command.required(INPUT)).expanduser()
    output = pathlib.Path(command.required(OUTPUT)).expanduser()
    _check_output(output, source)
    start.platform()
    from kdiff_jax.interop import convert

    family = None if SOURCE.value == "auto" else SOURCE.value
    facts = dict(
        precondition=PRECONDITION.value,
        image_size=SIZE.value,
        sampler=SAMPLER.value,
        num_steps=STEPS.value,
    )
    try:
        lines = convert.run(
            source,
            output,
            TARGET.value,
            family=family,
            facts=facts,
            student=STUDENT.value,
        )
    except OSError as error:
        where = error.filename or output
        raise ConfigError(f"{where}: {error.strerror}") from error
    for line in lines:
        print(line)


def _check_output(output: pathlib.Path, source: pathlib.Path) -> None:
    """Refuses to write over anything but an earlier conversion."""
    if os.path.realpath(output) == os.path.realpath(source):
        raise ConfigError(f"--output={output}: is the input; name another folder")
    if output.is_file():
        raise ConfigError(f"--output={output}: is a file; name a folder")
    if output.is_dir() and any(output.iterdir()) and not _written_by_us(output):
        raise ConfigError(
            f"--output={output}: holds other things; name a new or empty folder"
        )


def _written_by_us(folder: pathlib.Path) -> bool:
    """Whether its card says so: every target has one."""
    try:
        return "kdiff_jax" in (folder / "README.md").read_text()
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    command.run(main)
