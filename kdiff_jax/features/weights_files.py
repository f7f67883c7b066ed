"""Where the file of a network's weights is: as given, at its place, or fetched once."""

import hashlib
import os
import pathlib
import urllib.error
import urllib.request

from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.features import WeightsFile
from kdiff_jax.files import write_atomically

FOLDER = "KDIFF_WEIGHTS"  # the variable that names it
SECONDS = 60  # without a byte, after which a download is given up


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
    if given is not None or file.url is None or fetch or place(file).is_file():
        return None
    return f"{network} needs {file.wanted}; put it at {place(file)}"


def find(
    file: WeightsFile,
    given: str | os.PathLike | None,
    *,
    fetch: bool = False,
    network: str,
) -> pathlib.Path:
    """The file of a network's weights; it is read and checked by others.

    Args:
        file: The public file.
        given: The file that the user named, or None.
        fetch: Download the public file to its place if it is not there.
        network: Name of the network, for messages.

    Raises:
        ConfigError: If there is none. The message says which it is and where to put it.
        CheckpointError: If it cannot be fetched, or what was fetched is another.
    """
    if given is not None:
        return pathlib.Path(given).expanduser()
    if file.url is None:
        raise ConfigError(f"weights=None: {network} needs its file; give {file.wanted}")
    if absent := missing(file, fetch=fetch, network=network):
        raise ConfigError(f"weights=None: {absent}, give another path, or set fetch")
    path = place(file)
    if not path.is_file():
        write_atomically(path, _download(file, path))
    return path


def _download(file: WeightsFile, path: pathlib.Path) -> bytes:
    again = f"put {file.wanted} at {path} by hand"
    try:
        with urllib.request.urlopen(file.url or "", timeout=SECONDS) as answer:
            # One byte more than there should be: it shows, and fills no memory.
            data = answer.read(file.size + 1 if file.size else -1)
    except (OSError, ValueError, urllib.error.URLError) as error:
        why = getattr(error, "reason", None) or error
        raise CheckpointError(f"fetch={file.url}: {why}; {again}") from error
    found = hashlib.sha256(data).hexdigest()
    if file.sha256 and found != file.sha256:
        raise CheckpointError(
            f"fetch={file.url}: {len(data):,} bytes of sha256 {found} are another file"
            f" or a part of it; {again}"
        )
    return data
