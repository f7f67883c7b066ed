"""Sets prepared by tensorflow-datasets, read without TensorFlow.

Only sets in the ArrayRecord format have random access. Preparing one needs TensorFlow;
this module never prepares, and never downloads.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

from kdiff_jax.data.encoded import from_encoded
from kdiff_jax.data.images import Images
from kdiff_jax.data.resize import Resampling
from kdiff_jax.errors import DataError

# What papers do to a set before anything else; other sets are kept as they are.
# celeb_a: the square of 140 pixels in the middle, scaled to 64, as for DDIM and the
# Denoising Student.
PREPARATION = {"celeb_a": dict(crop=140, size=64, resample=Resampling.BILINEAR)}


def load(*, dataset: str, path: str | None, split: str, size: int | None) -> Images:
    """A prepared set: its "image" and, where it has one, its "label".

    Args:
        dataset: NAME or NAME/CONFIG, as in the catalogue of tensorflow-datasets.
        path: The data_dir; None takes $TFDS_DATA_DIR or ~/tensorflow_datasets.
        split: A split of the set, or a part of one, such as "train[:90%]".
        size: See `resize.to_array`; None keeps the images, except for PREPARATION.

    Raises:
        DataError: If the set is not there, or is in a format without random access.
    """
    builder, tfds = _builder(dataset, path)
    features: Any = builder.info.features
    if "image" not in features:
        raise DataError(
            f"tfds:{dataset}: has no 'image', only {', '.join(sorted(features))}"
        )
    decoders: Any = {"image": tfds.decode.SkipDecoding()}
    try:
        source: Any = builder.as_data_source(split, decoders=decoders)
    except (ValueError, KeyError) as error:
        known = ", ".join(sorted(builder.info.splits))
        raise DataError(
            f"data.split={split!r}: tfds:{dataset} has the splits {known}"
        ) from error
    labels, num_classes = np.zeros(len(source), np.int32), 0
    if "label" in features:
        every = range(len(source))
        labels = np.array(
            [_entry(source, dataset, i, "label") for i in every], np.int32
        )
        num_classes = features["label"].num_classes
    preparation: dict[str, Any] = {**PREPARATION.get(dataset, {})}
    usual = preparation.pop("size", None)
    return from_encoded(
        lambda number: (
            f"tfds:{dataset}[{number}]",
            _entry(source, dataset, number, "image"),
        ),
        labels,
        num_classes=num_classes,
        name=f"tfds:{dataset}",
        size=size or usual,
        **preparation,
    )


def _entry(source, dataset, number, key):
    try:
        entry = source[number][key]
        why = "is empty"
    # ArrayRecord checks its own sums.
    except (RuntimeError, ValueError, IndexError) as error:
        entry, why = None, " ".join(str(error).split())
    if entry is None:
        raise DataError(
            f"tfds:{dataset}[{number}]: {key} cannot be read ({why}); prepare the set"
            " again"
        )
    return entry


def _builder(dataset, path) -> tuple[Any, Any]:
    """Of the newest version on disk, found without the code that prepares it."""
    data_dir = path or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    where = pathlib.Path(data_dir).expanduser() / dataset
    found = sorted(where.glob("*/dataset_info.json"), key=_version)
    way_out = (
        f"pip install 'kdiff_jax[prepare]' and tfds build {dataset}"
        f" --file_format=array_record --data_dir={data_dir}, or use an own file with"
        " --config.data.name=npz --config.data.path=FILE.npz"
    )
    if not found:
        raise DataError(
            f"tfds:{dataset}: not prepared under {where} (data.path, else"
            f" $TFDS_DATA_DIR, else ~/tensorflow_datasets); {way_out}"
        )
    file_format = json.loads(found[-1].read_text()).get("fileFormat", "tfrecord")
    if file_format != "array_record":
        raise DataError(
            f"{found[-1].parent}: in format {file_format}, which has no random access;"
            f" {way_out}"
        )
    # Slow to import, and most runs do not need it.
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(found[-1].parent), tfds


def _version(file):
    """(3, 0, 2) of .../3.0.2/dataset_info.json."""
    return [int(n) if n.isdigit() else -1 for n in file.parent.name.split(".")]
