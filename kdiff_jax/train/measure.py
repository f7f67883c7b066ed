"""What a model's images are like, and what they cost, without keeping the images."""

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax.data.images import Images
from kdiff_jax.method import Net
from kdiff_jax.metrics.collect import AS_THEY_ARE, Collector, Looks
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.seen import Seen
from kdiff_jax.report import environment
from kdiff_jax.samplers import Sampler
from kdiff_jax.train import generate, parallel, watchdog

SECONDS = 2.0  # of timing, of each speed


class Speed(NamedTuple):
    """A speed over several rounds, of which others on the machine may slow some down.

    Attributes:
        median: The median.
        low: The lower quartile of the rounds, of the same unit.
        high: The upper one.
        num_rounds: Number of rounds.
    """

    median: float
    low: float
    high: float
    num_rounds: int

    @staticmethod
    def of(values: Sequence[float]) -> "Speed":
        """Of the values of all rounds, one or more."""
        low, high = (float(q) for q in np.percentile(values, (25, 75)))
        return Speed(statistics.median(values), low, high, len(values))


class Generated(NamedTuple):
    """What was seen of a model's images."""

    seen: Seen
    images_per_second: float
    latency_ms: float
    shown: np.ndarray  # uint8[n, H, W, C], those at the places asked for
    timing: dict[str, Any]  # how both speeds spread, and how many images at once
    memory: dict[str, int] | None  # bytes of one image alone, see `alone`
    make: generate.Generator  # what made them, compiled: see `looked_at`

    def speeds(self) -> dict[str, Any]:
        """Both speeds, as a row has them."""
        return {
            "images_per_second": self.images_per_second,
            "latency_ms": self.latency_ms,
            "timing": self.timing,
            **({"memory": self.memory} if self.memory else {}),
            "measured": environment.measured(),
        }


def facts(model: Any, sampler: Sampler) -> dict[str, Any]:
    """What a row says of a model and its sampler, beside what was measured.

    Args:
        model: An `interop.Model`.
        sampler: Sampler that makes its images.
    """
    return {
        "sampler": sampler.name,
        "sampler_options": dict(sampler.options),
        "nfe": sampler.nfe,
        "num_params": model.num_params,
        "num_students": model.num_students,
        "num_params_total": model.num_params * model.num_students,
        "precision": model.net.precision,
        "macs": macs(model.net),
    }


