"""Measures a model: python -m kdiff_jax.evaluate --checkpoint=PATH --reference=DATA

The reference is a statistics file (.npz with mu, sigma) or a data set: a name such as
digits or cifar10, an .npz of images, a folder, an EDM .zip. The same model, seed and
number of images give the same figures on any number of devices. The row is printed;
`images_per_second` is that of full batches, `latency_ms` that of one image alone.

    python -m kdiff_jax.evaluate --make_reference --reference=DATA --output=REF.npz

writes the statistics of a data set once, for the features and metrics of the flags.

    python -m kdiff_jax.evaluate --checkpoint=PATH --prompts=FILE --clip=FOLDER \\
        --protocol=coco_dmd2 --reference=FOLDER --output=ROW.json

measures a model of prompts as papers do (`train.coco_protocols`), here on 30,000
prompts, of a .txt, one a line, or of COCO's captions; `--images=FOLDER` in the place of
a model measures images that are there.

    python -m kdiff_jax.evaluate --compare RUN RUN ... --output=FILE.html

puts side by side what runs have measured: a table with the best of each figure, and the
distance against evaluations. Figures of other features, references or numbers of images
are shown apart.
"""

import json
import logging
import pathlib
import time

from absl import flags

from kdiff_jax import command, options, output, rng
from kdiff_jax.errors import ConfigError
from kdiff_jax.files import json_text, write_atomically
from kdiff_jax.train import label_protocols, seeds

