"""Storage that is full, read-only or failing is told from other errors."""

import errno
import os

import pytest

from kdiff_jax import storage
from kdiff_jax.errors import CheckpointError


def raised(make, wrap=None):
    """An exception as it is caught, in that of a library if `wrap` makes one."""
    try:
        try:
            raise make
        except Exception as error:
            if wrap is None:
                raise
            raise wrap from error
    except Exception as error:
        return error


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG]
)
def test_the_line_has_the_path_and_the_systems_words(code, tmp_path):
    path = str(tmp_path / "x")
    found = storage.error_of(OSError(code, os.strerror(code), path))
    assert found.exit_code == 7
    assert str(found).startswith(f"{path}: {os.strerror(code)}")
    assert "the same command again" in str(found)


def test_what_is_free_and_what_it_must_hold(tmp_path):
    error = OSError(errno.ENOSPC, "full", str(tmp_path / "not" / "yet"))
    line = str(storage.error_of(error, need="the run needs 3 GB"))
    assert " MB are free, the run needs 3 GB; " in line


def test_an_error_without_a_file_names_the_place(tmp_path):
    line = str(storage.error_of(OSError(errno.ENOSPC, "full"), place=str(tmp_path)))
    assert line.startswith(f"{tmp_path}: No space left on device, ")


def test_a_library_that_tells_it_in_its_text_alone(tmp_path):
    path = tmp_path / "checkpoints/3/state/d/ab"
    path.parent.mkdir(parents=True)
    text = (
        f'RESOURCE_EXHAUSTED: Error writing "d/ab" in OCDBT database at file://{path}:'
        ' Failed to write: No space left on device [source locations="a/b.cc:47"]'
    )
    line = str(storage.error_of(ValueError(text)))
    assert line.startswith(f"{path}: No space left on device")


@pytest.mark.parametrize("wrap", [RuntimeError("saving failed"), ExceptionGroup])
def test_it_is_found_below_other_exceptions(wrap, tmp_path):
    cause = OSError(errno.EROFS, "read-only", str(tmp_path))
    if wrap is ExceptionGroup:
        wrap, cause = ExceptionGroup("several", [KeyError("a"), cause]), KeyError("b")
    assert "Read-only" in str(storage.error_of(raised(cause, wrap)))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 10 bytes"),
        RuntimeError("Gloo: Connection timed out"),
        ConnectionResetError(errno.EIO, "a socket's"),
        FileNotFoundError(errno.ENOENT, "not there", "/x"),
        KeyError("EIO"),
        None,
    ],
)
def test_what_is_something_else(error):
    assert storage.error_of(error) is None


def test_a_report_of_damage_keeps_its_code_unless_the_storage_fails():
    wrong = raised(PermissionError(errno.EACCES, "no"), CheckpointError("damaged"))
    assert storage.error_of(wrong.__cause__, hard=True) is None
    failing = raised(OSError(errno.EIO, "no"), CheckpointError("damaged"))
    assert storage.error_of(failing.__cause__, hard=True).exit_code == 7
