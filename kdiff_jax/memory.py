"""Memory: what cannot fit on this host is refused, and what did not is told."""

import contextlib
from collections.abc import Iterator

from kdiff_jax import arrays, storage
from kdiff_jax.errors import ConfigError, UserError


def check(argument: str, need: int, way_out: str) -> None:
    """Raises ConfigError if `need` bytes are more than the memory.

    Args:
        argument: Option and value that ask for it.
        need: Bytes.
        way_out: What to do instead.
    """
    there = arrays.memory()
    if need > there:
        raise ConfigError(
            f"{argument}: needs {need / 1e9:.4g} GB of memory, and there are"
            f" {there / 1e9:.4g} GB; {way_out}"
        )


def is_out(error: BaseException) -> bool:
    """Whether an exception says that a device or the host is out of memory."""
    exhausted = "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError)
    return exhausted and storage.error_of(error) is None  # a full disk says it, too


@contextlib.contextmanager
def speaking(argument: str, way_out: str) -> Iterator[None]:
    """Tells a block that is out of memory by the option that asks for it.

    Args:
        argument: Option and value.
        way_out: What to do instead.

    Raises:
        ConfigError: In place of the exception of the device or the host.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_out(error):
            raise
        why = " ".join(str(error).split())[:200]
        raise ConfigError(f"{argument}: out of memory; {way_out} ({why})") from error


def size_text(num_bytes: float | int) -> str:
    """So many bytes as a person says them: 7.33 GB, 512 KB."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    raise AssertionError
