"""The error of eps on each range of times: specialists beside a generalist.

    python benchmarks/eps_error.py --data=digits --num_ranges=4 \
        runs/o2mkd_1/student runs/o2mkd_4/student

For every model, of one network or of many students, and each of --num_ranges ranges:
E ||eps - eps_hat(x_t, t, y)||^2 per pixel over real images, the same images, noise and
times for all. Where a model's students own ranges, the owner answers.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from kdiff_jax import interop, partition, rng
from kdiff_jax.data import images
from kdiff_jax.diffusion import noise_levels, predict
from kdiff_jax.pixels import to_float

DATA = flags.DEFINE_string("data", "digits", "As data.name of a recipe.")
PATH = flags.DEFINE_string("path", None, "As data.path.")
RANGES = flags.DEFINE_integer("num_ranges", 4, "How many.", lower_bound=1)
SPACING = flags.DEFINE_string("spacing", "even", "As partition.spacing.")
NUM = flags.DEFINE_integer("num_images", 4096, "In each range.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch_size", 256, "Images a call.", lower_bound=1)


def main(arguments) -> None:
    paths = arguments[1:]
    if not paths:
        sys.exit("eps_error: name one model at least")
    data = images.load(DATA.value, path=PATH.value)
    for path in paths:
        print(json.dumps({"model": path, "eps_error": errors(path, data)}), flush=True)


def errors(path: str | pathlib.Path, data) -> list[float]:
    """One number for each range, the lowest times first."""
    model = interop.load(path)
    process = model.process
    split = partition.make(
        process=process,
        num_classes=0,
        num_ranges=RANGES.value,
        spacing=SPACING.value,
    )
    draw_time = noise_levels.make("process", process)

    @jax.jit
    def squared(params, x0, y, keys, t_range):
        t, eps = draw_time(keys, t_range), rng.normal(keys, "eps", x0.shape[1:])
        x_t = process.add_noise(x0, eps, t)
        x0_hat = model.net.apply(params, x_t, t, y)
        at = dict(alpha=process.alpha(t), sigma=process.sigma(t))
        eps_hat = predict.eps_from_x0(x_t, x0_hat, **at)
        return ((eps_hat - eps) ** 2).mean()

    found = []
    for k in range(RANGES.value):
        lo, hi = split.t_range(k, process)
        params, values = _owner(model, (lo + hi) / 2, split.borders).params, []
        for start in range(0, NUM.value, BATCH.value):
            places = np.arange(start, start + BATCH.value)
            batch = data.batch(places % data.num)
            keys = rng.example_keys(jax.random.key(0), k, places)
            x0, y = to_float(jnp.asarray(batch["x0"])), jnp.asarray(batch["y"])
            values.append(float(squared(params, x0, y, keys, jnp.float32([lo, hi]))))
        found.append(float(np.mean(values)))
    return found


def _owner(model, t: float, borders):
    """Who answers at this time, and between these borders."""
    if model.num_students == 1:
        return model
    if model.partition.groups:
        sys.exit("eps_error: students that own classes are not compared by ranges")
    inner = model.partition.borders[1:-1]
    if not np.isin(np.float32(inner), np.float32(borders)).all():
        sys.exit(
            f"eps_error: the students' ranges end at {inner}; take --num_ranges and"
            " --spacing with these borders among them"
        )
    return model.student(int(model.partition.range_of(np.float32(t))))


if __name__ == "__main__":
    app.run(main)
