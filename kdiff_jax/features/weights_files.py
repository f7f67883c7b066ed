"""Where the file of a network's weights is: as given, at its place, or fetched once."""

import hashlib
import http.client
import logging
import os
import pathlib
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO

from kdiff_jax.errors import CheckpointError
from kdiff_jax.features import WeightsFile
from kdiff_jax.files import write_atomically

FOLDER = "KDIFF_WEIGHTS"  # the variable that names it
SECONDS = 60  # without a byte, after which a download is given up
CHUNK = 2**20  # bytes of a download that are in memory
log = logging.getLogger(__name__)


def place(file: WeightsFile) -> pathlib.Path:
    """Where the file lies if nothing is said of it.

    In the folder that the variable KDIFF_WEIGHTS names, or ~/.cache/kdiff_jax/weights.
    """
    folder = os.environ.get(FOLDER) or "~/.cache/kdiff_jax/weights"
    return pathlib.Path(folder).expanduser() / file.name


def missing(
    file: WeightsFile,
    given: str | os.PathLike | None = None,
    *,
    fetch: bool = False,
    network: str,
) -> str | None:
    """What to say of a public file that nobody gave and that is not at its place.

    Args:
        file: The public file.
        given: The file that the user named, or None.
        fetch: Whether it may be downloaded.
        network: Name of the network, for the message.

    Returns:
        Which file it is and where to put it; None if there is nothing to say.
    """
    if given is not None or (fetch and file.url) or place(file).is_file():
        return None
    unknown = "sha256 not known: rows state that of the file that is read"
    wanted = file.wanted if file.sha256 else file.described(unknown)
    return f"{network} needs {wanted}; put it at {place(file)}"


def find(
    file: WeightsFile,
    given: str | os.PathLike | None,
    *,
    fetch: bool = False,
    network: str,
) -> pathlib.Path:
    """The file of a network's weights; `network.load` reads it, `digest` checks it.

    Args:
        file: The public file.
        given: The file that the user named, or None.
        fetch: Download the public file to its place if it is not there.
        network: Name of the network, for messages.

    Raises:
        CheckpointError: If there is none, it cannot be fetched, or what was fetched is
            another. The message says which it is and where to put it.
    """
    if given is not None:
        return pathlib.Path(given).expanduser()
    if absent := missing(file, fetch=fetch, network=network):
        ways = "give another path, or set fetch" if file.url else "or give another path"
        raise CheckpointError(f"weights=None: {absent}, {ways}")
    path = place(file)
    if not path.is_file():
        log.info("fetching %s to %s", file.url, path)
        write_atomically(path, lambda target: _download(file, path, target))
    return path


def digest(path: pathlib.Path, file: WeightsFile) -> str:
    """The sha256 of a file of weights; the public file must have its own.

    Args:
        path: The file.
        file: The public file of the network.

    Raises:
        CheckpointError: If it has the name of the public file, and is none.
    """
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if not file.sha256 or found in (file.sha256, *file.also):
        return found
    if path.name == file.name:
        raise CheckpointError(
            f"weights={path}: sha256 is {found}; it is damaged: give {file.wanted}"
        )
    log.warning(
        "weights=%s: none of the public files that are known (sha256 %s); figures"
        " compare with those of the same file alone",
        *(path, found),
    )
    return found


def _download(file: WeightsFile, path: pathlib.Path, target: BinaryIO) -> None:
    """Writes the public file; it is not put at its place unless it is whole."""
    found, num = hashlib.sha256(), 0
    for chunk in _chunks(file, path):
        target.write(chunk)
        found.update(chunk)
        num += len(chunk)
    if file.sha256 and found.hexdigest() != file.sha256:
        raise CheckpointError(
            f"fetch={file.url}: {num:,} bytes of sha256 {found.hexdigest()} are another"
            f" file or a part of it; {_by_hand(file, path)}"
        )


def _chunks(file: WeightsFile, path: pathlib.Path) -> Iterator[bytes]:
    """The bytes behind the url, and at most one chunk more than there should be."""
    try:
        with urllib.request.urlopen(file.url or "", timeout=SECONDS) as answer:
            num, size = 0, answer.headers.get("Content-Length")
            while chunk := answer.read(CHUNK):
                yield chunk
                num += len(chunk)
                if file.size and num > file.size:
                    return
        if size and num != int(size):
            raise OSError(f"{num:,} bytes came of {int(size):,}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None) or error
        raise CheckpointError(
            f"fetch={file.url}: {why}; {_by_hand(file, path)}"
        ) from error


def _by_hand(file: WeightsFile, path: pathlib.Path) -> str:
    return f"put {file.wanted} at {path} by hand"
