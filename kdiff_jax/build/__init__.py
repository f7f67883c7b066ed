"""ConfigDict -> objects. Below this package everything is plain keyword arguments.

A config has shared sections (`model`, `data`, `init`, `train`, `evaluate`) and
`stages`, run in the order of `config.order`. A section is the keywords of one function.
"""

from kdiff_jax.build.objects import (
    averages,
    check_fits,
    load_images,
    make_method,
    program,
)
from kdiff_jax.build.sections import complete, lock, plain
from kdiff_jax.build.stages import (
    Stage,
    changed,
    evaluate_options,
    expand,
    precision,
    spec_of,
    train_options,
)
from kdiff_jax.build.values import check

__all__ = [
    "Stage",
    "averages",
    "changed",
    "check",
    "check_fits",
    "complete",
    "evaluate_options",
    "expand",
    "load_images",
    "lock",
    "make_method",
    "plain",
    "precision",
    "program",
    "spec_of",
    "train_options",
]
