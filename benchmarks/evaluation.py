"""What evaluating by FID costs, and that devices and batches change nothing.

    python benchmarks/evaluation.py devices FOLDER NUM RESULT.json
    python benchmarks/evaluation.py shares FOLDER NUM RESULT.json
    python benchmarks/evaluation.py memory RESULT.json
    python benchmarks/evaluation.py streamed FOLDER NUM RESULT.json
    python benchmarks/evaluation.py sums RESULT.json

FOLDER is that of fid_against_torch.py, with its images and random weights. `devices`
has the figures of NUM of its images on 1, 4 and 8 pretend devices, in batches of 7, 64
and 500, against the others of them, of which the first device has looked at as many.
`shares` makes NUM images in one step by a small U-Net of random weights for 32x32
pixels and evaluates them as a recipe does, by FID: the seconds of each part. `memory`
has the largest resident memory of moments and a distance of 50,000 x 2048. `streamed`
has FID of moments that are added batch by batch: of the features that
fid_against_torch.py has left, in batches of 7 to all, and of NUM images on 1, 4 and 8
pretend devices. `sums` compares two ways to add x x^T to float64's precision: in
float64 on the host, and in pairs of float32 on a device, of slices whose products are
exact.
"""

import contextlib
import datetime
import json
import os
import pathlib
import resource
import sys
import time

DEVICES, BATCHES = (1, 4, 8), (7, 64, 500)
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
)
from kdiff_jax import start  # noqa: E402

start.allocator()


def write(path, **about):
    import jax
    import numpy as np

    found = dict(
        date=str(datetime.date.today()),
        command=f"python benchmarks/evaluation.py {sys.argv[1]}",
        versions=dict(jax=jax.__version__, numpy=np.__version__),
        **about,
    )
    pathlib.Path(path).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def inception(folder, **about):
    from kdiff_jax import metrics

    return metrics.make("inception", weights=folder / "weights.npz", **about)


def looked_at(features, images, batch):
    """What metrics read of images that come in such batches."""
    import numpy as np

    from kdiff_jax.metrics.collect import Collector

    needs = "rows", "logits", "spatial"
    collector = Collector(features, needs, len(images), images.shape[1:])
    for first in range(0, len(images), batch):
        part = images[first : first + batch]
        collector.add(np.arange(first, first + len(part)), part)
    return collector.seen()


def devices(folder, num, result):
    import jax
    import numpy as np

    from kdiff_jax.metrics import table
    from kdiff_jax.train import parallel

    folder, num = pathlib.Path(folder), int(num)
    with np.load(folder / "images.npz") as file:
        images = file["images"][: 2 * num]
    names = "fd", "sfd", "kd_full", "inception_score", "prdc"
    reference, rows = None, []
    for number in DEVICES:
        mesh = parallel.make_mesh(jax.devices()[:number])
        features = inception(folder, mesh=mesh)
        reference = reference or looked_at(features, images[num:], 256)
        for batch in BATCHES:
            began = time.process_time()
            seen = looked_at(features, images[:num], batch)
            figures = table.measure(names, features, seen, reference)
            seconds = time.process_time() - began
            rows.append(dict(devices=number, batch=batch, seconds=seconds, **figures))
            print(rows[-1], flush=True)
    largest = {}
    for name in figures:
        values = [row[name] for row in rows]
        largest[name] = (max(values) - min(values)) / max(map(abs, values))
    write(result, num_images=num, largest_relative_difference=largest, rows=rows)


class Seconds(dict):
    """Seconds of each part, from outside: what is called is wrapped."""

    @contextlib.contextmanager
    def of(self, name):
        began = time.process_time()
        yield
        self[name] = self.get(name, 0.0) + time.process_time() - began

    def wrap(self, owner, name, part):
        call = getattr(owner, name)

        def timed(*args, **keywords):
            with self.of(part):
                return call(*args, **keywords)

        setattr(owner, name, timed)


