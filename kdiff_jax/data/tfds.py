"""Sets prepared by tensorflow-datasets, read without TensorFlow.

Only sets in the ArrayRecord format have random access. Preparing one needs TensorFlow;
this module never prepares, and never downloads.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

from kdiff_jax.data.encoded import Look, from_encoded
from kdiff_jax.data.images import BACKGROUND, Images
from kdiff_jax.data.labels import checked
from kdiff_jax.data.resize import Resampling
from kdiff_jax.errors import DataError

# What papers do to a set before anything else; other sets are kept as they are.
# celeb_a: the square of 140 pixels in the middle, scaled to 64, as for DDIM and the
# Denoising Student.
PREPARATION = {"celeb_a": dict(crop=140, size=64, resample=Resampling.BILINEAR)}


def load(
    *,
    dataset: str,
    path: str | None,
    split: str,
    size: int | None,
    use_labels: bool = True,
    channels: int | None = None,
    background: str = BACKGROUND,
) -> Images:
    """A prepared set: its "image" and, where it has one, its "label".

    Args:
        dataset: NAME or NAME/CONFIG, as in the catalogue of tensorflow-datasets.
        path: The data_dir; None takes $TFDS_DATA_DIR or ~/tensorflow_datasets.
        split: A split of the set, or a part of one, such as "train[:90%]".
        size: Side in pixels that images are cropped and resized to; None keeps
            them, but for celeb_a's, of which papers take the middle at 64.
        use_labels: False reads none.
        channels: 1 or 3, that images are converted to; None keeps them.
        background: Colour below transparent pixels: a name, or "#rrggbb".

    Raises:
        DataError: If the set is not there, is damaged, or is in a format without random
            access.

    Examples:
        >>> from kdiff_jax.data import images
        >>> found = images.load("mnist", path=TFDS, split="train[:50%]")
        >>> found.shape, found.num_classes
        ((28, 28, 1), 10)
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
    except Exception as error:
        raise _damaged(f"tfds:{dataset}", error) from error
    if not len(source):
        raise DataError(f"data.split={split!r}: tfds:{dataset} has no image in it")
    labels, num_classes = np.zeros(len(source), np.int32), 0
    if use_labels and "label" in features:
        labels, num_classes = checked(
            [int(_entry(source, dataset, i, "label")) for i in range(len(source))],
            where=f"tfds:{dataset}",
            num_classes=getattr(features["label"], "num_classes", None),
        )
    preparation: dict[str, Any] = {**PREPARATION.get(dataset, {})}
    usual = preparation.pop("size", None)
    return from_encoded(
        lambda number: (f"[{number}]", _entry(source, dataset, number, "image")),
        labels,
        num_classes=num_classes,
        name=f"tfds:{dataset}",
        prefix=f"tfds:{dataset}",
        look=Look(
            size=size or usual, channels=channels, background=background, **preparation
        ),
    )


def _entry(source, dataset, number, key):
    try:
        entry = source[number][key]
        why = "is empty"
    # ArrayRecord checks its own sums; what else is damaged may raise anything.
    except Exception as error:
        entry, why = None, " ".join(str(error).split())
    if entry is None:
        raise DataError(
            f"tfds:{dataset}[{number}]: {key} cannot be read ({why}); prepare the set"
            " again"
        )
    return entry


def _builder(dataset, path) -> tuple[Any, Any]:
    """(builder, tfds) of the newest version on disk; needs no preparing code."""
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
    folder = found[-1].parent
    try:
        file_format = json.loads(found[-1].read_text()).get("fileFormat", "tfrecord")
        if file_format == "array_record":
            # Slow to import, and most runs do not need it.
            import tensorflow_datasets as tfds

            return tfds.builder_from_directory(folder), tfds
    except Exception as error:  # of files that anything may have happened to
        raise _damaged(folder, error, f": {way_out}") from error
    raise DataError(
        f"{folder}: in format {file_format}, which has no random access; {way_out}"
    )


def _damaged(where, error, way_out="") -> DataError:
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(
        f"{where}: damaged ({why}); delete it and prepare the set again{way_out}"
    )


def _version(file):
    """(3, 0, 2) of .../3.0.2/dataset_info.json."""
    return [int(n) if n.isdigit() else -1 for n in file.parent.name.split(".")]
