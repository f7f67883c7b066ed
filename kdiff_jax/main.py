"""Runs a recipe: python -m kdiff_jax.main --config=NAME[:ARG] --workdir=W

The recipe is one of configs/ by name, as digits_student:tiny, or FILE.py[:ARG]. The
same command again resumes, and is a quick no-op when all is done. A value of the config
is changed by --config.section.key=value; --print_config shows them all.
"""

import pathlib
from typing import Any

from absl import flags
from ml_collections import config_flags

from kdiff_jax import command, start
from kdiff_jax.errors import ConfigError

# A recipe locks itself, all but what takes keywords that it does not name.
OPEN: dict[str, Any] = dict(lock_config=False, accept_new_attributes=True)
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe, NAME[:ARG] or FILE.py[:ARG].", **OPEN
)
WORKDIR = flags.DEFINE_string("workdir", None, "Default: runs/<name of the config>.")
STAGE = flags.DEFINE_string("stage", None, "Run this stage alone.")
DRYRUN = flags.DEFINE_bool("dryrun", False, "Print the plan and what it needs; end.")
PLAN = flags.DEFINE_bool(
    "plan", False, "Compile every program for --topology, and say what it needs; end."
)
TOPOLOGY = flags.DEFINE_string(
    "topology", "cpu", "Devices that --plan is about, which need not be here."
)
FORCE = flags.DEFINE_bool(
    "force_config_change", False, "Continue although the config has changed."
)
PRINT = flags.DEFINE_bool("print_config", False, "Print the resolved config; end.")


def main() -> None:
    if CONFIG.value is None:
        raise ConfigError(
            "--config is missing; give a recipe, as digits_student, or FILE.py[:ARG]"
        )
    name = CONFIG.value.name
    if PRINT.value:
        print(CONFIG.value)
        return
    if PLAN.value:
        _plan(name)
        return
    start.split_cpu(CONFIG.value.get("cpu_devices", 1))
    command.start_distributed()
    # Imported late: they start JAX, which must know the other hosts first.
    from kdiff_jax import plan, recipe

    workdir = _workdir(name)
    if DRYRUN.value:
        job = recipe.make_job(CONFIG.value, workdir)
        recipe.check_stage(job, STAGE.value)
        print(plan.text(job))
        for lacks in recipe.missing(job).splitlines():
            print(f"missing: {lacks}")
        return
    recipe.run(
        CONFIG.value,
        workdir,
        only=STAGE.value,
        force=FORCE.value,
        overrides=config_flags.get_override_values(flags.FLAGS["config"]),
    )


def _plan(name: str) -> None:
    """Prints what the programs of the recipe need of a topology."""
    from kdiff_jax import recipe, scale, topology

    on = topology.find(TOPOLOGY.value)
    job = recipe.make_job(CONFIG.value, _workdir(name), devices=on.devices)
    recipe.check_stage(job, STAGE.value)
    for line in scale.page(job, on, STAGE.value):
        print(line, flush=True)


def _workdir(name: str) -> pathlib.Path:
    """The folder that was asked for, or that of the config's name."""
    if not WORKDIR.value:
        return pathlib.Path("runs") / name
    try:
        return pathlib.Path(WORKDIR.value).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"--workdir={WORKDIR.value}: {error}; write it out") from None


def run() -> None:
    """`python -m kdiff_jax.main`."""
    command.run(main)


if __name__ == "__main__":
    run()
