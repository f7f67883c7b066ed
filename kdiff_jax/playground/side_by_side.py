"""A student beside its teacher: one image of each from the same noise, timed.

What a demo shows, without the page that shows it.
"""

import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kdiff_jax import prompting, rng
from kdiff_jax import text as texts
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop import Model
from kdiff_jax.interop.checkpoint import located
from kdiff_jax.report import grid
from kdiff_jax.samplers import Sampler
from kdiff_jax.train import generate, parallel

TITLES = "student", "teacher"


class Shown(NamedTuple):
    """One image and what is said of it.

    Attributes:
        title: "student" or "teacher".
        image: uint8[H, W, C].
        milliseconds: Time of the call, from the noise to the pixels on the host.
        num_steps: Evaluations of the network.
        owner: Who of several students has answered, in words; "" of a single one.
    """

    title: str
    image: np.ndarray
    milliseconds: float
    num_steps: int
    owner: str

    def line(self) -> str:
        """What stands below the image."""
        steps = "1 step" if self.num_steps == 1 else f"{self.num_steps} evaluations"
        told = f"{self.title}: {steps}, {self.milliseconds:.3g} ms"
        return f"{told}, {self.owner}" if self.owner else told


class Side:
    """One model, compiled for one image at a time.

    Args:
        title: "student" or "teacher".
        checkpoint: The model, as `interop.load` takes it.
        num_steps: Steps of its sampler; None for its own.
        precision: Type that its network computes in; None for its own.
    """

    def __init__(
        self,
        title: str,
        checkpoint: str | pathlib.Path,
        *,
        num_steps: int | None = None,
        precision: str | None = None,
    ):
        self.title, self._checkpoint = title, pathlib.Path(checkpoint)
        self.model: Model = texts.load_model(checkpoint, precision)
        steps: dict[str, Any] = {} if num_steps is None else {"num_steps": num_steps}
        self.sampler: Sampler = self.model.sampler(**steps)
        mesh = parallel.make_mesh(jax.devices()[:1])
        self._make = generate.of_model(self.model, self.sampler, mesh=mesh, name=title)
        self._of_group = functools.cache(self._placed)

    @property
    def reads_prompts(self) -> bool:
        """Whether it is asked by prompts."""
        return self.model.spec.text is not None

    def asked(self, wanted: int | str) -> Any:
        """What its program reads of a class or a prompt, for one image.

        Raises:
            ConfigError: If there is no such class.
        """
        if self.reads_prompts:
            return prompting.prompts(
                self.model, located(self._checkpoint), [str(wanted)]
            )
        num = self.model.num_classes
        if isinstance(wanted, str) or not 0 <= wanted < max(num, 1):
            raise ConfigError(
                f"class={wanted}: the {self.title} has {num} classes"
                + (f", 0 to {num - 1}" if num else "; leave it out")
            )
        return np.array([wanted], np.int32)

    def show(self, z: np.ndarray, seed: int, wanted: int | str) -> Shown:
        """The image that starts from z, f32[1, H, W, C].

        Args:
            z: Noise.
            seed: Seed of what a stochastic sampler draws besides.
            wanted: A class, 0 without classes, or a prompt.

        Raises:
            ConfigError: If there is no such class.
        """
        y, groups = self._make.owned(self.asked(wanted))
        group = int(groups[0])
        params, frozen = self._of_group(group), self._make.placed
        keys = generate.noise(
            rng.checked_seed(seed), np.zeros(1, np.int32), z.shape[1:], "sample"
        )[1]
        arguments = (params, frozen, z, keys, y)
        jax.block_until_ready((params, frozen, keys))
        began = time.perf_counter()
        image = np.asarray(self._program(*arguments))[0]
        milliseconds = 1000 * (time.perf_counter() - began)
        nfe, owner = self.sampler.nfe, self.owner(group)
        return Shown(self.title, image, milliseconds, nfe, owner)

    @functools.cached_property
    def _program(self):
        @jax.jit
        def program(params, frozen, z, keys, y):
            x0 = self._make.sampled(params, frozen, z, keys, y)
            return self.model.net.space.to_pixels(frozen, x0)

        return program

    def _placed(self, group: int):
        return self._make.of_group(self.model.students, group)

    def owner(self, group: int) -> str:
        """Who answers for a group of students, in words; "" of a single one."""
        partition = self.model.partition
        if partition.num_students == 1:
            return ""
        first, num = group * partition.num_ranges, partition.num_ranges
        who = f"student {first}"
        if num > 1:
            who = f"students {first} to {first + num - 1}, one range of time each,"
        owns = ""
        if partition.groups:
            classes = ", ".join(map(str, partition.groups[group][:8]))
            more = ", ..." if len(partition.groups[group]) > 8 else ""
            owns = f" (classes {classes}{more})"
        return f"{who} of {partition.num_students}{owns}"


