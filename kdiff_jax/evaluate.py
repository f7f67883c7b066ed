"""Measures a model: python -m kdiff_jax.evaluate --checkpoint=PATH --reference=DATA

The reference is a statistics file (.npz with mu, sigma) or a data set: a name such as
digits or cifar10, an .npz of images, a folder, an EDM .zip. The same model, seed and
number of images give the same figures on any number of devices. The row is printed;
`images_per_second` is that of full batches, `latency_ms` that of one image alone.

    python -m kdiff_jax.evaluate --make_reference --reference=DATA --output=REF.npz

writes the statistics of a data set once, for the features and metrics of the flags.

    python -m kdiff_jax.evaluate --compare RUN RUN ... --output=FILE.html

puts side by side what runs have measured: a table with the best of each figure, and the
distance against evaluations. Figures of other features, references or numbers of images
are shown apart.
"""

import json
import pathlib
import time

from absl import flags

from kdiff_jax import command, options, output, rng
from kdiff_jax.errors import ConfigError
from kdiff_jax.files import json_text, write_atomically
from kdiff_jax.train import label_protocols, seeds

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A model, as in kdiff_jax.sample.")
REFERENCE = flags.DEFINE_string("reference", None, "Statistics, or a data set.")
FEATURES = flags.DEFINE_string(
    "features", "pixels", "What metrics read: pixels, resnet56, ..."
)
METRICS = flags.DEFINE_list(
    "metrics", ["fd"], "What is measured: fd, kd, prdc, inception_score, ..."
)
PREPROCESSING = flags.DEFINE_string(
    "preprocessing", None, "Of the images, by name; default: the features' first."
)
BOOTSTRAP = flags.DEFINE_integer(
    "bootstrap", 0, "Draws for an interval of each figure; 0: none.", lower_bound=0
)
PER = flags.DEFINE_enum(
    "per", None, ["class", "student"], "Also measure each class, or student's part."
)
MAKE = flags.DEFINE_bool(
    "make_reference", False, "Write --reference's statistics to --output, an .npz."
)
SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "With --make_reference: crop and resize images to squares of this side.",
    lower_bound=1,
)
WEIGHTS = flags.DEFINE_string("weights", None, "The file of the feature network.")
FETCH = flags.DEFINE_bool(
    "fetch", False, "Download the public file of the weights if it is not there."
)
NUM = flags.DEFINE_integer(
    "num_images", 10_000, "How many images.", lower_bound=2, upper_bound=2**31 - 1
)
SAMPLER = flags.DEFINE_string(
    "sampler",
    None,
    "Default: the model's own. --sampler.KEY=VALUE sets any of its keywords.",
)
STEPS = flags.DEFINE_integer(
    "num_steps",
    None,
    "As --sampler.num_steps; default: the model's own.",
    lower_bound=1,
)
options.section("sampler")
SEED = flags.DEFINE_integer(
    "seed", 1, "Of the noise.", lower_bound=0, upper_bound=rng.MAX_SEED
)
SEEDS = flags.DEFINE_integer(
    "seeds", 1, "Measure so many: seed, seed + 1, ...; all are shown.", lower_bound=1
)
HEADLINE = flags.DEFINE_enum(
    "headline",
    seeds.HEADLINES[0],
    seeds.HEADLINES,
    "The row of several seeds: that of the best one, or the mean.",
)
LABELS = flags.DEFINE_enum(
    "labels",
    label_protocols.NAMES[0],
    label_protocols.NAMES,
    "Of the images: i mod the number of classes (DMD2), or drawn (EDM).",
)
BATCH = flags.DEFINE_integer("batch_size", 250, "Images a call.", lower_bound=1)
PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    ["float32", "bfloat16"],
    "Type that the network computes in; default: the model's own.",
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Also write the row to this .json; --compare's, also .html or .md."
)
COMPARE = flags.DEFINE_multi_string(
    "compare", None, "Runs, reports or rows to put side by side; nothing is measured."
)


