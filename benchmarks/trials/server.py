"""Runs commands of kdiff_jax one after the other in one process, as `child` asks.

    python server.py REPLIES LIMIT_GB

A request is a line of JSON on the standard input with `output`, a file for what is
printed, and one of
    module, argv   a command
    load           a path for `interop.load`
    images         keywords of `data.images.load`
    seal           a JSON file that is to have the digest that fits it
The reply is a line on the descriptor REPLIES: the exit code, and a digest of what was
loaded. Importing JAX takes longer than most trials.
"""

import hashlib
import importlib
import json
import logging
import os
import resource
import sys
import time

import jax
import numpy as np
from absl import flags

from kdiff_jax import interop
from kdiff_jax.data import images
from kdiff_jax.errors import UserError
from kdiff_jax.report import curves
from kdiff_jax.train import measure, signals

COMMANDS = ("command", "main", "sample", "evaluate", "convert")


def main() -> None:
    replies = os.fdopen(int(sys.argv[1]), "w")
    limit = _address_space() + int(sys.argv[2]) * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    measure.SECONDS = 0.01  # no trial is about a speed
    # Nor about a drawing, of which a report has many: the numbers stand in their place.
    curves.plot = lambda lines, curve, stage: f"{[x.get(curve.name) for x in lines]}"
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        began = time.process_time()
        descriptor = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        if "argv" in request:
            code, digest = run(request["module"], request["argv"]), None
        elif "load" in request:
            code, digest = called(digest_of_model, request["load"])
        elif "images" in request:
            code, digest = called(digest_of_images, request["images"])
        else:
            code, digest = called(seal, request["seal"])
        sys.stdout.flush()
        sys.stderr.flush()
        reply = {"code": code, "digest": digest, "cpu": time.process_time() - began}
        print(json.dumps(reply), file=replies, flush=True)


def run(module: str, arguments: list[str]) -> int:
    """The exit code of a command whose modules and flags are as in a new process."""
    for name in COMMANDS:
        sys.modules.pop(f"kdiff_jax.{name}", None)
    for owner, found in flags.FLAGS.flags_by_module_dict().items():
        for flag in list(found):
            ours = owner.startswith("kdiff_jax") or flag.name.startswith("config")
            if ours and flag.name in flags.FLAGS:
                delattr(flags.FLAGS, flag.name)
    flags.FLAGS.unparse_flags()
    signals.reset()
    sys.argv = [f"kdiff_jax/{module}.py", *arguments]
    command = importlib.import_module("kdiff_jax.command")
    found = importlib.import_module(f"kdiff_jax.{module}")
    try:
        return command.code(found.main, sys.argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


def called(function, argument) -> tuple[int, str | None]:
    """(the exit code that a command would give, what the function returns)."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    try:
        return 0, function(argument)
    except UserError as error:
        print(f"kdiff_jax: {error}", file=sys.stderr)
        return error.exit_code, None
    except Exception as error:
        print(f"a bug of ours: {type(error).__name__}: {error}", file=sys.stderr)
        return 1, None


def digest_of_model(path: str) -> str:
    """Of its parameters, its sampler, and what it makes of four noisy images."""
    model = interop.load(path)
    y = np.arange(4, dtype=np.int32) % max(model.num_classes, 1)
    x = np.linspace(-1, 1, 4 * int(np.prod(model.image_shape)), dtype=np.float32)
    t = (model.process.t_min + model.process.t_max) / 2
    found = hashlib.sha256(json.dumps(model.spec.plain().get("sampler")).encode())
    one = model if model.num_students == 1 else model.student(1)
    found.update(
        np.asarray(one.apply(x.reshape(4, *model.image_shape), t, y)).tobytes()
    )
    for leaf in jax.tree.leaves(model.params):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def digest_of_images(keywords) -> str:
    """Of all images of a set and their labels."""
    data = images.load(**keywords)
    found = hashlib.sha256(f"{data.num} {data.shape} {data.num_classes}".encode())
    found.update(np.ascontiguousarray(data.read(np.arange(data.num))).tobytes())
    found.update(np.asarray(data.labels, np.int64).tobytes())
    return found.hexdigest()


def seal(path: str) -> str | None:
    """Writes the digest that the writer of this JSON would; None if it has none."""
    with open(path) as file:
        tree = json.load(file)
    if tree.pop("digest", None) is None:
        return None
    sealed = importlib.import_module("kdiff_jax.sealed")
    sealed.write_json(path, tree)
    return "sealed"


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
