"""How papers measure text to image on COCO-2014's validation images, by name.

Figures of two protocols are figures of two quantities. What is said here is read in the
authors' code (DMD2's `coco_eval` of 2024, BK-SDM's `src` of 2023).
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from kdiff_jax import registry
from kdiff_jax.data import folder
from kdiff_jax.data.encoded import Look
from kdiff_jax.data.images import Images
from kdiff_jax.data.resize import Resampling, as_jpeg, to_array
from kdiff_jax.named import Named, frozen

THREADS = 8


class Protocol(NamedTuple):
    """A way to measure.

    Attributes:
        name: Its name.
        look: What is done to real images and to made ones.
        jpeg: Quality of the JPEG that made images are kept as before that; None for
            none.
        preprocessing: What Inception's images go through.
        sampler: Sampler of models with several steps; None for each its own.
        prefix: What a prompt begins with for the CLIP score.
        clip: The CLIP that scores.
        features: Feature network of the distance.
        metrics: What is measured; the CLIP score where there is a CLIP.
        num_images: Number of images, and of prompts.
    """

    name: str
    look: Look
    jpeg: int | None
    preprocessing: str
    sampler: Named | None
    prefix: str
    clip: str
    features: str = "inception"
    metrics: tuple[str, ...] = ("fd", "inception_score")
    num_images: int = 30_000

    def prepare(
        self, images: UInt8[np.ndarray, "N H W 3"]
    ) -> UInt8[np.ndarray, "N h w 3"]:
        """Made images as they are measured."""

        def one(array):
            picture = Image.fromarray(array)
            picture = picture if self.jpeg is None else as_jpeg(picture, self.jpeg)
            return to_array(picture, where="image", **self.look._asdict())

        with ThreadPoolExecutor(THREADS) as pool:
            return np.stack(list(pool.map(one, images)))

    def shape(self) -> tuple[int, int, int]:
        """(h, w, C) of images as they are measured."""
        side = self.look.size
        assert side is not None, "a protocol says the size"
        return side, side, 3

    def real(self, path: str) -> Images:
        """The images of a folder as they are compared with."""
        return folder.read(path, self.look)

    def of_row(self, used: Mapping[str, Any]) -> dict[str, Any]:
        """The name, and what was chosen otherwise: features, metrics, num_images, ...

        Args:
            used: Values by the names of attributes.
        """
        changed = {k: v for k, v in used.items() if v != getattr(self, k)}
        return {"name": self.name, "changed": changed}


_SQUARE: dict[str, Any] = dict(size=256, channels=3)
# Of Stable Diffusion's folder: its own time steps, and its own end.
PNDM = dict(
    num_steps=25,
    guidance=7.5,
    spacing="leading",
    offset=1,
    even=True,
    end_at_data=False,
)
PROTOCOLS = {
    one.name: one
    for one in (
        Protocol(
            "coco_dmd2",
            # torchvision's centred square, Lanczos, and clean-fid's resize of that.
            Look(**_SQUARE, fit="crop_torch", resample=Resampling.LANCZOS),
            jpeg=None,
            preprocessing="clean-fid",
            sampler=None,
            prefix="A photo depicts ",
            clip="ViT-g-14 laion2b_s12b_b42k",
        ),
        Protocol(
            "coco_bksdm",
            # Pillow's default filter, without a crop; files are .jpg on the way.
            Look(**_SQUARE, fit="squash", resample=Resampling.BICUBIC, jpeg=75),
            jpeg=75,
            preprocessing="pytorch-fid",
            sampler=Named("pndm", frozen(PNDM)),
            prefix="",
            clip="ViT-g-14 laion2b_s34b_b88k",
        ),
    )
}


def make(name: str) -> Protocol:
    """The protocol `name`.

    Raises:
        ConfigError: If there is none.
    """
    return registry.entry(PROTOCOLS, name, what="protocol")
