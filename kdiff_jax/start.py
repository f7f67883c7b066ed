"""What every command sets up before it starts JAX: logs, the cache, the platform."""

import ctypes
import difflib
import importlib.util
import logging
import os
import pathlib
import sys
import tempfile
import threading
import warnings

from kdiff_jax import provided
from kdiff_jax.errors import ConfigError

log = logging.getLogger(__name__)


class ToStderr(logging.Handler):
    """Lines to what stderr is when they are said: above a bar that is drawn there."""

    def emit(self, record):
        try:
            print(f"{self.format(record)}\n", end="", file=sys.stderr, flush=True)
        except (OSError, ValueError):
            self.handleError(record)


class _Messages(logging.Formatter):
    """Messages without the tracebacks that libraries add."""

    def format(self, record):
        return record.getMessage()


def logs(debug: bool = False) -> None:
    """Our own lines at INFO; of the libraries below only what is wrong.

    Args:
        debug: Show tracebacks. Else what fails in a thread of a library is a line.
    """
    logging.basicConfig(
        format="%(message)s", level=logging.WARNING, handlers=[ToStderr()], force=True
    )
    if not debug:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_Messages())
        threading.excepthook = lambda found: _in_thread(found.exc_value)
        sys.unraisablehook = lambda found: _in_thread(found.exc_value)
        # The first words: JAX warns of every program that its cache does not take.
        warnings.showwarning = lambda message, *_, **__: _tell_once(
            str(message).partition(" for ")[0], str(message)
        )
        sys.excepthook = lambda kind, error, trace: _in_thread(error)
    logging.raiseExceptions = False  # a log that is full is no reason to end
    logging.getLogger("kdiff_jax").setLevel(logging.INFO)
    # JAX names every platform that it does not find.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    # What Orbax logs as an error it also raises.
    absl = logging.ERROR if debug else logging.CRITICAL
    logging.getLogger("absl").setLevel(absl)


def allocator() -> None:
    """Lets freed memory stay with the process, where JAX is to run on the CPU.

    XLA allocates what a program needs anew in every call, in threads of its own. glibc
    gives large blocks back to the kernel at once, and getting them again, page by page,
    takes up to a third of the time of FID's Inception-v3. Threads keep heaps of their
    own, of up to 64 MiB: what compiling leaves in a single one has every later
    allocation search through it, a tenth of a step's time and more. To be called before
    threads start. MALLOC_ variables of the environment have the last word, as have
    other libcs.
    """
    plugins = ("jax_plugins", "libtpu")
    cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(
        importlib.util.find_spec(name) for name in plugins
    )
    if not cpu or any(name.startswith("MALLOC_") for name in os.environ):
        return
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is None:
        return
    for parameter, value in _KEPT:
        mallopt(parameter, value)


# (parameter of mallopt, value): no block of its own mapping; never trimmed; grown by
# 64 MiB.
_KEPT = ((-4, 0), (-1, 2**31 - 1), (-2, 2**26))


def libraries() -> None:
    """Imports JAX, which reads its settings from the environment.

    Raises:
        ConfigError: If one of them is none.
    """
    try:
        import jax  # noqa: F401
    except ValueError as error:
        raise ConfigError(f"environment: {error}") from error


def mute() -> None:
    """Drops what stdout holds, if it cannot be written: Python would try again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_told: set[str] = set()


def _in_thread(error: BaseException | None) -> None:
    """Logs what no caller can catch, each text once: a full disk fails many threads."""
    text = f"{type(error).__name__}: {error}"
    _tell_once(text, f"an error beside the run: {text}")


def _tell_once(key: str, text: str) -> None:
    if key not in _told:
        _told.add(key)
        log.warning("%s", " ".join(text.split())[:300])


def cache() -> None:
    """Compiled programs outlive the process: a restart takes seconds, not minutes.

    KDIFF_CACHE names the folder; empty is off. Its content is trusted. A folder that
    cannot be used costs time, and never the run.
    """
    import jax

    folder = os.environ.get("KDIFF_CACHE")
    try:
        if folder is None:
            folder = pathlib.Path.home() / ".cache/kdiff_jax"
        elif not folder:
            return
        folder = pathlib.Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError, ValueError) as error:  # no home is a RuntimeError
        log.warning(
            "no cache of compiled programs, so that every start compiles anew: %s;"
            " KDIFF_CACHE=FOLDER names another, KDIFF_CACHE= is off",
            getattr(error, "strerror", None) or error,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def platform() -> None:
    """Starts JAX's devices, where the environment says which.

    Raises:
        ConfigError: If it names a platform that is not here, or JAX cannot start.
    """
    import jax

    asked = os.environ.get("JAX_PLATFORMS")
    try:
        jax.devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        text = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0]
        text = f" ({text[:300].rstrip('.')})" if text else ""
        what = f"JAX_PLATFORMS={asked}" if asked else "JAX"
        raise ConfigError(
            f"{what}: cannot start on this machine{text}; unset JAX_PLATFORMS to take"
            " what is here, or set JAX_PLATFORMS=cpu"
        ) from error


def split_cpu(num_devices: int) -> None:
    """Takes the CPU for `num_devices` devices, of a core each at least.

    On small images XLA keeps one core busy, so that two devices are 1.5 times as fast;
    on larger ones it uses all, and one device is best. JAX_NUM_CPU_DEVICES and
    XLA_FLAGS have the last word; other platforms do not mind.

    Raises:
        ConfigError: If the number is below 1.
    """
    if num_devices < 1:
        raise ConfigError(f"--config.cpu_devices={num_devices}: must be 1 or more")
    given = os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in given:
        return
    import jax

    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(num_devices, cores))


def find_recipe(text: str) -> str:
    """NAME[:ARG] or FILE.py[:ARG] with the path of the recipe's file.

    Recipes import what they share from `configs`: those beside them, and those that
    come with this package, in a clone or installed. What is not here is looked up there
    too, so that NAME and configs/NAME.py work in every folder.

    Raises:
        ConfigError: If there is no such file.
    """
    name, colon, argument = text.partition(":")
    file = pathlib.Path(name).expanduser()
    if not file.is_file():
        file = provided.find(name) or file
    if not file.is_file():
        like = difflib.get_close_matches(file.stem, provided.names(), n=1)
        hint = f" ({like[0]!r} is one)" if like else ""
        raise ConfigError(
            f"--config={name}: no such file, nor a recipe of that name{hint}; give"
            " NAME[:ARG] of configs/, as digits_student, or FILE.py[:ARG]"
        )
    folder = file.absolute().parent
    first = str(folder.parent)
    sys.path[:0] = [] if first in sys.path else [first]
    # Last: a recipe's neighbour must not stand in for a module of Python.
    for path in (provided.folder(), folder):
        if path and str(path) not in sys.path:
            sys.path.append(str(path))
    return f"{file}{colon}{argument}"
