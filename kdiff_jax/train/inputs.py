"""From what the host sends to what the methods read, on the device.

Small sets stay on the device as uint8 and the host sends indices; large ones are sent
as uint8 batches. Flips and augmentation happen here.
"""

import jax.numpy as jnp

from kdiff_jax import domain
from kdiff_jax.augment import geometry
from kdiff_jax.types import Batch, Keys


def make(
    *,
    space: domain.Space | None = None,
    conditions: domain.Conditions | None = None,
    flip: bool = False,
    augment_prob: float = 0.0,
):
    """Returns (frozen, batch, keys) -> batch.

    Args:
        space: Where x0 lives; None for pixels.
        conditions: Those that the numbers `y` of a batch are of; None for labels.
        flip: Random horizontal flips with probability 1/2.
        augment_prob: Probability of each transform of EDM's non-leaking augmentation; 0
            turns it off.
    """

    space = space or domain.pixel_space(())
    conditions = conditions or domain.Conditions(0)

    def inputs(frozen, batch, keys: Keys) -> Batch:
        batch = dict(batch)
        if "index" in batch:
            index, data = batch.pop("index"), frozen["data"]
            batch |= {name: array[index] for name, array in data.items()}
        if flip:  # of the image, whatever it is made into
            batch["x0"] = geometry.random_flip(batch["x0"], keys)
        batch["x0"] = space.to_x0(frozen, batch["x0"], keys)
        if "y" in batch:
            batch["y"] = conditions.take(frozen, batch["y"])
        if "z" in batch:
            batch["z"] = batch["z"].astype(jnp.float32)
        if augment_prob:
            batch["x0"], batch["augment"] = geometry.augment(
                # EDM's runs flip left-right with probability 1/2, whatever the rest.
                batch["x0"],
                keys,
                augment_prob,
                xflip_prob=1.0,
            )
        return batch

    return inputs