def student():
    """A student of one step, of random weights, with 32x32 pixels."""
    import jax

    from kdiff_jax import interop

    values = dict(
        network=dict(name="song_unet", channels=32, channel_mult=(2, 2)),
        precondition=dict(name="edm", sigma_data=0.5),
        process=dict(name="edm"),
        sampler=dict(name="euler", num_steps=1),
        image_shape=(32, 32, 3),
        num_classes=10,
    )
    net, process = interop.build(values)
    params = net.init(jax.random.key(0))
    return interop.Model(net, params, process, interop.Spec.of(values))


def shares(folder, num, result):
    import jax
    import numpy as np

    from kdiff_jax.metrics import table
    from kdiff_jax.metrics.features import Features
    from kdiff_jax.metrics.moments import Moments
    from kdiff_jax.train import generate, measure, parallel

    folder, num = pathlib.Path(folder), int(num)
    model, features = student(), inception(folder)
    with np.load(folder / "images.npz") as file:
        reference = looked_at(features, file["images"][-64:], 64)
    sampler = model.sampler()
    mesh = parallel.make_mesh(jax.devices()[:1])
    make = generate.of_model(model, sampler, mesh=mesh)
    labels = generate.cycled_labels(num, 10)
    about = dict(seed=0, batch_size=256, needs=table.needs(["fd"]))
    measure.looked_at(make, model.students, features, labels=labels[:256], **about)
    seconds = Seconds()
    program = make.program

    def sampled(*args):
        with seconds.of("sampling"):
            return jax.block_until_ready(program(*args))

    make.__dict__["program"] = sampled
    seconds.wrap(Features, "named", "features")
    seconds.wrap(Moments, "update", "moments")
    began = time.process_time()
    seen, _ = measure.looked_at(make, model.students, features, labels=labels, **about)
    with seconds.of("distance"):
        table.measure(["fd"], features, seen, reference)
    whole = time.process_time() - began
    parts = dict(seconds, rest=whole - sum(seconds.values()))
    write(
        result,
        num_images=num,
        params=model.num_params,
        seconds=dict(parts, whole=whole),
        share={k: v / whole for k, v in parts.items()},
        peak_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def memory(result):
    import numpy as np

    from kdiff_jax.metrics.frechet import frechet_distance
    from kdiff_jax.metrics.moments import Moments

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    draw, found, rows = np.random.default_rng(0), Moments(), [("begin", peak())]
    mixed = draw.standard_normal((2048, 2048), dtype="f4") / 45
    began = time.process_time()
    for i in range(200):
        part = np.abs(draw.standard_normal((250, 2048), dtype="f4") @ mixed)
        found = found.update(part)
        if i in (0, 39, 199):
            rows.append((f"moments of {250 * (i + 1)}", peak()))
    seconds = time.process_time() - began
    distance = frechet_distance(found.mu, found.sigma, found.mu + 0.1, found.sigma)
    rows.append(("distance", peak()))
    write(
        result,
        peak_mib=dict(rows),
        seconds_of_moments=seconds,
        seconds=time.process_time() - began,
        distance=distance,
        wanted=2048 * 0.1**2,
    )


def streamed(folder, num, result):
    import fid_against_torch as beside
    import jax
    import numpy as np

    from kdiff_jax.metrics.collect import Collector
    from kdiff_jax.metrics.frechet import frechet_distance
    from kdiff_jax.metrics.moments import Moments
    from kdiff_jax.metrics.seen import gaussian
    from kdiff_jax.train import parallel

    folder, num = pathlib.Path(folder), int(num)
    kept = beside.seen(folder, "ours", "pytorch-fid")
    ours, theirs = (kept["2048", half] for half in "ab")
    reference = Moments().update(theirs)

    def fid(one):
        return frechet_distance(one.mu, one.sigma, reference.mu, reference.sigma)

    of_batches, of_devices = {}, {}
    for batch in (*BATCHES, len(ours)):
        found = Moments()
        for first in range(0, len(ours), batch):
            found = found.update(ours[first : first + batch])
        of_batches[batch] = fid(found)
    with np.load(folder / "images.npz") as file:
        images = file["images"][:num]
    for number in DEVICES:
        mesh = parallel.make_mesh(jax.devices()[:number])
        features = inception(folder, mesh=mesh)
        collector = Collector(features, ("moments",), num, images.shape[1:])
        for first in range(0, num, 64):
            places = np.arange(first, min(first + 64, num))
            collector.add(places, images[places])
        of_devices[number] = fid(collector.seen().main)
        print(number, of_devices[number], flush=True)
    assert gaussian(reference).num == len(theirs)
    groups = dict(of_batches=of_batches, of_devices=of_devices)
    spread = {
        name: (max(one.values()) - min(one.values())) / max(one.values())
        for name, one in groups.items()
    }
    about = dict(num_features=len(ours), num_images=num, **groups)
    write(result, largest_relative_difference=spread, **about)


BITS = 8  # products of 256 rows of such slices are exact in float32


def _add_in_pairs(hi, lo, x, unit, num_slices):
    """(hi, lo) with x^T x added; all x are below `unit`, a power of two."""
    import jax.numpy as jnp

    slices, rest = [], x / unit
    for i in range(1, num_slices + 1):
        size = jnp.float32(2.0 ** (-BITS * i))
        slices.append(jnp.round(rest / size) * size)
        rest = rest - slices[-1]
    for i in range(num_slices):
        for j in range(i, num_slices - i):
            product = jnp.matmul(slices[i].T, slices[j], precision="highest")
            for term in (product,) if i == j else (product, product.T):
                total = hi + term
                back = total - hi
                lo = lo + ((hi - (total - back)) + (term - back))
                hi = total
    return hi, lo


def sums(result, dim=2048, num=4096, rows=256):
    import numpy as np

    draw = np.random.default_rng(0)
    mixed = draw.standard_normal((dim, dim), dtype="f4") / np.float32(45)
    x = np.abs(draw.standard_normal((num, dim), dtype="f4") @ mixed)
    parts = [x[i : i + rows] for i in range(0, num, rows)]
    unit = np.float32(2.0 ** np.ceil(np.log2(x.max())))
    found = {f"{n} slices": _compared(parts, unit, n) for n in (4, 6)}
    write(result, dim=dim, num=num, rows=rows, bits=BITS, **found)


def _compared(parts, unit, num_slices):
    """Seconds of both ways, in turns, and what the device's sums lack."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    dim = parts[0].shape[1]
    add = jax.jit(_add_in_pairs, donate_argnums=(0, 1), static_argnums=4)
    seconds = {"host": [], "device": []}
    for turn in range(4):
        total, began = np.zeros((dim, dim)), time.process_time()
        for part in parts:
            wide = part.astype("f8")
            total += wide.T @ wide
        seconds["host"] += [time.process_time() - began] * (turn > 0)
        pair = jnp.zeros((dim, dim)), jnp.zeros((dim, dim))
        began = time.process_time()
        for part in parts if turn else parts[:1]:  # the first turn compiles
            pair = add(*pair, part, unit, num_slices)
        jax.block_until_ready(pair)
        seconds["device"] += [time.process_time() - began] * (turn > 0)
    hi, lo = (np.asarray(one, "f8") * float(unit) ** 2 for one in pair)
    errors = {
        name: float(np.abs(one - total).max() / np.abs(total).max())
        for name, one in (("pairs", hi + lo), ("one float32", hi))
    }
    ratios = [b / a for a, b in zip(seconds["host"], seconds["device"], strict=True)]
    about = dict(seconds=seconds, device_over_host=sorted(ratios))
    return dict(about, largest_difference_over_largest=errors)


if __name__ == "__main__":
    ways = dict(devices=devices, shares=shares, memory=memory)
    ways |= dict(streamed=streamed, sums=sums)
    ways[sys.argv[1]](*sys.argv[2:])