def generated(
    model: Any,
    sampler: Sampler,
    features: Features | None,
    *,
    mesh,
    num_images: int,
    seed: int,
    batch_size: int,
    labels: np.ndarray,
    needs: Collection[str] = ("moments",),
    places: np.ndarray | None = None,
    name: str = "model",
    batch_option: str = "--batch_size",
    looks: Looks = AS_THEY_ARE,
) -> Generated:
    """What metrics read of `num_images` images, quantised to uint8.

    Args:
        model: An `interop.Model`.
        sampler: Sampler that makes the images.
        features: See `metrics.features`; None measures the speed alone.
        mesh: The devices.
        num_images: Number of images.
        seed: Seed of the noise.
        batch_size: Images a call of the sampler.
        labels: i32[num_images], or token ids i32[num_images, L] of prompts.
        needs: What metrics read, see `metrics.table.needs`.
        places: i64[n], of the images to keep; the first 20 by default.
        name: Name of the model in messages.
        batch_option: Option that `batch_size` is the value of, for messages.
        looks: What is done with images before they are measured, and beside.

    Raises:
        ConfigError: If a batch is too large for the memory.
        NumericsError: If the model makes NaN or infinite values.
    """
    make = generate.of_model(
        model, sampler, mesh=mesh, name=name, batch_option=batch_option
    )
    labels = labels[:num_images]
    batch_size = min(batch_size, num_images)
    places = np.arange(min(20, num_images)) if places is None else places
    seen, shown = looked_at(
        make,
        model.students,
        features,
        seed=seed,
        labels=labels,
        batch_size=batch_size,
        needs=needs,
        places=places,
        looks=looks,
    )
    with make.within_memory(batch_size):
        speed = images_per_second(make, model.students, labels, batch_size=batch_size)
    latency, memory = alone(model, sampler, labels[:1])
    timing = {
        "batch_size": -(-batch_size // mesh.size) * mesh.size,
        "images_per_second": speed._asdict(),
        "latency_ms": latency._asdict(),
    }
    speeds = speed.median, latency.median
    return Generated(seen, *speeds, shown, timing, memory, make)


def looked_at(
    make: generate.Generator,
    params: Any,
    features: Features | None,
    *,
    seed: int,
    labels: np.ndarray,
    batch_size: int,
    needs: Collection[str] = ("moments",),
    places: np.ndarray | None = None,
    looks: Looks = AS_THEY_ARE,
    frozen: Mapping[str, Any] = {},
) -> tuple[Seen, np.ndarray]:
    """(what metrics read of the images of one seed, those at the places).

    Args:
        make: The generator; one that has made images compiles nothing.
        params: Parameters of all students, see `Generator.batches`.
        features: See `metrics.features`; None looks at nothing.
        seed: Seed of the noise.
        labels: i32[N], or token ids i32[N, L] of prompts.
        batch_size: Images a call.
        needs: What metrics read, see `metrics.table.needs`.
        places: i64[n], of the images to keep; none by default.
        looks: See `generated`.
        frozen: See `Generator.batches`.
    """
    shape, num = make.net.space.pixel_shape, len(labels)
    batch_size = min(batch_size, num)
    numbers = labels if labels.ndim == 1 else None
    collector = features and Collector(features, needs, num, shape, numbers, looks)
    places = np.arange(0) if places is None else places
    shown = np.zeros((len(places), *shape), np.uint8)
    about: dict[str, Any] = dict(seed=seed, batch_size=batch_size, frozen=frozen)
    for made in make.batches(params, labels=labels, **about):
        if collector is not None:
            with watchdog.program("the features"):
                collector.add(made.places, made.x0)
        _, mine, theirs = np.intersect1d(places, made.places, return_indices=True)
        shown[mine] = made.x0[theirs]
    return Seen() if collector is None else collector.seen(), shown


def images_per_second(
    make: generate.Generator, params, labels: np.ndarray, *, batch_size: int
) -> Speed:
    """Speed of a generator on full batches of one group, images left on the device.

    Rounds over `SECONDS`, and of three at least. A round is as many
    calls, one behind the other, as take a quarter of that: a call of a one-step student
    is too short to be timed, and its devices must not wait for the host in between.

    Several hosts go by the clock of the first: a host that called the program once more
    than the others would wait for them for ever.
    """
    call, size = _calls(make, params, labels, batch_size)
    jax.block_until_ready(call())
    # Of two calls at once, the devices that a CPU is taken for can wait for each other
    # for ever in a collective: they share its threads.
    one_by_one = jax.default_backend() == "cpu" and jax.device_count() > 1

    def seconds_of(num_calls):
        began, last = time.perf_counter(), None
        for _ in range(num_calls):
            last = call()
            if one_by_one:
                jax.block_until_ready(last)
        jax.block_until_ready(last)
        return float(parallel.from_first_host(time.perf_counter() - began))

    num_calls = max(1, round(SECONDS / 4 / seconds_of(1)))
    rounds: list[float] = []
    while len(rounds) < 3 or sum(rounds) < SECONDS:
        rounds.append(seconds_of(num_calls))
    return Speed.of([size * num_calls / seconds for seconds in rounds])


def alone(
    model: Any, sampler: Sampler, labels: np.ndarray
) -> tuple[Speed, dict[str, int] | None]:
    """(milliseconds of a call for one image until it is there, memory), on one device.

    Calls of half of `SECONDS`, and three at least, once compiled. What a prompt costs,
    and an autoencoder, is in both. The memory is that which XLA plans, in bytes:
    "arguments" are weights and what is asked for, "working" is all else; None where it
    does not say.
    """
    mesh = parallel.make_mesh(jax.local_devices()[:1])
    make = generate.of_model(model, sampler, mesh=mesh)
    arguments, _ = _arguments(make, model.students, labels, 1)
    with watchdog.program("the sampler for one image"):
        program = make.program.lower(*arguments).compile()  # type: ignore[attr-defined]
    memory = _memory(program)

    def call():
        return program(*arguments)

    jax.block_until_ready(call())
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < SECONDS / 2:
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return Speed.of([1000 * value for value in seconds]), memory


def _memory(program: Any) -> dict[str, int] | None:
    found = program.memory_analysis()
    if found is None:
        return None
    working = found.temp_size_in_bytes + found.output_size_in_bytes
    return {"arguments": found.argument_size_in_bytes, "working": working}


def _calls(make, params, labels, batch_size) -> tuple[Callable[[], Any], int]:
    """(a call for a batch of the first label's group, its size)."""
    arguments, size = _arguments(make, params, labels, batch_size)
    return lambda: make.program(*arguments), size


def _arguments(make, params, labels, batch_size) -> tuple[tuple, int]:
    """(what the program takes for a batch of the first label's group, its size)."""
    size = -(-batch_size // make.mesh.size) * make.mesh.size
    labels, owners = make.owned(labels[: max(1024, size)])
    labels = labels[owners == owners[0]]
    mine = make.of_group(params, int(owners[0]))
    positions = np.arange(size, dtype=np.int32)
    y = labels[positions % len(labels)]
    return (mine, make.placed, np.uint32(0), positions, y), size


def macs(net: Net) -> int:
    """Multiply-adds of one evaluation of a network for one image, from shapes alone.

    Those of its convolutions and matrix products, with zeros of the padding, as papers
    count them; what is done element by element does not count.
    """
    return macs_of(forward(net)[0].jaxpr)


def forward(net: Net):
    """(the evaluation of a network for one image as a jaxpr, the shapes of its inputs).

    Nothing is computed. To trace a large network takes seconds: what can be read off
    this need not do it again.
    """
    inputs = (
        jax.eval_shape(net.init, jax.random.key(0)),
        jax.ShapeDtypeStruct((1, *net.image_shape), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        jax.eval_shape(lambda: net.conditions.example(1)),
    )
    return jax.make_jaxpr(net.apply)(*inputs), inputs


def macs_of(jaxpr) -> int:
    """As `macs`, of what `forward` gives."""
    total = 0
    for eqn in jaxpr.eqns:
        shapes = [v.aval.shape for v in eqn.invars if hasattr(v.aval, "shape")]
        results = math.prod(eqn.outvars[0].aval.shape)
        if eqn.primitive.name == "dot_general":
            (summed, _), _ = eqn.params["dimension_numbers"]
            total += results * math.prod(shapes[0][i] for i in summed)
        elif eqn.primitive.name == "conv_general_dilated":
            features = shapes[1][eqn.params["dimension_numbers"].rhs_spec[0]]
            # What a transposed convolution puts between the pixels is skipped.
            between = math.prod(eqn.params["lhs_dilation"])
            total += results * math.prod(shapes[1]) // features // between
        else:
            times = eqn.params.get("length", 1)  # of a scan
            inner = (getattr(p, "jaxpr", p) for p in eqn.params.values())
            total += times * sum(macs_of(p) for p in inner if hasattr(p, "eqns"))
    return total


def of_data(
    images: Images,
    features: Features,
    *,
    needs: Collection[str] = ("moments",),
    batch_size: int = 1000,
    looks: Looks = AS_THEY_ARE,
) -> Seen:
    """What metrics read of a whole data set; see `generated`."""
    about = images.num, images.shape, images.labels, looks
    collector = Collector(features, needs, *about)
    for start in range(0, images.num, batch_size):
        indices = np.arange(start, min(start + batch_size, images.num))
        with watchdog.program("the features"):
            collector.add(indices, images.read(indices))
        watchdog.beat()
    return collector.seen()
