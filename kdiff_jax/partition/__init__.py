"""Many students of one teacher: who owns which classes, and which times.

A partition splits the classes into groups, the time into ranges, or both; every pair of
a label and a time belongs to exactly one student.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import registry
from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.partition import clusters
from kdiff_jax.partition.clusters import Centers, MedianSplits

RULES = ("consecutive", "random", "kmeans", "pca", "table")
SPACINGS = ("even", "logsnr")


class Partition(NamedTuple):
    """Student k = group * num_ranges + range; `Partition()` is one, who owns all.

    Attributes:
        groups: The labels of each group, ascending; () where classes are not split.
        borders: R + 1 increasing times of the process; () where time is not split.
            Range i owns borders[i] < t <= borders[i + 1]; the first and the last also
            what lies beyond the ends. The inner ones are float32 numbers: in float32
            networks are asked, and a time on a border must not depend on who asks.
        splits: What routes vectors that no class has, such as embeddings of prompts:
            the median splits of the rule "pca", the centres of "kmeans"; None by other
            rules.

    Examples:
        Four students: two groups of two classes, and two ranges of the time.

        >>> import numpy as np
        >>> from kdiff_jax.diffusion.process import cosine
        >>> from kdiff_jax.partition import Partition
        >>> found = Partition(groups=((0, 3), (1, 2)), borders=(0.0, 0.5, 1.0))
        >>> print(found.table())
        student 0: 2 classes: 0, 3; 0 <= t <= 0.5
        student 1: 2 classes: 0, 3; 0.5 < t <= 1
        student 2: 2 classes: 1-2; 0 <= t <= 0.5
        student 3: 2 classes: 1-2; 0.5 < t <= 1
        >>> y, t = np.int32([3, 1]), np.float32([0.2, 0.9])
        >>> found.group_of(y).tolist(), found.range_of(t).tolist()
        ([0, 1], [0, 1])
        >>> found.owner(t, y).tolist()
        [0, 3]
        >>> found.labels(2, num_classes=4).tolist(), found.t_range(2, cosine())
        ([1, 2], (0.0, 0.5))
        >>> Partition.from_spec(found.to_spec()) == found
        True
    """

    groups: tuple[tuple[int, ...], ...] = ()
    borders: tuple[float, ...] = ()
    splits: MedianSplits | Centers | None = None

    @property
    def num_groups(self) -> int:
        return max(len(self.groups), 1)

    @property
    def num_ranges(self) -> int:
        return max(len(self.borders) - 1, 1)

    @property
    def num_students(self) -> int:
        """Number of groups times number of ranges."""
        return self.num_groups * self.num_ranges

    def group_of(self, y):
        """i32 of y's shape: the group of each label.

        Args:
            y: Labels, integers of any shape; of NumPy or JAX, traced too.
        """
        xp = jnp if isinstance(y, jax.Array) else np
        if not self.groups:
            return xp.zeros(np.shape(y), np.int32)
        owners = np.empty(sum(map(len, self.groups)), np.int32)
        for group, labels in enumerate(self.groups):
            owners[list(labels)] = group
        return xp.asarray(owners)[y]

    def group_of_vectors(self, vectors) -> np.ndarray:
        """i32[N], the group of each vector.

        Args:
            vectors: f32[N, D], of the encoder whose embeddings the groups were made by.

        Raises:
            ConfigError: If the groups are not split by vectors, or those have another
                D.

        Examples:
            >>> import numpy as np
            >>> from kdiff_jax import partition
            >>> from kdiff_jax.diffusion.process import cosine
            >>> rows = np.float32([[0, 0], [0, 1], [9, 0], [9, 1]])  # of the classes
            >>> options = dict(num_groups=2, rule="pca", embeddings=rows)
            >>> found = partition.make(process=cosine(), num_classes=4, **options)
            >>> near_class_0 = np.float32([[1, 2]])
            >>> found.group_of_vectors(near_class_0) == found.group_of(np.int32([0]))
            array([ True])
        """
        if self.splits is None:
            raise ConfigError(
                "group_of_vectors: this partition routes labels alone, and those by"
                " rule='pca' and rule='kmeans' vectors too; ask for rows of its table,"
                " or one student alone (--student=K, Model.student(k))"
            )
        return self.splits.group_of(vectors)

    def range_of(self, t):
        """i32 of t's shape: the range of each time.

        Args:
            t: Times of the process, floats of any shape; of NumPy or JAX, traced too.
        """
        xp = jnp if isinstance(t, jax.Array) else np
        inner = xp.asarray(self.borders[1:-1], np.float32)
        t = xp.asarray(t, np.float32)
        return xp.searchsorted(inner, t, side="left").astype(np.int32)

    def owner(self, t, y):
        """i32[B], the student of each pair of a time and a label.

        Args:
            t: f32[B], times of the process.
            y: i32[B], labels; may be None if only time is split.
        """
        if y is None and not self.groups:
            return self.range_of(t)
        return self.group_of(y) * self.num_ranges + self.range_of(t)

    def labels(self, k: int, num_classes: int) -> np.ndarray:
        """i32[n], the labels that student k may be asked for; [0] without classes.

        Args:
            k: Number of the student.
            num_classes: Number of classes of the model; 0 if unconditional.
        """
        if not self.groups:
            return np.arange(max(num_classes, 1), dtype=np.int32)
        return np.array(self.groups[k // self.num_ranges], np.int32)

    def t_range(self, k: int, process: Process) -> tuple[float, float]:
        """(lo, hi) of student k: its times are lo < t <= hi.

        Args:
            k: Number of the student.
            process: Forward process, whose ends are those of a student of all times.
        """
        if not self.borders:
            return process.t_min, process.t_max
        i = k % self.num_ranges
        return self.borders[i], self.borders[i + 1]

    def to_spec(self) -> dict:
        """The partition as values that JSON keeps exactly."""
        kind = "centers" if isinstance(self.splits, Centers) else "splits"
        splits = {} if self.splits is None else {kind: self.splits.to_spec()}
        return {
            "groups": [list(labels) for labels in self.groups],
            "borders": list(self.borders),
            **splits,
        }

    @staticmethod
    def from_spec(spec: Any) -> "Partition":
        """What `to_spec` gave; one student for None.

        Args:
            spec: Values of JSON.

        Raises:
            CheckpointError: If a label or a time would have no owner, or two.
        """
        if spec is None:
            return Partition()
        try:
            found = Partition(
                tuple(tuple(int(y) for y in labels) for labels in spec["groups"]),
                tuple(float(t) for t in spec["borders"]),
                _splits_of(spec),
            )
            _check(found)
        except CheckpointError:
            raise  # it names the splits
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"partition={str(spec)[:80]}: not as it was written ({error});"
                " take the file from its source again"
            ) from error
        return found

    def table(self) -> str:
        """Who owns what, for people: a line per student."""
        lines = []
        for k in range(self.num_students):
            group, i = divmod(k, self.num_ranges)
            owns = []
            if self.groups:
                labels = self.groups[group]
                owns.append(f"{len(labels)} classes: {_runs(labels)}")
            if self.borders:
                lo, hi = self.borders[i], self.borders[i + 1]
                owns.append(f"{lo:g} {'<' if i else '<='} t <= {hi:g}")
            lines.append(f"student {k}: {'; '.join(owns) or 'everything'}")
        return "\n".join(lines)


def _splits_of(spec: dict) -> MedianSplits | Centers | None:
    if "centers" in spec:
        return Centers.from_spec(spec["centers"])
    return MedianSplits.from_spec(spec["splits"]) if "splits" in spec else None


ONE = Partition()  # of one student, who owns all


def same_owners(partition: Partition | None, other: Partition | None) -> bool:
    """Whether two partitions give every class and time the same owner.

    None is one student. Thresholds of the rule "pca" do not count: machines differ in
    their last bits.
    """
    one, two = partition or ONE, other or ONE
    return one[:2] == two[:2]


def make(
    *,
    process: Process,
    num_classes: int,
    num_groups: int = 1,
    rule: str = "consecutive",
    table: tuple[int, ...] = (),
    seed: int = 0,
    embeddings: np.ndarray | None = None,
    num_ranges: int = 1,
    spacing: str = "even",
) -> Partition:
    """num_groups * num_ranges students, groups of equal size.

    Args:
        process: Forward process whose time is split.
        num_classes: Number of classes; 0 if unconditional.
        num_groups: Number of groups of classes; a divisor of num_classes.
        rule: "consecutive" labels, "random", "kmeans" and "pca" (see `clusters`; near
            ones by their embeddings), or "table".
        table: The group of each class, for "table".
        seed: Seed of the rules "random" and "kmeans".
        embeddings: f32[num_classes, D], for "kmeans" and "pca".
        num_ranges: Number of ranges of the time.
        spacing: Spacing of the ranges' borders: "even" in the process' own uniform
            draw of times, or even in "logsnr".

    Raises:
        ConfigError: If groups or ranges cannot be equal, disjoint and complete.

    Source: Song et al. 2024, arXiv:2410.23274 (classes); Zhang & Ma 2024,
    arXiv:2410.04191 (time).

    Examples:
        >>> from kdiff_jax import partition
        >>> from kdiff_jax.diffusion.process import cosine
        >>> found = partition.make(process=cosine(), num_classes=10, num_groups=2)
        >>> print(found.table())
        student 0: 5 classes: 0-4
        student 1: 5 classes: 5-9
    """
    check_groups(num_classes, num_groups, rule, table)
    borders, splits = _borders(process, num_ranges, spacing), None
    if num_groups == 1:
        return _check(Partition((), borders))
    if rule in ("kmeans", "pca"):
        _check_rows(embeddings, rule, num_classes)
    if rule == "pca":
        splits = clusters.median_splits(embeddings, num_groups)
        owners = splits.group_of(embeddings)
    else:
        owners = _owners(num_classes, num_groups, rule, table, seed, embeddings)
        if rule == "kmeans":
            splits = clusters.centers_of(embeddings, owners)
    groups = tuple(
        tuple(np.flatnonzero(owners == group).tolist()) for group in range(num_groups)
    )
    return _check(Partition(groups, borders, splits))


def check_groups(num_classes: int, num_groups: int, rule: str, table) -> None:
    """What can be said of groups before there are embeddings of the classes.

    Raises:
        ConfigError: If they cannot be equal, or the rule is none.
    """
    if rule not in RULES:
        raise registry.unknown("rule", rule, RULES)
    if num_groups < 1:
        raise ConfigError(f"num_groups={num_groups}: must be at least 1")
    if bool(table) != (rule == "table"):
        raise ConfigError(
            f"table={str(table)[:40]}: belongs to rule='table', and rule={rule!r};"
            " give both or none"
        )
    if num_groups == 1:
        return
    if not num_classes:
        raise ConfigError(
            f"num_groups={num_groups}: there are no classes to split;"
            " take 1, or split the time with num_ranges"
        )
    if num_classes % num_groups:
        fit = [n for n in range(1, num_classes + 1) if num_classes % n == 0]
        raise ConfigError(
            f"num_groups={num_groups}: must divide num_classes={num_classes}, so that"
            f" all students own as many; choose one of {fit}"
        )
    if rule == "pca":
        clusters.num_levels(num_groups)


def _check_rows(embeddings, rule, num_classes):
    shape = np.shape(embeddings)
    if embeddings is None or len(shape) != 2 or shape[0] != num_classes:
        found = "no embeddings" if embeddings is None else f"an array {shape}"
        raise ConfigError(
            f"rule={rule!r}: needs embeddings of shape ({num_classes}, D), one row"
            f" per class, and has {found}; name a file of them, or take"
            " rule='consecutive'"
        )


def _owners(num_classes, num_groups, rule, table, seed, embeddings):
    """i[num_classes], the group of each class."""
    if rule == "table":
        owners = np.array(table)
        if len(owners) != num_classes:
            raise ConfigError(
                f"table={str(table)[:40]}: has {len(owners)} entries; give the group of"
                f" each of the {num_classes} classes"
            )
    elif rule == "random":
        order = np.random.default_rng(seed).permutation(num_classes)
        owners = np.empty(num_classes, int)
        owners[order] = np.arange(num_classes) // (num_classes // num_groups)
    elif rule == "kmeans":
        owners = clusters.balanced_kmeans(embeddings, num_groups, seed=seed)
    else:
        owners = np.arange(num_classes) // (num_classes // num_groups)
    if set(owners.tolist()) - set(range(num_groups)):
        raise ConfigError(
            f"table={str(table)[:40]}: its entries must lie in 0 .. {num_groups - 1},"
            f" for num_groups={num_groups}"
        )
    return owners


def _borders(process, num_ranges, spacing):
    if spacing not in SPACINGS:
        raise registry.unknown("spacing", spacing, SPACINGS)
    if num_ranges < 1:
        raise ConfigError(f"num_ranges={num_ranges}: must be at least 1")
    if num_ranges == 1:
        return ()
    u, num_times = np.arange(1, num_ranges) / num_ranges, process.num_timesteps
    lo, hi = float(process.t_min), float(process.t_max)
    if spacing == "logsnr":
        logsnr = [float(process.logsnr(jnp.float32(t))) for t in (lo, hi)]
        inner = process.time_of_logsnr(logsnr[0] + u * (logsnr[1] - logsnr[0]))
        inner = np.floor(inner) if num_times else inner
    elif num_times:
        inner = np.round(u * num_times) - 1  # the last index of each range
    else:
        inner = np.asarray(process.time(jnp.asarray(u, jnp.float32)))
    borders = (lo, *np.asarray(inner, np.float32).tolist(), hi)
    if (np.diff(borders) <= 0).any():
        raise ConfigError(
            f"num_ranges={num_ranges}: a range would own no time of this process;"
            " take fewer, or spacing='even'"
        )
    return borders


def _check(partition):
    """The partition itself, if sizes are equal and each label has one owner."""
    sizes = [len(labels) for labels in partition.groups]
    if len(set(sizes)) > 1:
        raise ConfigError(
            f"groups have {sizes} classes: all students must own as many;"
            " change the table or the embeddings"
        )
    if sorted(y for g in partition.groups for y in g) != list(range(sum(sizes))):
        raise ConfigError("groups: every class must have one owner; give each one")
    splits = partition.splits
    if splits is not None and splits.num_groups != len(sizes):
        raise ConfigError(
            f"splits: make {splits.num_groups} groups, and there are"
            f" {len(sizes)}; split again"
        )
    borders = partition.borders
    increase = list(borders) == sorted(set(borders)) and np.isfinite(borders).all()
    if len(borders) in (1, 2) or not increase:
        raise ConfigError(f"borders={borders}: must increase; give R + 1 times")
    return partition


def _runs(labels):
    """[0, 1, 2, 5] -> "0-2, 5"."""
    labels = np.asarray(labels)
    runs = np.split(labels, np.flatnonzero(np.diff(labels) != 1) + 1)
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)
