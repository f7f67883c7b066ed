"""Specs of models with other values, with the old digest or with a fitting one."""

import json
import random

from benchmarks.trials import work
from benchmarks.trials.outcome import ACCEPTED, SILENT, Trial, judge, lines, trial
from benchmarks.trials.work import Work

ODD = (
    *(None, True, "", "x", "eps", 0, 1, -1, 2, 7, 2**31, 2**64, 10**400, 0.5, -0.5),
    *(1e300, float("nan"), float("inf"), [], [0], [1, 1, 3], {}, {"name": "x"}),
)
MODELS = ("teacher", "student", "many")


def trials(run: Work, num: int, rng: random.Random) -> list[Trial]:
    """Every second spec is sealed again, so that its values themselves are tried."""
    sound, found = {}, []
    for i in range(num):
        model, command = MODELS[i % 3], ("load", "sample")[i // 3 % 2]
        sealed = i // 6 % 2
        if (model, command) not in sound:
            run.fresh()
            sound[model, command] = _read(run, model, command)
        path = run.fresh() / model / "model" / "config.json"
        spec = json.loads(path.read_text())
        change = _change(spec, rng)
        path.write_text(json.dumps(spec, indent=1))
        sealed = bool(sealed and run.child.seal(path).digest)
        reply, digest = _read(run, model, command)
        usual, expected = sound[model, command]
        outcome = judge(reply, digest == expected, lines(usual.output))
        if outcome == SILENT and sealed:
            outcome = ACCEPTED  # another model, as its author means it
        kind = f"{command}, {'sealed again' if sealed else 'the old digest'}"
        found.append(trial(kind, f"{model}: {change}", reply, outcome))
    return found


def _read(run: Work, model: str, command: str):
    target = run.copy / model
    if command == "load":
        reply = run.child.load(target)
        return reply, reply.digest
    images = run.scratch / "images.npz"
    images.unlink(missing_ok=True)
    arguments = [f"--checkpoint={target}", "--num_images=4", f"--output={images}"]
    reply = run.child.run("sample", *arguments)
    return reply, work.digest(images) if images.is_file() else None


def _change(spec, rng) -> str:
    """Changes one value anywhere in the spec; says which."""
    node, path = spec, []
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        path.append(str(key))
        deeper = isinstance(node[key], (dict, list)) and node[key]
        if not deeper or rng.random() < 0.2:
            break
        node = node[key]
    name = ".".join(path)
    if isinstance(node, dict) and rng.random() < 0.15:
        del node[key]
        return f"{name} deleted"
    if isinstance(node, dict) and rng.random() < 0.15:
        node["spare"] = rng.choice(ODD)
        return f"{name}: spare beside it"
    before, node[key] = node[key], rng.choice(ODD)
    return f"{name}: {str(before)[:40]} -> {str(node[key])[:40]}"
