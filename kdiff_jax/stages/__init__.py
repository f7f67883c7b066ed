"""What a recipe is made of: one module per kind of stage, each a resumable run.

Every stage has a folder, starts from what earlier stages left there, and leaves
`done.json` when it has finished.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from kdiff_jax import interop
from kdiff_jax.build import Stage
from kdiff_jax.errors import CheckpointError
from kdiff_jax.files import write_atomically
from kdiff_jax.interop import training

DONE = "done.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage is given.

    Attributes:
        config: The whole config, plain values.
        stages: All stages of the recipe, rounds written out.
        workdir: One folder per stage lies in it.
        mesh: The devices.
    """

    config: Mapping[str, Any]
    stages: list[Stage]
    workdir: pathlib.Path
    mesh: Mesh

    def folder(self, stage: str) -> pathlib.Path:
        return self.workdir / stage

    def model(self, source: str) -> interop.Model:
        """The result of the stage `source`, or the model at the path `source`.

        A model that is brought is sampled as the recipe says, not as its file does: a
        DDPM's own 1000 steps are not what a recipe of DDIM-100 means.
        """
        if source not in {stage.name for stage in self.stages}:
            model = interop.load(source)
            spec = {**model.spec, "sampler": self.config["model"]["sampler"]}
            return dataclasses.replace(model, spec=spec)
        folder = self.folder(source) / "model"
        if not folder.is_dir():
            raise CheckpointError(
                f"stage {source!r} has no model in {folder}; run it first: the same"
                " command without --stage"
            )
        return interop.load(folder)

    def role(self, source: str) -> dict[str, Any] | None:
        """Params of "stage/role" in that stage's last checkpoint; None if not such."""
        stage, _, role = source.partition("/")
        if not role or "/" in role or stage not in {s.name for s in self.stages}:
            return None
        return training.role(self.folder(stage), role)


def is_done(folder: pathlib.Path) -> bool:
    return (folder / DONE).is_file()


def finish(folder: pathlib.Path, **facts) -> None:
    """Marks a stage as done, with what is worth knowing of it."""
    write_atomically(folder / DONE, json.dumps(facts, indent=1).encode())


def facts(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / DONE).read_text())
