"""Batches as pure functions of (seed, step, place in the global batch).

No iterator has a state worth saving: a run that starts again at step k, or goes on with
another number of hosts, sees the same stream.
"""

import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from grain.experimental import index_shuffle
from jaxtyping import Int


@runtime_checkable
class Source(Protocol):
    """What a batch can be made of: `Images`, `Pairs`."""

    @property
    def num(self) -> int: ...

    @property
    def labels(self) -> np.ndarray: ...

    def batch(self, indices) -> dict[str, np.ndarray]: ...


def order(
    seed: int, positions: Int[np.ndarray, " n"], num: int
) -> Int[np.ndarray, " n"]:
    """Which example stands at each position of the endless stream.

    epoch = position // num; index = shuffle_(seed, epoch)(position % num), which is a
    permutation of 0 .. num-1 in every epoch, computed for one place at a time.

    Args:
        seed: At least 0.
        positions: step * batch_size + place in the global batch.
        num: Examples in the set.
    """
    epochs, places = np.divmod(positions, num)
    keys = {epoch: _key(seed, epoch) for epoch in np.unique(epochs).tolist()}
    return np.array(
        [
            # 4 rounds are what Grain's own shuffle uses.
            index_shuffle(place, num - 1, keys[epoch], 4)
            for place, epoch in zip(places.tolist(), epochs.tolist(), strict=True)
        ],
        np.int64,
    )


def _key(seed: int, epoch: int) -> int:
    """32 bits; NumPy promises that SeedSequence never changes."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


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
            seed: Of the order; at least 0.
            batch_size: Of the global batch, over all hosts.
            num_hosts: Processes that share a global batch.
            host: Which of them this is, from 0; it gets the examples
                host * b .. (host + 1) * b - 1 of each global batch.
            labels: Only examples with one of these labels; None takes all.

        Raises:
            ValueError: If a number is out of range, or no example has such a label.
        """
        if seed < 0:
            raise ValueError(f"seed={seed}: must be at least 0")
        if batch_size < 1 or batch_size % num_hosts:
            raise ValueError(
                f"batch_size={batch_size}: must be a positive multiple of"
                f" num_hosts={num_hosts}; choose one"
            )
        if not 0 <= host < num_hosts:
            raise ValueError(f"host={host}: must be in 0 .. {num_hosts - 1}")
        self._chosen = None
        if labels is not None:
            self._chosen = np.flatnonzero(np.isin(source.labels, np.asarray(labels)))
            if not len(self._chosen):
                raise ValueError(
                    f"labels={list(labels)}: no example has such a label;"
                    f" the set has labels up to {source.labels.max()}"
                )
        self._source, self._seed, self._batch_size = source, seed, batch_size
        per_host = batch_size // num_hosts
        self._places = np.arange(host * per_host, (host + 1) * per_host)

    def indices(self, step: int) -> Int[np.ndarray, " b"]:
        """int32[b]: which examples of the whole set this host's batch is made of."""
        positions = np.int64(step) * self._batch_size + self._places
        if self._chosen is None:
            found = order(self._seed, positions, self._source.num)
        else:
            found = self._chosen[order(self._seed, positions, len(self._chosen))]
        return found.astype(np.int32)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self._source.batch(self.indices(step).astype(np.int64))

    def __len__(self) -> int:
        return 2**62  # endless, as far as Grain is concerned


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
