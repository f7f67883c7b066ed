"""Several students in one program are as many separate runs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import one_student
import optax
import pytest
import toy
from jax.sharding import Mesh
from tolerance import REORDER

from kdiff_jax import domain, methods
from kdiff_jax.data.batches import Batches
from kdiff_jax.data.students import StudentBatches
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.train import loop, parallel
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.state import Optim, init_state

# Not Adam, which hides a gradient that is too large by a factor.
SGD = Optim(optax.trace(0.9), lambda step, n: 0.1, toy.EMAS)
TEACHER = toy.NETS["teacher"].init(jax.random.key(7))
NUM, NUM_STEPS = 4, 2
# A discriminator that moves, and all phases in one program: the compiling is the cost.
OPTIONS = {"dmd2": dict(student_every=1, gan_weight=1.0, disc_weight=1.0)}


class Toy:
    """Student k's batch of each step."""

    def __init__(self, k):
        self.k = k

    def __getitem__(self, step):
        return jax.device_get(toy.batch(100 * self.k + step))


class Run:
    """Students `ids` of one method, on devices in groups as the mesh has them.

    Each has the one teacher, or its own of the stacked `teachers`.
    """

    def __init__(self, name, mesh, ids, teachers=None):
        options = OPTIONS.get(name, {})
        method = methods.make(name, nets=toy.NETS, process=cosine(), **options)
        optim = {role: SGD for role in method.nets}
        self.teachers = teachers
        self.mesh, self.ids = mesh, ids
        self.programs = loop.Programs(
            method,
            optim,
            mesh,
            batch_size=8,
            inputs=one_student.as_they_are,
            own=("teacher",) if teachers else (),
        )
        # With teachers of their own, they do not begin from them.
        given = {"student": TEACHER} if teachers else {}
        states = [
            init_state(
                method,
                optim,
                {"teacher": self.teacher(k), **given},
                jax.random.key(k),
            )
            for k in ids
        ]
        numbers = [own(method, k) for k in ids]
        self.state = self.put(jax.tree.map(lambda *x: jnp.concatenate(x), *states))
        self.numbers = self.put(stack(numbers))
        self.root = self.put(stack([jax.random.key(k) for k in ids]))

    def teacher(self, k):
        return row(self.teachers, k) if self.teachers else TEACHER

    def frozen(self):
        if not self.teachers:
            return parallel.replicate({"teacher": TEACHER}, self.mesh)
        rows = jax.tree.map(lambda x: x[np.array(self.ids)], self.teachers)
        return {"teacher": self.put(rows)}

    def put(self, tree):
        return parallel.by_student(tree, self.mesh)

    def train(self, steps_per_dispatch=1):
        seen = []
        rounds = len(self.ids) // self.mesh.shape["student"]
        batches = StudentBatches([Toy(k) for k in self.ids], num_rounds=rounds)
        state = loop.run(
            self.programs,
            self.state,
            frozen=self.frozen(),
            numbers=self.numbers,
            batches=(batches[i] for i in range(NUM_STEPS)),
            root_keys=self.root,
            num_steps=NUM_STEPS,
            hooks=[],
            observe=lambda sums, num_steps: seen.append(sums),
            save=lambda step, state: None,
            steps_per_dispatch=steps_per_dispatch,
        )
        return jax.device_get(state), jax.device_get(seen[-1])


def own(method, k):
    """What differs between the students, where the method asks for it."""
    labels, times = [2 * k, 2 * k + 1], [k / NUM, (k + 1) / NUM]
    share = domain.Share(jnp.int32(labels), jnp.float32(times))
    found = toy.numbers(method, 9, share)
    return found._replace(settings={n: jnp.int32(2 * NUM) for n in found.settings})


