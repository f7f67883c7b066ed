"""What an autoencoder makes of images: pictures beside the originals, and figures."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kdiff_jax import pixels
from kdiff_jax.data.images import Images
from kdiff_jax.losses import gaussian
from kdiff_jax.method import Net
from kdiff_jax.report import grid
from kdiff_jax.stages.hooks import Log
from kdiff_jax.train import watchdog

NAME = "reconstructions.png"
SHOWN = 20  # images of a picture
BATCH = 64  # images that all devices take at once, or a few more
FLOOR = 1e-10  # of a mean square error, whose PSNR is then 100 dB


class Seen(NamedTuple):
    """What some images became; every array has an axis of images.

    Attributes:
        images: uint8[B, H, W, C], reconstructions from the mean of the latents.
        l1: Mean absolute error of images in [-1, 1].
        psnr: Peak signal-to-noise ratio of the bytes, in dB.
        kl: Divergence of the latents from a normal distribution, in nats.
        first: Mean of the latents over the entries of an image.
        second: Mean of their squares, the Gaussian's variance included.
    """

    images: Any
    l1: Any
    psnr: Any
    kl: Any
    first: Any
    second: Any

    def errors(self) -> dict[str, float]:
        """Means over the images."""
        named = {"l1": self.l1, "psnr": self.psnr, "kl": self.kl}
        return {name: float(np.mean(x, dtype=np.float64)) for name, x in named.items()}

    def std(self) -> float:
        """Standard deviation of all latents, drawn from their Gaussians."""
        first, second = (np.mean(x, dtype=np.float64) for x in self[-2:])
        return float(np.sqrt(second - first**2))


class Reconstructor:
    """Images through an autoencoder, on all devices.

    Args:
        net: The autoencoder, see `encoders.trained.net`.
        mesh: The devices.
    """

    def __init__(self, net: Net, mesh: Mesh) -> None:
        encode = net.encode
        assert encode is not None, "an autoencoder has an encoder"
        self._size = -(-BATCH // mesh.size) * mesh.size
        self._split = NamedSharding(mesh, P(mesh.axis_names))
        whole = NamedSharding(mesh, P())

        def run(params, raw) -> Seen:
            params = jax.tree.map(lambda x: x[0], params)
            x0 = pixels.to_float(raw)
            mean, logvar = encode(params, x0)
            x0_hat = net.apply(params, mean)
            made = pixels.to_uint8(x0_hat)
            error = (made.astype(jnp.float32) - raw.astype(jnp.float32)) / 255
            inner = tuple(range(1, raw.ndim))
            return Seen(
                made,
                jnp.abs(x0_hat - x0).mean(inner),
                -10 * jnp.log10(jnp.maximum((error**2).mean(inner), FLOOR)),
                gaussian.kl_to_normal_per_example(mean, logvar),
                mean.mean(inner),
                (mean**2 + jnp.exp(logvar)).mean(inner),
            )

        self._run = jax.jit(run, out_shardings=whole)

    def parts(self, params, images: Images, places) -> Iterator[Seen]:
        """What becomes of the images at these places, a batch at a time.

        Args:
            params: Parameters with a leading axis of one student.
            images: The set.
            places: i64[N].
        """
        for start in range(0, len(places), self._size):
            here = places[start : start + self._size]
            full = np.resize(here, self._size)  # one program for all batches
            raw = images.read(full)
            put = jax.make_array_from_callback
            x = put(raw.shape, self._split, lambda place, raw=raw: raw[place])
            found = self._run(params, x)
            yield Seen(*(np.asarray(one)[: len(here)] for one in found))
            watchdog.beat()

    def __call__(self, params, images: Images, places) -> Seen:
        """The same of all of them together."""
        return joined(list(self.parts(params, images, places)))


def joined(parts: Sequence[Seen]) -> Seen:
    """Several batches as one."""
    return Seen(*(np.concatenate(one) for one in zip(*parts, strict=True)))


class Shown:
    """The hook: reconstructions of held-out images as a picture, and their errors.

    Args:
        folder: Folder of the stage.
        made: What makes them.
        held_out: The images.
        params_of: (state) -> parameters that are looked at.
        log: The stage's log, whose next line has the errors.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        made: Reconstructor,
        held_out: Images,
        params_of,
        log: Log,
    ) -> None:
        self._folder, self._made, self._held_out = folder, made, held_out
        self._params_of, self._log = params_of, log

    def __call__(self, step, state) -> None:
        places = np.arange(self._held_out.num)
        seen = self._made(self._params_of(state), self._held_out, places)
        errors = seen.errors()
        self._log.add(**{f"held_out/{name}": x for name, x in errors.items()})
        rows = [
            ("originals", self._held_out.read(places[:SHOWN])),
            (f"step {step}", seen.images[:SHOWN]),
        ]
        picture = grid.side_by_side(rows)
        if jax.process_index() == 0:
            grid.save_png(self._folder / NAME, picture)
            grid.save_png(self._folder / "samples" / f"{step}.png", picture)
        self._log.image(step, "reconstructions", picture)
