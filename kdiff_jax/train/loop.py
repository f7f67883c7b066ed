"""The loop: get a batch, take a step, call hooks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kdiff_jax.errors import Interrupted
from kdiff_jax.method import Method
from kdiff_jax.train import parallel, signals, watchdog
from kdiff_jax.train.layout import REPLICATED, Layout
from kdiff_jax.train.step import due, make_train_step

_SCHEDULE = 4096  # steps after which a schedule has shown all of its runs


class Hook(NamedTuple):
    """Called after every `every`-th step, and after the last one."""

    every: int
    call: Callable[[int, Any], None]  # (step, state)


class Programs:
    """The compiled steps of one method: one per distinct set of due phases.

    With several steps a dispatch it is a loop, of as many of them as it is told: runs
    of any length are one program.

    Args:
        method: What to train.
        optim: Role -> Optim.
        mesh: Devices to run on.
        batch_size: Global batch size.
        inputs: See `inputs.make`.
        num_microbatches: Number of microbatches for gradient accumulation.
        own: Frozen roles that have an axis of students too.
        layout: How the state lies on the devices.
    """

    def __init__(
        self,
        method: Method,
        optim,
        mesh,
        *,
        batch_size,
        inputs,
        num_microbatches=1,
        own=(),
        layout: Layout = REPLICATED,
    ):
        parallel.check_batch_size(batch_size, mesh, num_microbatches)
        self.mesh, self.layout = mesh, layout
        self._method, self._optim = method, optim
        self._batch_size, self._inputs = batch_size, inputs
        self._num_microbatches, self._own = num_microbatches, own
        self._compiled: dict = {}
        self._longest: dict = {}

    def __call__(self, step: int, num_steps: int = 1, *, most: int = 1):
        """The program of the steps step .. step + num_steps - 1, a run of equal ones.

        It takes (state, frozen, numbers, batch, root_keys), the batch with a part for
        each round, and returns the state and, by name, the sum of each metric over
        these steps: for each round an array of numbers, one for each group of devices.

        Args:
            step: The first one.
            num_steps: Their number, at most `together(step, most)`.
            most: Steps of a dispatch. Where it leaves room for several, each part of
                the batch has an axis of `together(step, most)` steps, of which the
                first `num_steps` are read.
        """

        def program(state, frozen, numbers, batch, root_keys):
            compiled, rounds = self.compiled(step, most, state), []
            looped = self.together(step, most) > 1
            count = (np.int32(num_steps),) if looped else ()
            for turn, part in enumerate(batch):
                state, more = compiled(
                    state, frozen, numbers, part, root_keys, np.int32(turn), *count
                )
                rounds.append(more)
            return state, {name: [one[name] for one in rounds] for name in rounds[0]}

        return program

    def compiled(self, step: int, most: int, state):
        """That of one round, jitted; `state` has the shapes."""
        phases, looped = self.due(step), self.together(step, most) > 1
        key = (tuple(p.name for p in phases), looped)
        if key not in self._compiled:
            program = self._one(phases)
            if looped:
                program = parallel.in_one_dispatch(program)
            # Where the state comes out it goes in again: elsewhere, jit would compile
            # the program twice.
            places = self.layout.shardings(state, self.mesh)
            self._compiled[key] = jax.jit(
                program,
                donate_argnums=0,
                out_shardings=(places, NamedSharding(self.mesh, P())),
            )
        return self._compiled[key]

    def together(self, step: int, most: int) -> int:
        """The longest run of steps like this one in the whole schedule, up to `most`.

        So a phase that is due at every fifth step does not make each of its dispatches
        carry batches for `most` of them.
        """
        phases = self.due(step)
        if (phases, most) not in self._longest:
            longest = length = 0
            for i in range(_SCHEDULE if most > 1 else 0):
                length = length + 1 if self.due(i) == phases else 0
                longest = max(longest, length)
                if longest >= most:
                    break
            self._longest[phases, most] = max(longest, 1)
        return self._longest[phases, most]

    def run_length(self, step: int, most: int) -> int:
        """How many steps from this one on, up to `most`, have the same phases due."""
        phases = self.due(step)
        return next((i for i in range(1, most) if self.due(step + i) != phases), most)

    def due(self, step: int):
        """The phases that are due at a step."""
        return due(self._method.phases, step)

    def _one(self, phases):
        """One step of these phases over the devices."""
        step = make_train_step(
            self._method,
            self._optim,
            phases,
            axis_name="data",
            num_microbatches=self._num_microbatches,
            unroll=self.mesh.devices.flat[0].platform == "cpu",
        )
        return parallel.over_devices(
            step,
            self.mesh,
            batch_size=self._batch_size,
            inputs=self._inputs,
            own=self._own,
            layout=self.layout,
        )


def run(
    programs: Programs,
    state,
    *,
    frozen,
    numbers,
    batches: Iterator,
    root_keys,
    num_steps: int,
    hooks: Sequence[Hook],
    save: Callable[[int, Any], None],
    observe: Callable[[Any, int], None] = lambda sums, num_steps: None,
    steps_per_dispatch: int = 1,
):
    """Trains from state.step to num_steps.

    Steps are dispatched together where the same phases are due at all of them, up to
    the next hook. A run that resumes where another has stopped goes on with the same
    programs, whatever the lengths: they are a loop.

    Whoever has waited for the last save calls `signals.release`.

    Args:
        programs: The compiled steps.
        state: TrainState on the mesh; it is donated.
        frozen: Params that no phase trains, and the data set if it is on the device.
        numbers: See `method.Numbers`; with an axis of students.
        batches: Yields this host's part of the global batch of each step, in order; see
            `StudentBatches`.
        root_keys: Key[n], the root of each student's random numbers.
        num_steps: Total.
        hooks: In order.
        save: Called with (step, state) before a signal is obeyed.
        observe: Called after each dispatch with the sum of each metric over its steps,
            still on the device, and their number; it must not wait for the device.
        steps_per_dispatch: Most steps of a call of the device; more than 1 hides the
            latency of accelerators, and is slow on the CPU.

    Returns:
        The last state.

    Raises:
        Interrupted: If a signal asked to stop; the state is saved.
    """
    step = step_of(state)
    while step < num_steps:
        room = min([num_steps - step] + [h.every - step % h.every for h in hooks])
        together = programs.together(step, steps_per_dispatch)
        num = programs.run_length(step, min(room, together))
        batch = _stack([next(batches) for _ in range(num)], together, programs)
        program = programs(step, num, most=steps_per_dispatch)
        with watchdog.program("the step"):
            state, sums = program(state, frozen, numbers, batch, root_keys)
        signals.hold()  # until now a signal ended the process, also while compiling
        step += num
        observe(sums, num)
        watchdog.beat()
        try:
            for hook in hooks:
                if step % hook.every == 0 or step == num_steps:
                    hook.call(step, state)
            stop = step < num_steps and _should_stop(step, num)
        except Interrupted:  # while sampling
            stop = True
        if stop:
            save(step, state)
            raise Interrupted(
                f"stopped at step {step} of {num_steps}; everything is saved: the same"
                " command resumes"
            )
    return state


def step_of(state) -> int:
    """How many steps were made; all students of a state have made equally many."""
    return int(np.ravel(state.step.addressable_data(0))[0])


def _stack(batches, together: int, programs):
    """One batch for a program of one step; for a loop `together`, the last repeated."""
    if together == 1:
        return parallel.shard_batch(batches[0], programs.mesh)
    batches += batches[-1:] * (together - len(batches))
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    return parallel.shard_batch(stacked, programs.mesh, axis=1)


def _should_stop(step: int, num: int) -> bool:
    """Asks at every step; several hosts, for whom that is a collective, every 20th."""
    alone = jax.process_count() == 1
    return (alone or step // 20 > (step - num) // 20) and signals.asked()
