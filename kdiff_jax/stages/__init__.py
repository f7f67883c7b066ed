"""What a recipe is made of: one module per kind of stage, each a resumable run.

Every stage has a folder, starts from what earlier stages left there, and leaves
`done.json` when it has finished.
"""

import dataclasses
import functools
import logging
import os
import pathlib
import zlib
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from kdiff_jax import build, domain, interop, sealed
from kdiff_jax.build import Program, Recipe, Stage
from kdiff_jax.encoders import texts
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import training
from kdiff_jax.metrics import features

DONE = "done.json"
# In it: features that nothing could be measured on, for want of their weights.
LACKS = "lacks"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage is given.

    Attributes:
        recipe: What is to be done.
        workdir: One folder per stage lies in it.
        mesh: The devices.
        programs: Compiled steps, which stages that differ in numbers alone share.
        extractors: Feature networks that stages share.
        said: Lines of the log that are not said again.
    """

    recipe: Recipe
    workdir: pathlib.Path
    mesh: Mesh
    programs: dict[Hashable, Program] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )
    extractors: dict[Hashable, features.Features] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )
    said: set[str] = dataclasses.field(default_factory=set, compare=False, repr=False)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages of the recipe, rounds written out."""
        return self.recipe.stages

    @functools.cached_property
    def table(self) -> domain.Frozen:
        """What conditions are read from, by role; see `build.load_table`."""
        return build.load_table(self.recipe)

    @property
    def frozen(self) -> domain.Frozen:
        """What programs read beside networks, by role: of a job that lacks nothing.

        A text encoder that a stage trains is there as soon as that has finished.

        Raises:
            CheckpointError: If a network is missing.
            ConfigError: If there is no table, and the model reads vectors.
            DataError: If the table is missing, or none for this model.
        """
        stage = self.recipe.made.get(texts.ROLE)
        trained = stage is not None and is_done(self.workdir / stage)
        own = self._trained_encoder if trained else {}
        return {**self.table, **self._autoencoder, **own}

    @functools.cached_property
    def _autoencoder(self) -> domain.Frozen:
        return build.load_autoencoder(self.recipe)

    @functools.cached_property
    def _trained_encoder(self) -> domain.Frozen:
        return build.load_encoder(self.recipe)

    @property
    def lacks(self) -> list[str]:
        """Stages that make what the first teacher reads, and have not finished."""
        made = {k: s for k, s in self.recipe.made.items() if k != texts.ROLE}
        return [s for s in made.values() if not is_done(self.workdir / s)]

    @property
    def only(self) -> int | None:
        """The one student that this run trains, beside other jobs; None for all."""
        return self.recipe.partition.only if self.recipe.partition else None

    def split(self, stage: str | None) -> bool:
        """Whether the stage trains a student for each part of the partition."""
        return any(
            s.kind == "train" and s.name == stage and s.partition for s in self.stages
        )

    def folder(self, stage: str) -> pathlib.Path:
        """Folder of a stage; a student that is trained alone has its own in it."""
        folder = self.workdir / stage
        alone = self.only is not None and self.split(stage)
        return folder / f"only_{self.only}" if alone else folder

    def left(self, stage: str) -> pathlib.Path:
        """Folder of a stage's result; that of all students, if only that is done."""
        own, whole = self.folder(stage), self.workdir / stage
        return whole if is_done(whole) and not is_done(own) else own

    def section(self, stage: str) -> str:
        """Option of the stage's section; all rounds of one share it."""
        own = stage in self.recipe.sections
        return f"--config.stages.{stage if own else stage.rpartition('_')[0]}"

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage has finished, with all figures that its section can have."""
        about: dict[str, Any] = {}
        if stage.kind == "evaluate":
            options = stage.options
            about = dict(weights=options.weights or None, fetch=options.fetch)
        return is_done(self.left(stage.name), **about)

    def warn_once(self, line: str) -> None:
        """Logs a line that several stages come to, the first time."""
        if line not in self.said:
            self.said.add(line)
            log.warning("%s", line)

    def seed(self, stage: str, student: int | None = None) -> int:
        """31 bits from the config's seed, the stage's name and the student."""
        name = f"{self.recipe.seed}/{stage}"
        name += "" if student is None else f"/{student}"
        return zlib.crc32(name.encode()) >> 1

    def model(self, source: str, precision: str) -> interop.Model:
        """The result of the stage `source`, or the model at the path `source`.

        It computes in the precision of the stage that asks. A model that is brought is
        sampled as the recipe says, not as its file does: a DDPM's own 1000 steps are
        not what a recipe of DDIM-100 means.
        """
        if source not in {stage.name for stage in self.stages}:
            model = interop.load(source, precision=precision)
            self._check_conditions(source, model)
            spec = build.brought(self.recipe, model.spec)
            if spec != model.spec:
                model = dataclasses.replace(model, spec=spec, frozen=self.frozen)
                model = model.computing_in(precision)
            spec = spec.replace(sampler=self.recipe.spec.sampler)
            return dataclasses.replace(model, spec=spec)
        folder = self.left(source) / "model"
        if not folder.is_dir():
            raise CheckpointError(
                f"stage {source!r} has no model in {folder}; run it first: the same"
                " command without --stage"
            )
        model = interop.load(folder, precision=precision)
        self._check_conditions(source, model)
        return model

    def _check_conditions(self, source: str, model: interop.Model) -> None:
        """Refuses a model of another table: its numbers would ask for something else.

        Raises:
            ConfigError: Names the model.
        """
        given = interop.digest_of_conditions(model.frozen)
        if given not in (None, interop.digest_of_conditions(self.frozen)):
            raise ConfigError(
                f"{source}: was trained with another table of vectors than"
                f" data.conditions={self.recipe.table!r}; give"
                f" that, {interop.CONDITIONS} in the folder of the model"
            )
        for role in interop.NETWORKS_BESIDE:
            if role in model.frozen and role in self.frozen:
                own, other = self.frozen[role], model.frozen[role]
                if not _same(own, other):
                    raise ConfigError(
                        f"{source}: was trained with another {role.replace('_', ' ')}"
                        f" than data.{role}; give that, which lies in its folder"
                    )

    def names_role(self, source: str) -> bool:
        """Whether `source` is "stage/role", of a stage of this recipe."""
        stage, _, role = source.partition("/")
        return bool(role) and "/" not in role and stage in {s.name for s in self.stages}

    def role(self, source: str) -> dict[str, Any]:
        """Params of "stage/role" in that stage's last checkpoint.

        Those of several students have an axis of them.
        """
        stage, _, role = source.partition("/")
        params = training.role(self.left(stage), role)
        if len(jax.tree.leaves(params)[0]) == 1:
            params = jax.tree.map(lambda x: x[0], params)
        return params


def _same(one, other) -> bool:
    """Whether two networks have the same parameters."""
    leaves, others = (
        dict(jax.tree_util.tree_leaves_with_path(x)) for x in (one, other)
    )
    return leaves.keys() == others.keys() and all(
        np.array_equal(leaves[path], others[path]) for path in leaves
    )


def is_done(
    folder: pathlib.Path, weights: str | None = None, fetch: bool = False
) -> bool:
    """Whether a stage has finished, and its mark of that is as it was written.

    One that is damaged is as good as none: the stage is run again, from what it saved.
    So is one that lacks figures whose weights have come since.

    Args:
        folder: Folder of the stage.
        weights: File of a feature network, or None for a public one at its place.
        fetch: Whether a public one may be downloaded.
    """
    if not os.path.isfile(folder / DONE):  # also where no path may be so long
        return False
    try:
        lacks = facts(folder).get(LACKS)
    except CheckpointError as error:
        _tell(str(error))
        return False
    return lacks is None or bool(features.missing(lacks, weights, fetch=fetch))


def finish(folder: pathlib.Path, **facts) -> None:
    """Marks a stage as done, with what is worth knowing of it."""
    sealed.write_json(folder / DONE, facts)


def facts(folder: pathlib.Path) -> dict[str, Any]:
    """What `finish` was told.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    way_out = "the same command, for all stages, runs this one from its last checkpoint"
    return sealed.read_json(folder / DONE, error=CheckpointError, way_out=way_out)


@functools.cache  # once: many ask
def _tell(damage: str) -> None:
    log.error("%s", damage)
