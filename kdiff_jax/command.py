"""What all commands share: flags, several hosts, one line per mistake, exit codes."""

import logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable

from absl import flags

from kdiff_jax.errors import ConfigError, Interrupted, UserError

DEBUG = flags.DEFINE_bool("debug", False, "Show tracebacks.")
DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", ["auto", "on", "off"], "Join the processes of other hosts."
)
# KDIFF_COORDINATOR=host:port with these two, for clusters that JAX does not know.
COORDINATOR, NUM, ID = "KDIFF_COORDINATOR", "KDIFF_NUM_PROCESSES", "KDIFF_PROCESS_ID"


def required(flag) -> str:
    """The value of a flag that must be given."""
    if not flag.value:
        raise ConfigError(f"--{flag.name} is missing; see --help")
    return flag.value


def run(main: Callable[[], None]) -> None:
    """Parses the command line, runs `main`, and exits with a documented code."""
    sys.exit(code(main, sys.argv))


def code(main: Callable[[], None], argv) -> int:
    """The exit code of a command, see `kdiff_jax.errors`."""
    debug = "--debug" in argv
    if {"--help", "-h", "-help"} & set(argv):
        print(_help(main.__module__))
        return 0
    try:
        _parse(argv)
        _start_logging()
        from kdiff_jax.train import signals

        signals.install()
        _start_cache()
        main()
        return 0
    except Interrupted as stop:
        _say(str(stop))
        return stop.exit_code
    except UserError as error:
        return _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _fail("interrupted twice; the last checkpoint is intact", 130, debug)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            return _fail(f"a bug of ours: {error}; --debug shows where", 1, debug)
        return _fail(f"config: {error}", ConfigError.exit_code, debug)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if "RESOURCE_EXHAUSTED" in text:
            text = (
                "out of memory: lower train.batch_size, raise train.num_microbatches,"
                f" or set model.network.remat=True ({text})"
            )
            return _fail(text, 1, debug)
        return _fail(f"a bug of ours: {text}; --debug shows where", 1, debug)


def _help(module: str) -> str:
    """The command's docstring, its flags, and those of all commands."""
    usage = sys.modules[module].__doc__ or ""
    script = module == "__main__"
    own = flags.FLAGS.main_module_help() if script else flags.FLAGS.module_help(module)
    return f"{usage.strip()}\n{own}\n{flags.FLAGS.module_help(__name__)}"


def _parse(argv) -> None:
    """Flags, with every mistake in one line."""
    for i, text in enumerate(argv):
        name, _, value = text.lstrip("-").partition("=")
        if name == "config":
            # Recipes import what they share from the folder that they lie in.
            file = (value or " ".join(argv[i + 1 : i + 2])).partition(":")[0]
            if not pathlib.Path(file).is_file():
                raise ConfigError(
                    f"--config={file}: no such file; give a recipe, FILE.py[:ARG], as"
                    " those of configs/"
                )
            root = str(pathlib.Path(file).absolute().parents[1])
            sys.path[:0] = [] if root in sys.path else [root]
    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        raise ConfigError(
            f"command line: {str(error).strip(chr(34))} is not in the config;"
            " --print_config shows what is"
        ) from error
    except (flags.Error, TypeError, ValueError) as error:
        # What a recipe raised comes wrapped in the text of its traceback.
        text = re.split(r"Traceback .*\b\w+Error: ", str(error), flags=re.DOTALL)[-1]
        raise ConfigError(f"command line: {text}") from error
    except Exception as error:  # the config is a program: anything may go wrong in it
        raise ConfigError(f"--config: {type(error).__name__}: {error}") from error
    if len(rest) > 1:
        raise ConfigError(f"command line: {rest[1]!r} is not understood; see --help")


def _start_logging() -> None:
    """Our own lines at INFO; of the libraries below only what is wrong."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    logging.getLogger("kdiff_jax").setLevel(logging.INFO)
    # JAX names every platform that it does not find.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)


def _start_cache() -> None:
    """Compiled programs outlive the process: a restart takes seconds, not minutes.

    KDIFF_CACHE names the folder; empty is off. Its content is trusted.
    """
    import jax

    folder = os.environ.get(
        "KDIFF_CACHE", str(pathlib.Path.home() / ".cache/kdiff_jax")
    )
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def split_cpu(num_devices: int) -> None:
    """Takes the CPU for `num_devices` devices, of a core each at least.

    On small images XLA keeps one core busy, so that two devices are 1.5 times as fast;
    on larger ones it uses all, and one device is best. JAX_NUM_CPU_DEVICES and
    XLA_FLAGS have the last word; other platforms do not mind.

    Raises:
        ConfigError: If the number is below 1.
    """
    if num_devices < 1:
        raise ConfigError(f"cpu_devices={num_devices}: must be 1 or more")
    given = os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in given:
        return
    import jax

    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(num_devices, cores))


def start_distributed() -> None:
    """Joins the other hosts of a TPU pod, a SLURM job or KDIFF_COORDINATOR."""
    if DISTRIBUTED.value == "off":
        return
    import jax

    given = {k: os.environ[k] for k in (COORDINATOR, NUM, ID) if k in os.environ}
    from kdiff_jax.train import signals

    if given:
        if len(given) < 3:
            missing = ", ".join({COORDINATOR, NUM, ID} - given.keys())
            raise ConfigError(f"{missing}: not set, though {', '.join(given)} is")
        jax.distributed.initialize(
            given[COORDINATOR],
            int(given[NUM]),
            int(given[ID]),
            heartbeat_timeout_seconds=30,
        )
        signals.install()
        return
    pod = len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
    # Not SLURM_NTASKS: that is set in an interactive allocation, too.
    slurm = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    if pod or slurm or DISTRIBUTED.value == "on":
        jax.distributed.initialize(heartbeat_timeout_seconds=30)
        signals.install()


def _fail(text: str, exit_code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _say(text)
    return exit_code


def _say(text: str) -> None:
    print("kdiff_jax: " + " ".join(text.split()), file=sys.stderr, flush=True)
