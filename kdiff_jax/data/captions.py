"""Images with captions, as people have them, and prompts without images.

- a folder: a caption in NAME.txt beside NAME.png, or in metadata.jsonl or metadata.csv
  with `file_name` (from its own folder) and `text`
- a .tar, or many of them in a folder: NAME.jpg and NAME.txt, or NAME.json with
  `caption`, as webdataset has them; a folder or .tar of gs:// or s3://, too
- a .json: COCO's captions, `images` (id, file_name) and `annotations` (image_id,
  caption); the images lie in a folder of their own
- a .txt: prompts, one a line

Files are UTF-8. An image may have several captions.
"""

import csv
import hashlib
import io
import json
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from kdiff_jax.data import folder, objects, tars
from kdiff_jax.data.encoded import Look, from_encoded
from kdiff_jax.data.images import Images
from kdiff_jax.data.listing import LeftOut, sort_out
from kdiff_jax.errors import DataError
from kdiff_jax.files import Unreadable, read_regular

log = logging.getLogger(__name__)

METADATA = ("metadata.jsonl", "metadata.csv")
MAX_BYTES = 2**32  # of a file of captions; COCO's has 7e7


class Captioned(NamedTuple):
    """Images and their captions.

    Attributes:
        names: Names of the images, sorted; () of prompts without images.
        captions: For each image its captions, one or more; of prompts without images
            all are in the one entry.
        fetch: (number) -> (name, content) of an image's file.
        where: The folder of the images, or the file of the prompts.

    Examples:
        >>> import pathlib
        >>> from PIL import Image
        >>> from kdiff_jax.data import captions
        >>> pathlib.Path("pets").mkdir()
        >>> Image.new("RGB", (40, 30)).save("pets/cat.png")
        >>> _ = pathlib.Path("pets/cat.txt").write_text("a cat on a mat")
        >>> captions.read("pets").images(size=16, channels=3).shape
        (16, 16, 3)
    """

    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    fetch: Callable[[int], tuple[str, bytes]]
    where: str

    @property
    def sha256(self) -> str:
        """Digest of all names and captions, not of pixels."""
        found = hashlib.sha256()
        for part in (self.names, *self.captions):
            text = json.dumps(part, ensure_ascii=True)
            found.update(text.encode() + b"\n")
        return found.hexdigest()

    def images(self, size: int, channels: int, *, at_once: bool = True) -> Images:
        """The images, cropped to the largest centred square and resized.

        Args:
            size: Side in pixels.
            channels: 1 or 3.
            at_once: See `encoded.from_encoded`.

        Raises:
            DataError: If one cannot be read; see `encoded.from_encoded`.
        """
        return from_encoded(
            self.fetch,
            np.zeros(len(self.names), np.int32),
            num_classes=0,
            name=f"captioned {self.where}",
            prefix=f"{self.where}/",
            look=Look(size=size, channels=channels),
            at_once=at_once,
        )


def read(path: str, images: str | None = None) -> Captioned:
    """Images with captions, or prompts; see the list above.

    Images without a caption are left out, and counted in a line of the log.

    Args:
        path: A folder, a .json of COCO, a .txt of prompts, or .tar files here or in a
            store, gs:// or s3://.
        images: Folder of the images of a .json; None is the folder that it lies in.

    Raises:
        DataError: If there is nothing, or it is damaged.

    Examples:
        >>> import pathlib
        >>> from PIL import Image
        >>> from kdiff_jax.data import captions
        >>> pathlib.Path("pets").mkdir()
        >>> Image.new("RGB", (40, 30)).save("pets/cat.png")
        >>> _ = pathlib.Path("pets/cat.txt").write_text("a cat on a mat")
        >>> found = captions.read("pets")
        >>> found.names, found.captions
        (('cat.png',), (('a cat on a mat',),))
    """
    if objects.is_remote(path):
        return _of_tars(path, objects.find(path, tars.SUFFIX), LeftOut())
    where = pathlib.Path(path).expanduser()
    if where.is_dir():
        return _of_folder(where)
    if not where.is_file():
        raise DataError(f"{path}: does not exist; give a folder, .json or .txt")
    kind = where.suffix.lower()
    if kind == tars.SUFFIX:
        return _of_tars(where, {"": objects.Local(where)}, LeftOut())
    if kind == ".json":
        return _of_coco(where, pathlib.Path(images or where.parent).expanduser())
    if kind == ".txt":
        return _of_prompts(where)
    raise DataError(
        f"{path}: is no folder of images, no .tar of them, no .json of COCO's captions"
        " and no .txt of prompts; give one of these"
    )


