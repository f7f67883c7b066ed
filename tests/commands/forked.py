"""Commands in copies of one process that has imported what they need.

Imports take three seconds of a process that begins anew. The server of copies, see
`child`, imports this module and starts no device: each copy has its own environment.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pathlib
import runpy
import sys

import jax
import matplotlib.backends.backend_agg  # noqa: F401
import sklearn.datasets  # noqa: F401
from absl import flags

from kdiff_jax import command, interop, plan, recipe, registry, start  # noqa: F401
from kdiff_jax.train import measure

for package in ("methods", "networks", "samplers"):
    for name in registry.names(f"kdiff_jax.{package}"):
        importlib.import_module(f"kdiff_jax.{package}.{name}")
measure.SECONDS = 0.01  # no test is about a speed
assert not jax._src.xla_bridge.backends_are_initialized()
gc.collect()
gc.freeze()
gc.set_threshold(200_000, 20, 100)
SERVER = os.getpid()
HERE = pathlib.Path(__file__).resolve().parent
PATH = [path for path in sys.path if path not in ("", str(HERE))]


def run(module: str, words: list[str], environment: dict, output: str) -> None:
    """`python -m kdiff_jax.MODULE WORDS`, with what it says in the file `output`."""
    _settle(environment, output)
    sys.argv[1:] = words
    try:
        runpy.run_module(f"kdiff_jax.{module}", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


def run_lines(module: str, lines: list, environment: dict, output: str) -> None:
    """Many command lines, one after the other; answers in `output`, as JSON.

    They are [exit code, stdout, stderr] of each.
    """
    _settle(environment, os.devnull)
    imported = importlib.import_module(f"kdiff_jax.{module}")
    answers = [_answer(imported, [module, *words]) for words in lines]
    with open(output, "w") as file:
        json.dump(answers, file)


def _cache() -> None:
    """That of commands, of the smallest programs too: many copies compile the same."""
    _theirs()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


_theirs, start.cache = start.cache, _cache


def _settle(environment: dict[str, str], output: str) -> None:
    """Environment, folder, path and output, as a process of its own has them."""
    assert os.getppid() == SERVER, "imported by the copy, which takes seconds"
    names = [name for name in {*environment, *os.environ} if name.startswith("JAX_")]
    changed = [k for k in names if environment.get(k) != os.environ.get(k)]
    assert not changed, f"read when JAX was imported, by the server: {changed}"
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(HERE.parents[1])
    sys.path[:] = [str(HERE.parents[1]), *PATH]
    with open(output, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _answer(module, argv):
    """[exit code, stdout, stderr] of a line."""
    for flag in flags.FLAGS:
        flags.FLAGS[flag].unparse()
    sys.argv = argv  # those of a config are read off it
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command.code(module.main, argv)
    return [code, out.getvalue(), err.getvalue()]
