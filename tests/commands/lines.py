"""Many command lines of one command in one process: `python lines.py MODULE < JSON`.

Each line is a list of words; the answers are [exit code, stdout, stderr] of each. A
process of its own for every line would take seconds, most of them to import JAX.
"""

import contextlib
import importlib
import io
import json
import sys

from absl import flags


def main(name: str) -> None:
    from kdiff_jax import command
    from kdiff_jax.train import measure

    module = importlib.import_module(f"kdiff_jax.{name}")
    measure.SECONDS = 0.01  # no test is about a speed
    answers = []
    for words in json.load(sys.stdin):
        for flag in flags.FLAGS:
            flags.FLAGS[flag].unparse()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command.code(module.main, [name, *words])
        answers.append([code, out.getvalue(), err.getvalue()])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