def prompts(path: str) -> tuple[str, ...]:
    """Prompts of a file, one of each image; the images need not be there.

    Args:
        path: A .txt with one a line, a .json of COCO's captions, a .csv or .jsonl with
            `text`, or a folder of images with captions. Of several captions of an image
            the first is taken, images in the order of their names or of the table.

    Raises:
        DataError: If there is none, or the file is damaged.

    Examples:
        >>> import pathlib
        >>> from kdiff_jax.data import captions
        >>> _ = pathlib.Path("prompts.txt").write_text("a cat\\na dog\\n")
        >>> captions.prompts("prompts.txt")
        ('a cat', 'a dog')
    """
    file = pathlib.Path(path).expanduser()
    kind = file.suffix.lower()
    if file.is_file() and kind == ".txt":
        return _of_prompts(file).captions[0]
    if file.is_file() and kind in (".csv", ".jsonl"):
        found: dict[str, str] = {}
        for name, text in _rows(file):
            found.setdefault(name, text)
    elif file.is_file() and kind == ".json":
        captions = _captions_of_coco(file)
        texts = sorted(captions.items())
        found = {name: next(filter(None, own), "") for name, own in texts}
    else:
        return tuple(texts[0] for texts in read(path).captions)
    chosen = tuple(text for text in found.values() if text)
    if not chosen:
        raise DataError(f"{file}: no captions in it; give another file of prompts")
    return chosen


def _of_prompts(file: pathlib.Path) -> Captioned:
    lines = [line.strip() for line in _text(file).split("\n")]
    prompts = tuple(line for line in lines if line)
    if not prompts:
        raise DataError(f"{file}: no prompts in it; write one a line")
    if blank := len(lines) - len(prompts):
        log.info("%s: left out %d empty lines", file, blank)
    return Captioned((), (prompts,), _no_images, str(file))


def _of_folder(root: pathlib.Path) -> Captioned:
    left_out = LeftOut()
    found, _ = folder.search(str(root), left_out)
    names, others = sort_out(found, left_out)
    packed = {
        name: objects.Local(root / name)
        for name in others
        if name.lower().endswith(tars.SUFFIX)
    }
    if packed and not names:
        return _of_tars(root, packed, left_out)
    if not names:
        left_out.say(str(root))
        raise DataError(f"{root}: no images in it; give a folder of images, or of .tar")
    tables = [name for name in others if name.rpartition("/")[2] in METADATA]
    beside = {name for name in others if name.lower().endswith(".txt")}
    captions: dict[str, list[str]] = {}
    for table in tables:
        base = table.rpartition("/")[0]
        for name, text in _rows(root / table):
            captions.setdefault(_joined(base, name), []).append(text)
    if unknown := sorted(captions.keys() - set(names)):
        raise DataError(
            f"{root / unknown[0]}: has a caption, and is no image that is there"
            f"{_more(unknown)}; copy the images again, or delete the rows"
        )
    if not tables:
        for name in names:
            file = f"{name.rpartition('.')[0]}.txt"
            if file in beside:
                captions[name] = [_text(root / file).strip()]
    return _chosen(root, names, captions, left_out)


