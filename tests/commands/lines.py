"""Many command lines of one command: `python lines.py MODULE together|apart < JSON`.

Each line is a list of words; the answers are [exit code, stdout, stderr] of each.
Lines are run together in this process, or each in a copy of it that has imported what
the command does and done nothing else. A process that begins anew for every line would
take seconds, most of them to import JAX.
"""

import contextlib
import importlib
import io
import json
import os
import sys

from absl import flags


def main(name: str, how: str) -> None:
    from kdiff_jax import plan, recipe  # noqa: F401
    from kdiff_jax.train import measure

    module = importlib.import_module(f"kdiff_jax.{name}")
    measure.SECONDS = 0.01  # no test is about a speed
    run = apart if how == "apart" else answer
    answers = [run(module, [name, *words]) for words in json.load(sys.stdin)]
    json.dump(answers, sys.stdout)


def answer(module, argv):
    """[exit code, stdout, stderr] of a line."""
    from kdiff_jax import command

    for flag in flags.FLAGS:
        flags.FLAGS[flag].unparse()
    sys.argv = argv  # those of a config are read off it
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command.code(module.main, argv)
    return [code, out.getvalue(), err.getvalue()]


def apart(module, argv):
    """The same, in a copy of this process."""
    read, write = os.pipe()
    if not os.fork():
        os.close(read)
        with os.fdopen(write, "w") as file:
            json.dump(answer(module, argv), file)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    os.wait()
    return json.loads(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
