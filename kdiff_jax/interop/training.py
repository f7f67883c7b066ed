"""Reads the parameters of a run in progress: a step of a stage's Orbax checkpoints.

A stage folder says in `model.json` what its network is, which role it trains, and
whether its result is the moving average ("ema") or the raw weights ("params").
"""

import json
import pathlib

import numpy as np
import orbax.checkpoint as ocp

from kdiff_jax.errors import CheckpointError

STAGE = "model.json"


def find(path: pathlib.Path) -> tuple[pathlib.Path, int] | None:
    """(stage folder, step) of a stage folder or of one of its steps, or None."""
    if (path / STAGE).is_file():
        steps = sorted(_steps(path / "checkpoints"))
        return (path, steps[-1]) if steps else None
    stage = path.parent.parent
    if path.name.isdigit() and path.is_dir() and (stage / STAGE).is_file():
        return stage, int(path.name)
    return None


def load(stage: pathlib.Path, step: int):
    """Returns (spec, params) of a step.

    Raises:
        CheckpointError: If the step cannot be read.
    """
    about = json.loads((stage / STAGE).read_text())
    prefix = f"nets/{about['role']}/{about['result']}/"
    folder = stage / "checkpoints" / str(step) / "state"
    try:
        with ocp.StandardCheckpointer() as reader:
            leaves = reader.metadata(folder.absolute()).item_metadata
            wanted = {
                k: ocp.RestoreArgs(restore_type=np.ndarray)
                for k in leaves.keys()
                if k.startswith(prefix)
            }
        with ocp.PyTreeCheckpointer() as reader:
            restored = reader.restore(
                folder.absolute(),
                args=ocp.args.PyTreeRestore(
                    item={k: 0 for k in wanted},
                    restore_args=wanted,
                    partial_restore=True,
                ),
            )
    except Exception as error:  # Orbax raises bare exceptions for damaged files
        text = " ".join(str(error).split())[:200]
        raise CheckpointError(f"step {step} of {stage}: {text}") from error
    tree: dict = {}
    for path, leaf in restored.items():
        *parents, name = path.removeprefix(prefix).split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = np.asarray(leaf)
    return about["spec"], tree


def _steps(folder: pathlib.Path):
    if folder.is_dir():
        yield from (int(p.name) for p in folder.iterdir() if p.name.isdigit())