def _of_tars(root, files: Mapping[str, objects.File], left_out: LeftOut) -> Captioned:
    members, captions = tars.index(files, left_out)
    chosen = _chosen(root, list(members), captions, left_out)

    def fetch(number: int) -> tuple[str, bytes]:
        name = chosen.names[number]
        return name, members[name].read()

    return chosen._replace(fetch=fetch)


def _captions_of_coco(file: pathlib.Path) -> dict[str, list[str]]:
    """The captions of each image, by its name."""
    content = _parsed(file, _text(file))
    try:
        files = {image["id"]: image["file_name"] for image in content["images"]}
        captions: dict[str, list[str]] = {name: [] for name in files.values()}
        for note in content["annotations"]:
            captions[files[note["image_id"]]].append(note["caption"].strip())
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file}: is no file of COCO's captions ({_short(error)}); give one with"
            " images (id, file_name) and annotations (image_id, caption)"
        ) from error
    return captions


def _of_coco(file: pathlib.Path, root: pathlib.Path) -> Captioned:
    captions = _captions_of_coco(file)
    if not root.is_dir():
        raise DataError(f"{root}: does not exist; give the folder of the images")
    names = sorted(captions)
    if missing := [name for name in names if not (root / name).is_file()]:
        raise DataError(
            f"{root / missing[0]}: is not there, and {file} names it"
            f"{_more(missing)}; give the folder of the images (--images)"
        )
    return _chosen(root, names, captions, LeftOut())


def _chosen(root, names, captions, left_out: LeftOut) -> Captioned:
    """The images that have captions."""
    texts = {k: tuple(text for text in v if text) for k, v in captions.items()}
    chosen = tuple(name for name in names if texts.get(name))
    for name in names:
        if not texts.get(name):
            left_out.add("without a caption", name)
    if not chosen:
        raise DataError(
            f"{root}: no image in it has a caption; write NAME.txt beside each NAME.png"
            " or metadata.jsonl with file_name and text"
        )
    left_out.say(str(root))

    def fetch(number: int) -> tuple[str, bytes]:
        return chosen[number], folder.content(root / chosen[number])

    return Captioned(chosen, tuple(texts[name] for name in chosen), fetch, str(root))


def _rows(table: pathlib.Path) -> Iterable[tuple[str, str]]:
    """(file_name, text) of each row of a metadata file."""
    text = _text(table)
    rows: Iterable[Any]
    if table.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(text, newline=""))
    else:
        lines = enumerate(text.split("\n"), 1)
        rows = (_parsed(f"{table}, line {i}", s) for i, s in lines if s.strip())
    for row in _read_all(rows, table):
        name, caption = (
            row.get(key) if isinstance(row, dict) else None
            for key in ("file_name", "text")
        )
        if not isinstance(name, str) or not isinstance(caption, str):
            raise DataError(
                f"{table}: a row has no file_name or no text ({str(row)[:80]!a}); give"
                " each row both"
            )
        yield name, caption.strip()


def _read_all(rows: Iterable[Any], table: pathlib.Path) -> Iterable[Any]:
    try:
        yield from rows
    except csv.Error as error:
        raise DataError(f"{table}: {error}; write it as UTF-8 CSV again") from error


def _joined(base: str, name: str) -> str:
    """A path from the root, of one from a folder in it."""
    parts: list[str] = []
    for part in [*base.split("/"), *name.replace("\\", "/").split("/")]:
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _parsed(where: object, text: str) -> Any:
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise DataError(
            f"{where}: is no JSON ({_short(error)}); copy the file again"
        ) from error


def _text(file: pathlib.Path) -> str:
    try:
        return read_regular(file, max_bytes=MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: is no UTF-8 text ({_short(error)}); save it as UTF-8"
        ) from error
    except (OSError, Unreadable) as error:
        raise DataError(f"{file}: cannot be read ({_short(error)})") from error


def _no_images(number: int) -> tuple[str, bytes]:
    raise DataError(f"image {number}: prompts have no images")


def _more(names: list[str]) -> str:
    return f", as {len(names) - 1} more" if len(names) > 1 else ""


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
