"""What all commands share: flags, several hosts, one line per mistake, exit codes."""

import pathlib
import re
import sys
import traceback
from collections.abc import Callable

from absl import flags

from kdiff_jax import ending, memory, options, start, storage, usage
from kdiff_jax.errors import ConfigError, Interrupted, UserError
from kdiff_jax.train import watchdog

DEBUG = flags.DEFINE_bool("debug", False, "Show tracebacks.")
DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", ["auto", "on", "off"], "Join the processes of other hosts."
)


HANG = flags.DEFINE_float(
    "hang_minutes",
    None,
    "End after so long without a sign of life; 0 is never. In a stage the recipe's"
    " train.hang_minutes holds.",
    lower_bound=0,
)


def required(flag) -> str:
    """The value of a flag that must be given."""
    if not flag.value:
        raise ConfigError(f"--{flag.name} is missing; see --help")
    return flag.value


def run(main: Callable[[], int | None], *, jax: bool = True) -> None:
    """Parses the command line, runs `main`, and exits with a documented code.

    Args:
        main: The command; what it returns, if anything, is the code.
        jax: Whether it needs JAX, which takes seconds.
    """
    status = code(main, sys.argv, jax=jax)
    if peers := _peers():
        peers.leave(status)
    sys.exit(status)


def code(main: Callable[[], int | None], argv, *, jax: bool = True) -> int:
    """The exit code of a command, see `kdiff_jax.errors`."""
    debug = "--debug" in argv
    try:
        if {"--help", "-h", "-help"} & set(argv):
            print(usage.text(main.__module__, __name__))
            sys.stdout.flush()
            return 0
        start.logs(debug)
        if jax:
            start.allocator()
            start.libraries()
        _parse(argv)
        if jax:
            from kdiff_jax.train import signals

            signals.install()
        name = pathlib.Path(argv[0]).stem
        with watchdog.watch(name, _hang_minutes(), "--hang_minutes"):
            if jax:
                start.cache()
            status = main()
            sys.stdout.flush()  # here what fails is still told
        return status or 0
    except Interrupted as stop:
        ending.say(str(stop))
        return stop.exit_code
    except UserError as error:
        # Who reports a file that cannot be used may not know that the disk is full.
        known = _of_storage(error.__cause__, hard=True) or error
        return _fail(str(known), known.exit_code, debug)
    except KeyboardInterrupt:
        return _fail("interrupted twice; the last checkpoint is intact", 130, debug)
    except Exception as error:
        return _fail(*_line(error), debug)


def _line(error: Exception) -> tuple[str, int]:
    """(what to say, exit code) of an exception that is none of ours."""
    if isinstance(error, BrokenPipeError):
        start.mute()
        return "output: its reader is gone; run the same command again", 7
    if known := _of_storage(error):
        start.mute()
        return str(known), known.exit_code
    if (peers := _peers()) and (gone := peers.missing()):
        return str(gone), gone.exit_code
    text = f"{type(error).__name__}: {error}"
    if memory.is_out(error):
        # What makes images has named its own option, see `train.generate`.
        way_out = "lower --batch_size"
        if "config" in flags.FLAGS:
            way_out = (
                "lower --config.stages.STAGE.train.batch_size, raise"
                " --config.train.num_microbatches, or set"
                " --config.model.network.remat=True where the network has it"
            )
        return f"out of memory: {way_out} ({text})", ConfigError.exit_code
    return f"a bug of ours: {text}; --debug shows where", 1


def _of_storage(error: BaseException | None, *, hard: bool = False):
    """`storage.error_of` with what the command line says."""
    given = (flags.FLAGS[n].value for n in ("output", "workdir") if n in flags.FLAGS)
    place = next((str(value) for value in given if value), "storage")
    need = "--dryrun says what a run needs" if "dryrun" in flags.FLAGS else ""
    return storage.error_of(error, place=place, need=need, hard=hard)


def _peers():
    """The module of the other processes, if JAX could be started as far as that."""
    return sys.modules.get("kdiff_jax.train.peers")


def _parse(argv) -> None:
    """Flags, with every mistake in one line."""
    try:
        rest = flags.FLAGS(_with_recipe(_spread(options.take(argv))))
    except (AttributeError, KeyError) as error:
        # The name, and on a second line one that is like it.
        text = str(next(iter(error.args), error))
        if found := re.search(r'Key "(.+?)" does not exist and cannot be added', text):
            raise ConfigError(
                f"--config: the recipe adds {found[1]!r} to a locked config; do it"
                " inside `with config.unlocked():`"
            ) from error
        name, *like = text.splitlines() or [""]
        hint = f" ({' '.join(like)})" if like else ""
        if found := re.match(r'Key "(.+?)" does not exist', name):
            name = found[1]
        name = name.strip("'\"")
        raise ConfigError(
            f"command line: {name!r} is not in the config{hint};"
            " --print_config shows what is"
        ) from error
    except ImportError as error:
        raise ConfigError(
            f"--config: {error}; a recipe imports the modules beside it, those of"
            " configs/, and what is installed: put it there, or set PYTHONPATH"
        ) from error
    except (flags.Error, TypeError, ValueError) as error:
        # What a recipe raised comes wrapped in the text of its traceback.
        text = re.split(r"Traceback .*\b\w+Error: ", str(error), flags=re.DOTALL)[-1]
        raise ConfigError(f"command line: {text}") from error
    except Exception as error:  # the config is a program: anything may go wrong in it
        raise ConfigError(f"--config: {type(error).__name__}: {error}") from error
    if len(rest) > 1:
        raise ConfigError(f"command line: {rest[1]!r} is not understood; see --help")


def _spread(argv) -> list[str]:
    """The arguments, with the name of a flag of several values before each of them."""
    found, several = [], None
    for word in argv:
        if word.startswith("-"):
            name = word.lstrip("-").partition("=")[0]
            flag = flags.FLAGS[name] if name in flags.FLAGS else None
            multi = isinstance(flag, flags.MultiFlag)
            several = f"--{name}=" if multi else None
            if multi and "=" not in word:
                continue
        found.append(word if word.startswith("-") or not several else several + word)
    return found


def _with_recipe(argv) -> list[str]:
    """The arguments with the path of the recipe that they name."""
    found = list(argv)
    for i, text in enumerate(argv):
        name, equals, value = text.partition("=")
        if name.lstrip("-") != "config" or not name.startswith("-"):
            continue
        if equals:
            found[i] = f"{name}={start.find_recipe(value)}"
        elif i + 1 < len(argv):
            found[i + 1] = start.find_recipe(argv[i + 1])
    return found


def _hang_minutes() -> float:
    """What the flag says, else the recipe, else an hour."""
    if HANG.value is not None:
        return HANG.value
    recipe = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    return (recipe or {}).get("train", {}).get("hang_minutes", watchdog.MINUTES)


def start_distributed() -> None:
    """Joins the other processes of the run, if there are some, and starts JAX.

    Raises:
        ConfigError: If the environment does not say who they are, or names a platform
            that is not here.
    """
    from kdiff_jax.train import peers, signals

    if DISTRIBUTED.value != "off":
        peers.join(must=DISTRIBUTED.value == "on")
        signals.install()  # joining has taken SIGTERM
    start.platform()


def _fail(text: str, exit_code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    ending.say(text)
    return exit_code