def main() -> None:
    if COMPARE.value:
        return compare(COMPARE.value)
    wanted = command.required(REFERENCE)
    data = output.expanded("--reference", wanted)
    weights = WEIGHTS.value and output.expanded("--weights", WEIGHTS.value)
    if MAKE.value:
        return make_reference(wanted, data, weights)
    checkpoint = command.required(CHECKPOINT)
    path = place(OUTPUT.value) if OUTPUT.value else None
    command.start_distributed()
    import jax

    from kdiff_jax import interop
    from kdiff_jax.interop import training
    from kdiff_jax.interop.checkpoint import located
    from kdiff_jax.metrics import features as extractors
    from kdiff_jax.metrics import groups, moments, table
    from kdiff_jax.train import measure, parallel, reference

    mesh = parallel.make_mesh()
    features = extract(weights, mesh)
    names = METRICS.value
    table.check(names, features, NUM.value)
    model = interop.load(checkpoint, precision=PRECISION.value)
    with options.named("labels", "seeds"):
        label_protocols.check(LABELS.value, model.num_classes)
        tried = seeds.of(SEED.value, SEEDS.value)
    with options.keywords("sampler", name=SAMPLER, num_steps=STEPS) as keywords:
        sampler = model.sampler(**keywords)
    shape = model.net.space.pixel_shape
    dim = extractors.dim_of(features, shape)
    moments.check_memory(f"--features={features.name}", dim)
    needs = table.needs(names, bootstrap=BOOTSTRAP.value > 0)
    needs_of_reference = table.needs_of_reference(names)
    parts = groups.of(PER.value, model.num_classes, model.partition)
    if parts:
        needs |= groups.needs(names)
        needs_of_reference |= groups.needs_of_reference(names)
    stats = reference.of(wanted, data, features, shape, needs_of_reference)
    began = time.monotonic()

    def asked(seed):
        labels = LABELS.value, NUM.value, model.num_classes, seed
        return {
            "labels": label_protocols.labels(*labels),
            "seed": seed,
            "batch_size": BATCH.value,
            "needs": needs,
        }

    def measured(seed, seen):
        reference, draws = stats.seen, BOOTSTRAP.value
        table.warn(names, features, seen, reference)
        figures = table.measure(names, features, seen, reference, bootstrap=draws)
        own = groups.measure(names, features, seen, reference, parts) if parts else {}
        return seeds.Measured(seed, figures, own)

    found = measure.generated(
        model,
        sampler,
        features,
        mesh=mesh,
        num_images=NUM.value,
        name=f"--checkpoint={checkpoint}",
        **asked(tried[0]),
    )
    each = [measured(tried[0], found.seen)]
    for seed in tried[1:]:
        seen, _ = measure.looked_at(found.make, model.students, features, **asked(seed))
        each.append(measured(seed, seen))
    row = {
        "checkpoint": output.printable(checkpoint),
        "reference": output.printable(wanted),
        **measure.facts(model, sampler),
        "num_images": NUM.value,
        "labels": label_protocols.of_row(LABELS.value, model.num_classes),
        **seeds.figures_of(each, HEADLINE.value),
        "average": training.result_of(located(checkpoint)),
        "features": features.provenance,
        "compared_with": stats.provenance,
        **found.speeds(),
        "seconds": time.monotonic() - began,
    }
    if jax.process_index() != 0:
        return
    print(json_text(row), flush=True)  # first: what comes now may fail after all
    if path:
        with output.speaking("--output", OUTPUT.value):
            write_atomically(path, json_text(row, indent=2) + "\n")


def make_reference(wanted: str, data: pathlib.Path, weights) -> None:
    """Writes the statistics of a data set, which other commands then compare with."""
    text = command.required(OUTPUT)
    inputs = {"--reference": REFERENCE.value, "--weights": WEIGHTS.value}
    path = output.file("--output", text, suffixes=[".npz"], inputs=inputs)
    command.start_distributed()
    import jax

    from kdiff_jax.metrics import groups, stats, table
    from kdiff_jax.train import parallel, reference

    if path.exists() and path.stat().st_size and not stats.is_stats(path):
        raise ConfigError(f"--output={text}: holds no statistics; name a new file")
    features = extract(weights, parallel.make_mesh())
    table.check(METRICS.value, features)
    needs = table.needs_of_reference(METRICS.value)
    if PER.value:
        needs |= groups.needs_of_reference(METRICS.value)
    found = reference.made(wanted, data, features, needs, size=SIZE.value)
    if jax.process_index() != 0:
        return
    with output.speaking("--output", text):
        stats.save(path, found)
    print(json_text({"output": output.printable(text), **found.provenance}), flush=True)


def compare(runs: list[str]) -> None:
    """Prints what runs have measured side by side, and writes it to --output."""
    for flag in (CHECKPOINT, REFERENCE):
        if flag.value:
            raise ConfigError(
                f"--{flag.name}={flag.value}: --compare measures nothing; leave it out"
            )
    path = None
    if text := OUTPUT.value:
        about: dict = dict(
            inputs={"--compare": None}, suffixes=[".html", ".md", ".json"]
        )
        path = output.file("--output", text, **about)
    from kdiff_jax.report import compare, compare_page

    found = compare.groups(compare.read(runs))
    print(compare.markdown(found), end="", flush=True)
    if path is None:
        return
    if path.exists() and not compare_page.is_one(path):
        raise ConfigError(f"--output={text}: holds no comparison; name a new file")
    with output.speaking("--output", text):
        write_atomically(path, compare_page.text(found, path.suffix.lower()))


def extract(weights, mesh):
    """The features that the flags name."""
    from kdiff_jax.metrics import features

    return features.make(
        FEATURES.value,
        weights=weights or None,
        preprocessing=PREPROCESSING.value,
        fetch=FETCH.value,
        mesh=mesh,
    )


def place(text: str) -> pathlib.Path:
    """Where the row goes: a new .json, or one that holds a row."""
    inputs = {
        "--checkpoint": CHECKPOINT.value,
        "--reference": REFERENCE.value,
        "--weights": WEIGHTS.value,
    }
    path = output.file("--output", text, suffixes=[".json"], inputs=inputs)
    if path.exists() and not _is_row(path):
        raise ConfigError(
            f"--output={text}: holds something else than a row; name a new file"
        )
    return path


def _is_row(path: pathlib.Path) -> bool:
    """Whether the file may be replaced: an earlier row, or nothing yet."""
    try:
        text = path.read_text()
        return not text or {"checkpoint", "metrics"} <= set(json.loads(text))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


if __name__ == "__main__":
    command.run(main)
