"""Injures runs, words and files, and counts what comes of it.

    python -m benchmarks.trials flips losses --num=500 --seed=0 --json=trials.json

Kinds of trials: see TRIALS. Each copies one small complete run, injures one thing, and
runs the command that reads it. --repo names a clone of another version to be tried.
"""

import argparse
import json
import pathlib
import random
import subprocess
import tempfile
import time

from benchmarks.trials import data, files, processes, specs, storage, words
from benchmarks.trials.outcome import BUG, HANG, SILENT, table
from benchmarks.trials.work import Work

# kind -> (function of (work, number, random), how many trials)
TRIALS = {
    "flips": (files.flips, 500),
    "losses": (files.losses, 150),
    "words": (words.trials, 300),
    "specs": (specs.trials, 300),
    "data": (data.trials, 300),
    "storage": (storage.trials, 35),
    "kills": (processes.kills, 20),
    "twice": (processes.twice, 6),
    "hosts": (processes.hosts, 7),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="+", choices=[*TRIALS, "all"])
    parser.add_argument("--num", type=int, help="Trials of each kind.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repo", default=pathlib.Path(__file__).parents[2])
    parser.add_argument("--scratch", help="Keeps the run and the compile cache.")
    parser.add_argument("--json", help="Also write every trial to this file.")
    args = parser.parse_args()
    kinds = list(TRIALS) if "all" in args.kinds else args.kinds
    with tempfile.TemporaryDirectory() as folder:
        work = Work(args.repo, args.scratch or folder)
        found = {"commit": _commit(args.repo), "seed": args.seed}
        for kind in kinds:
            found[kind] = [t._asdict() for t in _run(kind, work, args)]
            if args.json:
                pathlib.Path(args.json).write_text(json.dumps(found, indent=1))
        work.child.close()


def _run(kind: str, work: Work, args):
    function, num = TRIALS[kind]
    began, cpu = time.monotonic(), work.child.cpu
    trials = function(work, args.num or num, random.Random(args.seed))
    for t in trials:
        if t.outcome in (SILENT, BUG, HANG):
            print(f"{t.outcome}: {t.kind}: {t.injury}: code {t.code}: {t.last_line}")
    wall, cpu = time.monotonic() - began, work.child.cpu - cpu
    print(f"\n{kind}, {_commit(args.repo)}, {wall:.0f} s, {cpu:.0f} s of CPU\n")
    print(table(trials), flush=True)
    return trials


def _commit(repo) -> str:
    command = ["git", "-C", str(repo), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