log = logging.getLogger("kdiff_jax.evaluate")  # run as a module it is "__main__"

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A model, as in kdiff_jax.sample.")
REFERENCE = flags.DEFINE_string("reference", None, "Statistics, or a data set.")
FEATURES = flags.DEFINE_string(
    "features", None, "What metrics read: pixels (default), resnet56, inception, ..."
)
METRICS = flags.DEFINE_list(
    "metrics",
    None,
    "What is measured: fd (default), kd, prdc, inception_score, clip_score, ...",
)
IMAGES = flags.DEFINE_string(
    "images", None, "In place of a model: a folder of images, sorted by their names."
)
PROMPTS = flags.DEFINE_string(
    "prompts",
    None,
    "What image i is asked for: FILE.txt, .json of COCO's captions, .csv or a folder.",
)
PROTOCOL = flags.DEFINE_string(
    "protocol", None, "How papers measure, by name: coco_dmd2, coco_bksdm."
)
CLIP = flags.DEFINE_string(
    "clip", None, "What clip_score reads: folder of a CLIP with its tokenizer, or file."
)
CLIP_TOKENIZER = flags.DEFINE_string(
    "clip_tokenizer", None, "Folder with the tokenizer of a --clip that has none."
)
PREPROCESSING = flags.DEFINE_string(
    "preprocessing",
    None,
    "Preprocessing of the images, by name; default: the features' first.",
)
BOOTSTRAP = flags.DEFINE_integer(
    "bootstrap", 0, "Draws for intervals of the figures; 0: none.", lower_bound=0
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
    "num_images",
    None,
    "How many images; default: 10,000, or the protocol's, or all of --images.",
    lower_bound=2,
    upper_bound=2**31 - 1,
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
    "seed", 1, "Seed of the noise.", lower_bound=0, upper_bound=rng.MAX_SEED
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
    "Labels of the images: i mod the number of classes (DMD2), or drawn (EDM).",
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
    weights = WEIGHTS.value and output.expanded("--weights", WEIGHTS.value)
    if MAKE.value:
        wanted = command.required(REFERENCE)
        data = output.expanded("--reference", wanted)
        return make_reference(wanted, data, weights)
    if CHECKPOINT.value and IMAGES.value:
        raise ConfigError("--checkpoint and --images: give one of them")
    if needs_reference():
        command.required(REFERENCE)
    source = IMAGES.value or command.required(CHECKPOINT)
    path = place(OUTPUT.value) if OUTPUT.value else None
    command.start_distributed()
    import jax

    from kdiff_jax.report import summary
    from kdiff_jax.stages import measured

    began = time.monotonic()
    told = settings(weights)

    def sampler(model):
        with options.keywords("sampler", name=SAMPLER, num_steps=STEPS) as keywords:
            return measured.sampler_of(model, told.protocol, keywords)

    with options.named("labels", "seeds", "clip", "metrics", "prompts", "per"):
        if IMAGES.value:
            row = measured.images(source, told)
        else:
            row = measured.model(source, told, sampler, PRECISION.value)
    row["checkpoint"] = output.printable(source)
    row["reference"] = REFERENCE.value and output.printable(REFERENCE.value)
    row["seconds"] = time.monotonic() - began
    if jax.process_index() != 0:
        return
    print(json_text(row), flush=True)  # first: what comes now may fail after all
    log.info("%s", summary.said(row))
    if path:
        with output.speaking("--output", OUTPUT.value):
            write_atomically(path, json_text(row, indent=2) + "\n")


def needs_reference() -> bool:
    """Whether a metric compares with anything."""
    from kdiff_jax.metrics import table

    return METRICS.value is None or bool(table.needs_of_reference(METRICS.value))


def settings(weights):
    """What the flags say of a measurement, a protocol's where they say nothing."""
    from kdiff_jax.stages import measured
    from kdiff_jax.train import coco_protocols, parallel

    protocol = None
    if PROTOCOL.value:
        with options.named("protocol"):
            protocol = coco_protocols.make(PROTOCOL.value)
    metrics = METRICS.value or (protocol.metrics if protocol else ("fd",))
    if CLIP.value and METRICS.value is None:
        metrics = (*metrics, "clip_score")
    mesh, path = parallel.make_mesh(), None
    if REFERENCE.value:
        path = output.expanded("--reference", REFERENCE.value)
    return measured.Settings(
        mesh=mesh,
        features=extract(weights, mesh, protocol),
        metrics=tuple(metrics),
        reference=REFERENCE.value,
        reference_path=path,
        num_images=NUM.value or (protocol.num_images if protocol else None),
        protocol=protocol,
        prompts=PROMPTS.value,
        clip=CLIP.value,
        clip_tokenizer=CLIP_TOKENIZER.value,
        labels=LABELS.value,
        seed=SEED.value,
        seeds=SEEDS.value,
        headline=HEADLINE.value,
        bootstrap=BOOTSTRAP.value,
        per=PER.value,
        batch_size=BATCH.value,
    )


def make_reference(wanted: str, data: pathlib.Path, weights) -> None:
    """Writes the statistics of a data set, which other commands then compare with."""
    text = command.required(OUTPUT)
    inputs = {"--reference": REFERENCE.value, "--weights": WEIGHTS.value}
    path = output.file("--output", text, suffixes=[".npz"], inputs=inputs)
    command.start_distributed()
    import jax

    from kdiff_jax.metrics import caveats, groups, stats, table
    from kdiff_jax.train import coco_protocols, parallel, reference

    if path.exists() and path.stat().st_size and not stats.is_stats(path):
        raise ConfigError(f"--output={text}: holds no statistics; name a new file")
    protocol = None
    if PROTOCOL.value:
        with options.named("protocol"):
            protocol = coco_protocols.make(PROTOCOL.value)
    features = extract(weights, parallel.make_mesh(), protocol)
    metrics = METRICS.value or (protocol.metrics if protocol else ["fd"])
    table.check(metrics, features)
    needs = table.needs_of_reference(metrics)
    if PER.value:
        needs |= groups.needs_of_reference(metrics)
    about: dict = dict(size=SIZE.value, protocol=protocol)
    found = reference.made(wanted, data, features, needs, **about)
    caveats.of_reference(wanted, metrics, found.seen)
    if jax.process_index() != 0:
        return
    with output.speaking("--output", text):
        stats.save(path, found)
    print(json_text({"output": output.printable(text), **found.provenance}), flush=True)


def compare(runs: list[str]) -> None:
    """Prints what runs have measured side by side, and writes it to --output."""
    for flag in (CHECKPOINT, IMAGES, REFERENCE):
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


def extract(weights, mesh, protocol=None):
    """The features that the flags name, or the protocol."""
    from kdiff_jax.metrics import features

    name, how = FEATURES.value, PREPROCESSING.value
    if protocol and name in (None, protocol.features):
        name, how = protocol.features, how or protocol.preprocessing
    return features.make(
        name or "pixels",
        weights=weights or None,
        preprocessing=how,
        fetch=FETCH.value,
        mesh=mesh,
    )


def place(text: str) -> pathlib.Path:
    """Where the row goes: a new .json, or one that holds a row."""
    inputs = {
        "--checkpoint": CHECKPOINT.value,
        "--images": IMAGES.value,
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