class Sides:
    """A student and, if there is one, its teacher.

    Args:
        student: The student.
        teacher: The teacher, or None.

    Raises:
        ConfigError: If they do not make images of one kind from one noise.
    """

    def __init__(self, student: Side, teacher: Side | None = None):
        self.sides = (student,) if teacher is None else (student, teacher)
        self.student = student
        *_, channels = shape = student.model.net.space.pixel_shape
        if channels not in (1, 3) and shape != (1, 1, 2):
            raise ConfigError(
                f"--checkpoint: images of {channels} channels are no pictures; take"
                " kdiff_jax.sample --output=FILE.npz"
            )
        for side in self.sides[1:]:
            for what in ("image_shape", "num_classes"):
                own, other = (getattr(s.model.net, what) for s in (student, side))
                if own != other:
                    raise ConfigError(
                        f"--teacher: its {what} is {other}, and the student's {own};"
                        " name the teacher of this student, or leave it out"
                    )
            if student.reads_prompts != side.reads_prompts:
                raise ConfigError(
                    "--teacher: one of both reads prompts, and one does not; name the"
                    " teacher of this student, or leave it out"
                )

    def warm_up(self) -> None:
        """Compiles both, so that no time that is shown holds a compilation."""
        self.show("" if self.student.reads_prompts else 0, seed=0)

    def show(
        self,
        wanted: int | str,
        *,
        seed: int,
        other_seed: int | None = None,
        mix: float = 0.0,
    ) -> list[Shown]:
        """The same noise through each.

        Args:
            wanted: A class, 0 without classes, or a prompt.
            seed: Seed of the noise: that of `sample --seed`, image 0.
            other_seed: Seed at the other end of an interpolation; None for none.
            mix: Place between both, in [0, 1].

        Raises:
            ConfigError: If there is no such class, seed or place.
        """
        if not 0 <= mix <= 1:
            raise ConfigError(f"mix={mix}: must be in [0, 1]")
        z = self._noise(seed)
        if other_seed is not None and mix:
            z = spherical(z, self._noise(other_seed), mix)
        return [side.show(z, seed, wanted) for side in self.sides]

    def _noise(self, seed: int) -> np.ndarray:
        shape = tuple(self.student.model.net.image_shape)
        root, first = rng.checked_seed(seed), np.zeros(1, np.int32)
        return np.asarray(generate.noise(root, first, shape, "sample")[0])


def spherical(a: np.ndarray, b: np.ndarray, mix: float) -> np.ndarray:
    """Spherical interpolation: a at 0, b at 1, and noise of the same length between.

    Along a straight line the noise in the middle would be too weak by sqrt(2), which a
    denoiser has never seen.

    Args:
        a: f32[...].
        b: Array of the same shape.
        mix: Place between them, in [0, 1].
    """
    flat = [x.astype(np.float64).ravel() for x in (a, b)]
    norms = [max(float(np.linalg.norm(x)), 1e-12) for x in flat]
    cosine = np.clip(flat[0] @ flat[1] / (norms[0] * norms[1]), -1.0, 1.0)
    angle = float(np.arccos(cosine))
    if np.sin(angle) < 1e-6:  # the same direction, or none
        shares = 1 - mix, mix
    else:
        shares = (np.sin((1 - mix) * angle), np.sin(mix * angle)) / np.sin(angle)
    return (shares[0] * flat[0] + shares[1] * flat[1]).reshape(a.shape).astype(a.dtype)


def picture(image: np.ndarray, side: int = 256) -> np.ndarray:
    """uint8[h, w, 3], whose smaller side has `side` pixels at least, by repeating them.

    Points of the plane are drawn as dots.
    """
    scale = -(-side // min(image.shape[:2]))
    found = grid.image_grid(image[None], num_cols=1, pad=0, scale=scale)
    return found if found.shape[-1] == 3 else np.repeat(found, 3, axis=-1)


def lines(shown: Sequence[Shown]) -> list[str]:
    """What stands below each image; the last says how much faster the student is."""
    told = [one.line() for one in shown]
    if len(shown) == 2 and shown[0].milliseconds > 0:
        factor = shown[1].milliseconds / shown[0].milliseconds
        told[-1] += f" ({factor:.3g} times the student's)"
    return told
