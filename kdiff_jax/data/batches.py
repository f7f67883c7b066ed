"""Batches as pure functions of (seed, step, place in the global batch).

No iterator has a state worth saving: a run that starts again at step k, or goes on with
another number of hosts, sees the same stream.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int

from kdiff_jax.errors import ConfigError


@runtime_checkable
class Source(Protocol):
    """What a batch can be made of: `Images`, `Pairs`."""

    @property
    def num(self) -> int: ...

    @property
    def labels(self) -> np.ndarray: ...

    def batch(self, indices) -> dict[str, np.ndarray]: ...


def permutation(seed: int, epoch: int, num: int) -> Int[np.ndarray, " num"]:
    """The order of an epoch: a uniform permutation of 0 .. num-1.

    RandomState and SeedSequence are frozen: NumPy promises that they give the same
    numbers in every release. A million places take 30 ms and 8 MB.
    """
    # Grain's shuffle of single places needs no memory, but was 50 times slower, and
    # holds Python's lock meanwhile.
    bits = np.random.MT19937(np.random.SeedSequence((seed, epoch)))
    return np.random.RandomState(bits).permutation(num).astype(np.int64)


def one_of(num_views: int) -> Callable[[int, int, int], Int[np.ndarray, " num"]]:
    """(seed, epoch, num) -> the view that is seen at each place of the epoch.

    Drawn independently of the order; in its place for `order`.
    """

    def views(seed: int, epoch: int, num: int) -> Int[np.ndarray, " num"]:
        bits = np.random.MT19937(np.random.SeedSequence((seed, epoch, num_views)))
        return np.random.RandomState(bits).randint(num_views, size=num, dtype=np.int64)

    return views


def order(
    seed: int,
    positions: Int[np.ndarray, " n"],
    num: int,
    *,
    permutation: Callable[[int, int, int], np.ndarray] = permutation,
) -> Int[np.ndarray, " n"]:
    """Which example stands at each position of the endless stream.

    epoch = position // num; index = permutation(seed, epoch, num)[position % num]

    Args:
        seed: Seed of the order; at least 0.
        positions: step * batch_size + place in the global batch.
        num: Examples in the set.
        permutation: The function above, or itself with a memory.
    """
    epochs, places = np.divmod(positions, num)
    found = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        found[here] = permutation(seed, epoch, num)[places[here]]
    return found


class Batches:
    """This host's batch of each step, by random access: `batches[step]`.

    A batch is what `source.batch` gives, for images {"x0": uint8[b, H, W, C],
    "y": int32[b]}, with b = batch_size / num_hosts.
    """

    def __init__(
        self,
        source: Source,
        *,
        seed: int,
        batch_size: int,
        num_hosts: int = 1,
        host: int = 0,
        labels: Sequence[int] | None = None,
    ):
        """Batches of `source`.

        Args:
            seed: Seed of the order; at least 0.
            batch_size: Global batch size, over all hosts.
            num_hosts: Processes that share a global batch.
            host: Index of this process, from 0; it gets the examples
                host * b .. (host + 1) * b - 1 of each global batch.
            labels: Only examples with one of these labels; None takes all.

        Raises:
            ConfigError: If seed, batch_size or labels do not fit.
            ValueError: If there is no such host.
        """
        if seed < 0:
            raise ConfigError(f"seed={seed}: must be at least 0")
        if batch_size < 1 or batch_size % num_hosts:
            raise ConfigError(
                f"batch_size={batch_size}: must be a positive multiple of"
                f" num_hosts={num_hosts}; choose one"
            )
        if not 0 <= host < num_hosts:
            raise ValueError(f"host={host}: must be in 0 .. {num_hosts - 1}")
        self._chosen = None
        if labels is not None:
            self._chosen = np.flatnonzero(np.isin(source.labels, np.asarray(labels)))
            if not len(self._chosen):
                raise ConfigError(
                    f"labels={list(labels)}: no example has such a label;"
                    f" the set has labels up to {source.labels.max()}"
                )
        self._source, self._seed, self._batch_size = source, seed, batch_size
        per_host = batch_size // num_hosts
        # Two epochs: a batch may straddle their border, and threads be on either side.
        self._permutation = functools.lru_cache(maxsize=2)(permutation)
        num_views = getattr(source, "num_views", 1)
        self._views = None
        if num_views > 1:
            self._views = functools.lru_cache(maxsize=2)(one_of(num_views))
        self._places = np.arange(host * per_host, (host + 1) * per_host)

    def indices(self, step: int) -> Int[np.ndarray, " b"]:
        """int32[b]: which examples of the whole set this host's batch is made of.

        View k of example i, of a source with `num_views`, is k * num + i.
        """
        positions = np.int64(step) * self._batch_size + self._places
        num = self._source.num if self._chosen is None else len(self._chosen)
        found = order(self._seed, positions, num, permutation=self._permutation)
        if self._chosen is not None:
            found = self._chosen[found]
        if self._views is not None:
            views = order(self._seed, positions, num, permutation=self._views)
            found = views * self._source.num + found
        return found.astype(np.int32)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self._source.batch(self.indices(step).astype(np.int64))

    def __len__(self) -> int:
        return 2**62  # endless, as far as Grain is concerned


def on_device(source: Source) -> dict[str, np.ndarray] | None:
    """What of a small set is kept on the device, for `Indices`; None of a large one."""
    if (images := getattr(source, "in_memory", None)) is None:
        return None
    labels = np.tile(source.labels, getattr(source, "num_views", 1))
    return {"x0": images, "y": labels}


class Indices:
    """Sends the places of the examples, where the set itself is on the device."""

    def __init__(self, batches: Batches):
        self._batches = batches

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return {"index": self._batches.indices(step)}

    def __len__(self) -> int:
        return len(self._batches)


def iterate(
    batches: Any, *, start_step: int = 0, prefetch: int = 2, threads: int | None = None
) -> grain.DatasetIterator:
    """`batches[start_step]`, `batches[start_step + 1]`, ..., read ahead by threads.

    Args:
        batches: `Batches`, or anything with their `__getitem__(step)`.
        start_step: Where a resumed run goes on.
        prefetch: Batches that are kept ready; 0 reads in the caller's own thread.
        threads: That read at once, a batch each; None takes one per core, at most 16.

    Returns:
        An iterator; call its `close()` when done.
    """
    # Threads, not processes: for whole batches, processes were slower in every case.
    threads = min(16, os.cpu_count() or 1) if threads is None else threads
    options = grain.ReadOptions(
        num_threads=threads if prefetch else 0,
        prefetch_buffer_size=max(prefetch, threads) if prefetch else 0,
    )
    dataset = grain.MapDataset.source(batches)[start_step:]
    return iter(dataset.to_iter_dataset(options))
