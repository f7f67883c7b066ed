"""Storage that is full, read-only or failing: told from other errors, in one line.

Libraries wrap what the system said in exceptions of their own, often in the text alone;
so the whole chain of an exception is searched, for numbers and for the system's words.
"""

import errno
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from kdiff_jax.errors import StorageError

CODES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENOTCONN, errno.ENODEV),
    *(errno.ENXIO, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EHOSTDOWN),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY),
}
# A folder where a file belongs, or the other way round.
_KIND = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY}
# Of a text alone these say nothing of files: peers time out and disconnect, too.
_SILENT = {errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EPERM, *_KIND}
_WORDS = {os.strerror(code): code for code in CODES - _SILENT}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_HARD = {*_FULL, errno.EROFS, errno.EIO, errno.ESTALE}
_PATH = re.compile(r"(?<![\w.])(?:file://)?(/[^\s'\"\],:]+)")


def error_of(
    error: BaseException | None,
    *,
    place: str = "storage",
    need: str = "",
    hard: bool = False,
) -> StorageError | None:
    """The line about storage that an exception comes down to; None if it is another's.

    Args:
        error: Any exception, searched with its causes and its context, or None.
        place: What to name where the exception names no file.
        need: What the storage must hold, in words, where it is known.
        hard: Leave out what may as well be a wrong path: permissions, devices.
    """
    for one in _chain(error):
        code, path = _of_system(one) or _of_text(str(one)) or (None, None)
        if code is not None and not (hard and code not in _HARD):
            return StorageError(_line(code, path or place, need))
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    todo, seen = [error], set()
    while todo:
        one = todo.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__cause__, one.__context__]
        todo += getattr(one, "exceptions", ())  # of a group


def _of_system(error) -> tuple[int, str | None] | None:
    if isinstance(error, ConnectionError) or not isinstance(error, OSError):
        return None
    if error.errno not in CODES:
        return None
    path = error.filename2 or error.filename
    return error.errno, os.fsdecode(path) if isinstance(path, str | bytes) else None


def _of_text(text: str) -> tuple[int, str | None] | None:
    for words, code in _WORDS.items():
        if words in text:
            # Of all paths in it the first that is one here, or has a folder that is.
            paths = [found.rstrip(".") for found in _PATH.findall(text)]
            here = (p for p in paths if os.path.exists(os.path.dirname(p)))
            return code, next(here, None)
    return None


def _line(code: int, path: str, need: str) -> str:
    text = f"{path}: {os.strerror(code)}"
    if code in _FULL:
        if (free := _free(path)) is not None:
            text += f", {free / 1e6:.4g} MB are free"
        text += f", {need}" if need else ""
        mend = "free some or raise the quota"
    elif code == errno.EROFS:
        mend = "mount it for writing, or choose another folder"
    elif code in (errno.EACCES, errno.EPERM):
        mend = "allow this user to use it, or choose another folder"
    elif code in _KIND:
        mend = "something else belongs there: move it away"
    else:
        mend = "mend the storage"
    return f"{text}; {mend}, and run the same command again"


def _free(path: str) -> int | None:
    """Bytes that are free where a path lies or would lie."""
    whole = pathlib.Path(path).absolute()
    for folder in (whole, *whole.parents):
        try:
            return shutil.disk_usage(folder).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
