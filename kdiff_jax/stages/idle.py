"""Students of ranges of the time whom a sampler never asks."""

import jax
import numpy as np

from kdiff_jax.diffusion.partition import Partition
from kdiff_jax.samplers import Ranges, Sampler


def evaluations(sampler: Sampler, partition: Partition) -> list[int]:
    """How often an image asks the student of each range, first range first.

    From the sampler's grid: nothing is computed.
    """
    asked = [0] * partition.num_ranges

    def range_of(times):
        found = partition.range_of(times)
        for i in np.asarray(found).tolist():
            asked[i] += 1
        return found

    denoise = Ranges(lambda i: lambda x_t, t, y: x_t, range_of)

    def sample(z, keys):
        return sampler.sample(denoise, z, np.zeros(1, np.int32), keys=keys)

    z = jax.ShapeDtypeStruct((1, 1, 1, 1), np.float32)
    jax.eval_shape(sample, z, jax.random.split(jax.random.key(0), 1))
    return asked


def line(sampler: Sampler, partition: Partition) -> str:
    """A warning about those with nothing to do; "" if all are asked."""
    found = evaluations(sampler, partition)
    if min(found) > 0:
        return ""
    idle = ", ".join(str(i) for i, n in enumerate(found) if not n)
    return (
        f"ranges {idle} of {len(found)} are never asked by {sampler.name} with"
        f" {sampler.nfe} evaluations, which asks them {found} times: their students are"
        " trained in vain; take fewer ranges, more steps or another spacing of either"
    )
