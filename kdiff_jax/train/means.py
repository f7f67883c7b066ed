"""Means of the metrics since the last line of the log, kept on the device."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Means:
    """Sums of every metric and how often it was measured, until they are read.

    Adding never waits for the device: the sums stay there. A value that is not finite
    makes its sum so, and is seen at the next reading, whichever step it came from.
    """

    def __init__(self):
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    def add(self, sums: Mapping[str, Any], num_steps: int) -> None:
        """Adds one dispatch of the device.

        Args:
            sums: Metric -> array, or arrays, of its sum over `num_steps` steps, at
                each of which it was measured.
            num_steps: Their number.
        """
        known = {name: self._sums[name] for name in sums if name in self._sums}
        added = _add(known, {name: sums[name] for name in known}) if known else {}
        self._sums |= {**sums, **added}
        for name in sums:
            self._counts[name] = self._counts.get(name, 0) + num_steps

    def take(self) -> dict[str, Any]:
        """Metric -> mean over its steps since the last call, as NumPy arrays, by name.

        A metric that no step has measured since is absent.
        """
        found, counts = jax.device_get(self._sums), self._counts
        self._sums, self._counts = {}, {}
        return {
            name: jax.tree.map(lambda x, n=counts[name]: np.asarray(x) / n, value)
            for name, value in sorted(found.items())
        }


@jax.jit
def _add(sums, more):
    return jax.tree.map(jnp.add, sums, more)