def stack(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def row(tree, k):
    return jax.tree.map(lambda x: x[k], tree)


def groups(num_devices, num_students) -> Mesh:
    return parallel.student_mesh(
        parallel.make_mesh(jax.devices()[:num_devices]), num_students
    )


@pytest.fixture(scope="module")
def separate():
    """method -> the state of each student, trained alone on one device."""
    found = {}

    def of(name):
        if name not in found:
            mesh = groups(1, 1)
            runs = [Run(name, mesh, (k,)).train() for k in range(NUM)]
            found[name] = [row(state, 0) for state, _ in runs]
        return found[name]

    return of


# The step is the same code for all: two of them show it, and the others with --all.
ALL = [
    *(("denoise", n) for n in (1, 2, 4, 8)),
    *(
        pytest.param(name, 4, marks=pytest.mark.slow)
        for name in methods.names()
        if name != "denoise"
    ),
]


@pytest.mark.parametrize(("name", "num_devices"), ALL)
def test_they_equal_separate_runs(name, num_devices, separate):
    """One after another on one device, side by side on four, both on two."""
    run = Run(name, groups(num_devices, NUM), tuple(range(NUM)))
    begun = jax.device_get(run.state.nets)
    together, _ = run.train()
    assert together.step.tolist() == [NUM_STEPS] * NUM
    for role, net in together.nets.items():
        pairs = zip(
            *map(jax.tree.leaves, (net.params, begun[role].params)), strict=True
        )
        moved = [np.abs(a - b).reshape(NUM, -1).max(axis=1) for a, b in pairs]
        assert (np.max(moved, axis=0) > 1e-5).all(), role
    for k, alone in enumerate(separate(name)):
        chex.assert_trees_all_close(row(together.nets, k), alone.nets, **REORDER)


def test_each_may_have_a_teacher_of_its_own():
    """As in rounds of progressive distillation by ranges of the time."""
    teachers = stack([toy.NETS["teacher"].init(jax.random.key(k)) for k in range(NUM)])
    mesh, ids = groups(2, NUM), tuple(range(NUM))
    together, _ = Run("progressive", mesh, ids, teachers).train()
    for k in ids:
        alone, _ = Run("progressive", groups(1, 1), (k,), teachers).train()
        chex.assert_trees_all_close(
            row(together.nets, k), row(alone.nets, 0), **REORDER
        )
    # From the same start, with the other teacher, it becomes another student.
    other, _ = Run("progressive", groups(1, 1), (0,)).train()
    pairs = zip(*map(jax.tree.leaves, (other.nets, together.nets)), strict=True)
    assert max(np.abs(a[0] - b[0]).max() for a, b in pairs) > 1e-4


def test_they_differ_from_each_other(separate):
    states = separate("denoise")
    leaves = [jax.tree.leaves(s.nets)[0] for s in states]
    assert all((leaves[0] != other).any() for other in leaves[1:])


def test_several_steps_in_one_dispatch_are_the_same_steps(separate):
    run = Run("denoise", groups(2, NUM), tuple(range(NUM)))
    together, _ = run.train(steps_per_dispatch=2)
    for k, alone in enumerate(separate("denoise")):
        chex.assert_trees_all_close(row(together.nets, k), alone.nets, **REORDER)


def test_metrics_are_those_of_each_student_in_turn():
    """Two groups of devices: 0 has the students 0 and 1, in two rounds."""
    _, together = Run("denoise", groups(2, NUM), tuple(range(NUM))).train()
    alone = [Run("denoise", groups(1, 1), (k,)).train()[1] for k in range(NUM)]
    for name, rounds in together.items():
        found = np.stack(rounds, axis=1).ravel()
        expected = [one[name][0][0] for one in alone]
        np.testing.assert_allclose(found, expected, **REORDER)


@pytest.mark.parametrize(
    ("num_devices", "num_students", "expected"),
    [(1, 5, 1), (8, 4, 4), (8, 5, 1), (4, 8, 4), (6, 4, 2)],
)
def test_groups_of_devices_divide_both(num_devices, num_students, expected):
    assert groups(num_devices, num_students).shape["student"] == expected


@pytest.mark.parametrize(
    ("hosts", "devices", "num_students", "expected"),
    [
        (4, 8, 4, 4),
        (2, 8, 4, 4),
        (3, 8, 2, 1),
        (3, 8, 3, 3),
        (4, 4, 2, 2),
        (2, 4, 16, 8),
    ],
)
def test_groups_are_of_whole_hosts_or_on_one(hosts, devices, num_students, expected):
    found = parallel.num_groups(num_students, hosts * devices, devices)
    assert found == expected


def test_a_batch_has_the_own_examples_of_each_student():
    labels = np.arange(40, dtype=np.int32) % 10

    class Labels:
        num = 40

        def __init__(self):
            self.labels = labels

        def batch(self, indices):
            return {"y": labels[indices]}

    def of(k):
        return Batches(Labels(), seed=k, batch_size=8, labels=[2 * k, 2 * k + 1])

    rounds = StudentBatches([of(k) for k in range(4)], num_rounds=2)[3]
    assert len(rounds) == 2
    for r, part in enumerate(rounds):
        assert part["y"].shape == (2, 8)
        for g, found in enumerate(part["y"]):
            assert set(found.tolist()) == {2 * (2 * g + r), 2 * (2 * g + r) + 1}


@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_checkpoint_moves_to_other_groups_of_devices(tmp_path, num_devices):
    run = Run("denoise", groups(4, NUM), tuple(range(NUM)))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, run.state)
    checkpoints.wait()
    other = Run("denoise", groups(num_devices, NUM), tuple(range(NUM)))
    shapes = jax.eval_shape(lambda: other.state)
    template = parallel.abstract(shapes, other.mesh)
    found, step = checkpoints.restore_latest(template)
    checkpoints.close()
    assert step == 1
    chex.assert_trees_all_equal(jax.device_get(found), jax.device_get(run.state))


def test_a_damaged_row_is_found(tmp_path):
    run = Run("denoise", groups(2, NUM), tuple(range(NUM)))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, run.state)
    checkpoints.wait()
    meta = tmp_path / "1" / "meta" / "metadata"
    text = meta.read_text()
    rows = text.index('"rows"')
    first = text.index("[", rows) + 1
    meta.write_text(text[:first] + "1" + text[first:])
    template = parallel.abstract(jax.eval_shape(lambda: run.state), run.mesh)
    with pytest.raises(Exception, match="no valid checkpoint"):
        checkpoints.restore_latest(template)
    checkpoints.close()
