"""Detects students whose time range a sampler never evaluates."""

import numpy as np

from kdiff_jax import samplers
from kdiff_jax.partition import Partition
from kdiff_jax.samplers import Sampler


def evaluations(sampler: Sampler, partition: Partition) -> list[int]:
    """How often an image asks the student of each range, first range first.

    From the sampler's grid: nothing is computed.
    """
    asked = np.asarray(partition.range_of(samplers.asked_times(sampler)))
    return np.bincount(asked, minlength=partition.num_ranges).tolist()


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
