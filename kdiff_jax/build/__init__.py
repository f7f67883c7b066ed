"""ConfigDict -> objects. Below this package everything is plain keyword arguments.

A config has shared sections (`model`, `data`, `init`, `train`, `evaluate`) and
`stages`, run in the order of `config.order`. A section is the keywords of one function.
`resolve` makes of it a `Recipe`, frozen and with all defaults, which is what the stages
read.
"""

from kdiff_jax.build.completed import complete, defaults, lock, plain
from kdiff_jax.build.inputs import (
    check_autoencoder,
    load_autoencoder,
    load_images,
    load_labelled,
    load_latents,
    load_table,
    readers,
)
from kdiff_jax.build.objects import (
    Networks,
    Program,
    averages,
    brought,
    check_fits,
    check_shared,
    make_method,
    powers,
    program,
)
from kdiff_jax.build.prompts import keep_tokenizer, load_encoder
from kdiff_jax.build.resolved import (
    AutoencoderStage,
    EvaluateStage,
    Init,
    LatentsStage,
    Learning,
    PairsStage,
    Recipe,
    Stage,
    TrainStage,
)
from kdiff_jax.build.stages import expand, resolve, spec_of
from kdiff_jax.build.values import check

__all__ = [
    "AutoencoderStage",
    "EvaluateStage",
    "Init",
    "LatentsStage",
    "Learning",
    "Networks",
    "PairsStage",
    "Program",
    "Recipe",
    "Stage",
    "TrainStage",
    "averages",
    "brought",
    "powers",
    "check",
    "check_fits",
    "check_shared",
    "complete",
    "defaults",
    "expand",
    "keep_tokenizer",
    "check_autoencoder",
    "load_autoencoder",
    "load_encoder",
    "load_images",
    "load_labelled",
    "load_latents",
    "load_table",
    "lock",
    "make_method",
    "plain",
    "program",
    "readers",
    "resolve",
    "spec_of",
]
