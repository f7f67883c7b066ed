"""Where a command writes: looked at before anything is computed, and written whole."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping

from kdiff_jax import files
from kdiff_jax.errors import ConfigError, StorageError


def expanded(argument: str, text: str) -> pathlib.Path:
    """The path, with the home folder for `~`.

    Raises:
        ConfigError: If there is no such home folder.
    """
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ConfigError(
            f"{argument}={text}: no home folder of that name; write ./{text} for a file"
            " that is called so"
        )
    return pathlib.Path(path)


def file(
    argument: str,
    text: str,
    *,
    suffixes: Collection[str],
    inputs: Mapping[str, str | os.PathLike | None],
) -> pathlib.Path:
    """A file that can be written, links followed.

    Args:
        argument: Name of the option.
        text: Its value.
        suffixes: Endings to choose from, in small letters.
        inputs: Files that the command reads, by their options; it writes over none.

    Raises:
        ConfigError: If it is no such file, or cannot be written.
    """
    path = expanded(argument, text)
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{argument}={text}: name a {' or '.join(suffixes)} file")
    with speaking(argument, text):
        path = _free(argument, path, inputs)
        if path.is_dir():
            raise ConfigError(f"{argument}={text}: is a folder; name another file")
        if path.exists() and not path.is_file():
            raise ConfigError(
                f"{argument}={text}: is no regular file; name another file"
            )
        files.probe(path)
    return path


def folder(
    argument: str,
    text: str,
    *,
    foreign: Callable[[pathlib.Path], str],
    inputs: Mapping[str, str | os.PathLike | None],
) -> pathlib.Path:
    """A folder that can be written, new, empty, or of an earlier run.

    Args:
        argument: Name of the option.
        text: Its value.
        foreign: Function of a folder that is there, to what in it no earlier run has
            left, or "".
        inputs: See `file`; none of them lies in the folder either.

    Raises:
        ConfigError: If it is a file or holds other things, or cannot be written.
    """
    path = expanded(argument, text)
    with speaking(argument, text):
        path = _free(argument, path, inputs)
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{argument}={text}: is no folder; name another")
        if path.is_dir() and (other := foreign(path)):
            raise ConfigError(
                f"{argument}={text}: holds other things ({other}); name a new or empty"
                " folder"
            )
        files.probe(path / "any" if path.is_dir() else path)
    return path


def no_conversion(folder: pathlib.Path) -> str:
    """A file name in a folder that is no earlier conversion (has no card of ours)."""
    first = next(folder.iterdir(), None)
    try:
        card = (folder / "README.md").read_text()
    except (OSError, ValueError):
        card = ""
    return first.name if first and "kdiff_jax" not in card else ""


def check_disk(argument: str, path: pathlib.Path, need: int) -> None:
    """Raises StorageError if `need` bytes are more than is free where the path lies."""
    free = shutil.disk_usage(files.existing(path)).free
    if need > free:
        raise StorageError(
            f"{argument}: {path} takes {need / 1e9:.4g} GB, and {free / 1e9:.4g} GB are"
            " free; make room, or ask for fewer"
        )


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty folder beside the path that takes its place at the end of the block.

    What was there before goes only then, and stays if the block fails.
    """
    partial, former = (
        path.with_name(f".{path.name}.{os.getpid()}.{end}")
        for end in ("partial", "former")
    )
    try:
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.rename(former)
        try:
            partial.rename(path)
        except OSError:
            if former.exists():
                former.rename(path)
            raise
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def speaking(argument: str, value: object) -> Iterator[None]:
    """What the operating system refuses in this block, in one line of the option.

    Raises:
        ConfigError: Storage that is full or failing is found out by its cause.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{argument}={value}: cannot be written ({error.strerror or error}); name"
            " another place"
        ) from error


def printable(text: str) -> str:
    """The text in letters that every terminal takes: names may be any bytes."""
    return text.encode(errors="backslashreplace").decode()


def _free(argument, path, inputs) -> pathlib.Path:
    """The path with links followed, if no input is there or in it."""
    real = pathlib.Path(os.path.realpath(path))
    for name, given in inputs.items():
        source = given and pathlib.Path(os.path.realpath(os.path.expanduser(given)))
        if source and source.exists() and source.is_relative_to(real):
            what = "is" if source == real else "holds"
            raise ConfigError(f"{argument}={path}: {what} the {name}; name another")
    return real
