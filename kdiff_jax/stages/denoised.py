"""What a teacher and a fake score see in the images of a student, while it trains.

Methods of distribution matching move a student's images by the difference of the two:
where both show the same, there is nothing left to move.
"""

import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kdiff_jax import denoiser, interop
from kdiff_jax.build import TrainStage
from kdiff_jax.diffusion import grids
from kdiff_jax.diffusion.process import Process
from kdiff_jax.method import Method, Net
from kdiff_jax.report import grid
from kdiff_jax.stages import Job
from kdiff_jax.stages.hooks import Log
from kdiff_jax.stages.roles import Roles
from kdiff_jax.stages.students import Students
from kdiff_jax.train import generate, watchdog

NUM, SEED = 10, 0
NUM_TIMES = 3  # the inner ones of a grid of so many steps and one more
TEACHER, FAKE = "teacher", "fake_score"
FOLDER = "denoised"  # in the folder of a stage's samples


class Denoised:
    """Images that the teacher and the fake score see in noised images of the student.

    As `<step>.png`, from the same noise at every step. Pixels go into the networks'
    space as data does; nothing of the training reads what is made here.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        seers: Mapping[str, "Seer"],
        process: Process,
        times: np.ndarray,
        log: Log,
    ):
        """See `of_stage`.

        Args:
            folder: Folder of the pictures.
            seers: Title -> who sees.
            process: The forward process.
            times: f64[T], times that images are noised to.
            log: The stage's log.
        """
        self._folder, self._seers, self._log = folder, seers, log
        self._process, self._times = process, times

    def __call__(self, step: int, state, images: np.ndarray, labels: np.ndarray):
        """Writes the picture of a step.

        Args:
            step: The step.
            state: State of the training.
            images: uint8[N, H, W, C], images of the student.
            labels: i32[N], their labels.
        """
        images, labels = images[:NUM], labels[:NUM]
        rows = [("student", images)]
        for t in self._times:
            noise = float(self._process.sigma(t) / self._process.alpha(t))
            for title, seer in self._seers.items():
                seen = seer.images(state, images, labels, t)
                rows.append((f"{title}, noise {noise:.2g}", seen))
        if jax.process_index() == 0:
            picture = grid.side_by_side(rows)
            grid.save_png(self._folder / f"{step}.png", picture)
            self._log.image(step, FOLDER, picture)


class Seer(NamedTuple):
    """A network that denoises, and the weights that it does it with.

    Attributes:
        params: State -> its weights.
        own: Whether they have an axis of students.
        program: See `_program`.
        make: The students' generator, whose groups, devices and frozen arrays count.
        batch_size: Images a call.
    """

    params: Callable[[Any], Any]
    own: bool
    program: Callable[..., Any]
    make: generate.Generator
    batch_size: int

    def images(self, state, images, labels, t: float) -> np.ndarray:
        """uint8[N, H, W, C]: x0_hat of images that were noised to a time."""
        make, seen = self.make, np.empty_like(images)
        groups = np.asarray(make.partition.group_of(labels))
        size = -(-self.batch_size // make.mesh.size) * make.mesh.size
        for group in np.unique(groups).tolist():
            owned, params = np.flatnonzero(groups == group), self.params(state)
            if self.own:
                params = make.of_group(params, group)
            for start in range(0, len(owned), size):
                places = owned[start : start + size]
                padded = np.resize(places, size)
                asked = images[padded], labels[padded], padded.astype(np.int32)
                times = np.full(size, t, np.float32)
                with watchdog.program("the denoiser"), make.within_memory(size):
                    found = self.program(params, make.placed, *asked, times)
                    seen[places] = np.asarray(found)[: len(places)]
        return seen


def of_stage(
    job: Job,
    stage: TrainStage,
    method: Method,
    roles: Roles,
    students: Students,
    frozen: Mapping[str, Any],
    own: Collection[str],
    log: Log,
) -> Denoised | None:
    """The pictures of a stage; None where no fake score learns the student's images.

    Args:
        job: The job.
        stage: The stage.
        method: Its method.
        roles: Its roles.
        students: Its students.
        frozen: What the step reads beside the state, on the devices, by role.
        own: Frozen roles that have an axis of students.
        log: The stage's log.
    """
    if FAKE not in method.nets or TEACHER not in frozen:
        return None
    net, process = method.nets[FAKE], roles.process
    scale = 1.0 if stage.guidance is None else stage.guidance
    guided = denoiser.guided(net, process, scale, stage.guidance_interval)
    make = generate.Generator(
        net,
        interop.sampler_of(roles.spec, process),  # of which nothing is asked
        students.mesh,
        students.owners,
        frozen=job.frozen,
        name=f"stage {stage.name!r}",
        batch_option=f"{job.section(stage.name)}.train.batch_size",
    )
    fake = _program(net, process, students.mesh)
    program = fake if guided is net else _program(guided, process, students.mesh)
    size = min(NUM, stage.train.batch_size)
    seers = {
        "teacher": Seer(lambda _: frozen[TEACHER], TEACHER in own, program, make, size),
        "fake score": Seer(
            lambda state: state.nets[FAKE].params, True, fake, make, size
        ),
    }
    times = grids.make(process, NUM_TIMES + 1, spacing=stage.spacing)[1:-1]
    folder = job.folder(stage.name) / "samples" / FOLDER
    return Denoised(folder, seers, process, times, log)


def _program(net: Net, process: Process, mesh: Mesh) -> Callable[..., Any]:
    """(params, frozen, uint8[B, H, W, C], y, positions, t) -> x0_hat as such pixels.

    The noise of an image is that of its position alone.
    """
    split = NamedSharding(mesh, P(mesh.axis_names))
    everywhere = NamedSharding(mesh, P())

    @jax.jit
    def denoised(params, frozen, images, y, positions, t):
        images = jax.lax.with_sharding_constraint(images, split)
        x0 = net.space.from_data(frozen, images)
        eps, _ = generate.noise(SEED, positions, net.image_shape, FOLDER)
        x_t = process.add_noise(x0, eps, t)
        x0_hat = net.apply(params, x_t, t, net.conditions.take(frozen, y))
        found = net.space.to_pixels(frozen, x0_hat)
        return jax.lax.with_sharding_constraint(found, everywhere)

    return denoised
