"""The process that runs commands for the trials, started again when it ends."""

import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
from typing import NamedTuple

SERVER = pathlib.Path(__file__).with_name("server.py")
# Small networks are quicker compiled badly than well.
XLA_FLAGS = (
    "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)


class Reply(NamedTuple):
    """What a command did.

    Attributes:
        code: Exit code; None if it passed its time limit and was killed.
        output: Standard output and error.
        digest: SHA-256 of a model that was loaded.
        cpu: Seconds of CPU time.
    """

    code: int | None
    output: str
    digest: str | None = None
    cpu: float = 0.0


def environment(repo: pathlib.Path, scratch: pathlib.Path) -> dict[str, str]:
    """For a process that runs the code of `repo`."""
    return {
        **os.environ,
        "PYTHONPATH": str(repo),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": XLA_FLAGS,
        "KDIFF_CACHE": str(scratch / "cache"),
    }


class Child:
    """Commands of the code in `repo`, one after the other in one process.

    Args:
        repo: Root of a clone of any version.
        scratch: Folder for the compile cache; commands run in it.
        seconds: Time limit of a command.
        limit_gb: Address space beyond that of a process that has imported JAX.
    """

    def __init__(self, repo, scratch, *, seconds: float = 60, limit_gb: int = 4):
        self.repo, self.scratch = pathlib.Path(repo), pathlib.Path(scratch)
        self.seconds, self._limit = seconds, limit_gb
        self._process, self.cpu = None, 0.0

    def run(self, module: str, *arguments) -> Reply:
        """`python -m kdiff_jax.MODULE ARGUMENTS`."""
        return self._ask(module=module, argv=[str(a) for a in arguments])

    def load(self, path) -> Reply:
        """`interop.load` of a path."""
        return self._ask(load=str(path))

    def images(self, **keywords) -> Reply:
        """`data.images.load` of a set."""
        return self._ask(images=keywords)

    def seal(self, path) -> Reply:
        """Gives a JSON file the digest that fits; no `digest` if it has none."""
        return self._ask(seal=str(path))

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._replies.close()
            self._process = None

    def _start(self) -> None:
        reader, writer = os.pipe()
        self._replies = os.fdopen(reader)
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), str(writer), str(self._limit)],
            cwd=self.scratch,
            env=environment(self.repo, self.scratch),
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(writer,),
            text=True,
        )
        os.close(writer)
        self._replies.readline()  # it has imported everything, however long that took

    def _ask(self, **request) -> Reply:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        with tempfile.NamedTemporaryFile(dir=self.scratch, suffix=".output") as file:
            self._process.stdin.write(
                json.dumps(request | {"output": file.name}) + "\n"
            )
            self._process.stdin.flush()
            ready, _, _ = select.select([self._replies], [], [], self.seconds)
            line = self._replies.readline() if ready else ""
            output = pathlib.Path(file.name).read_text(errors="replace")
        if line:
            reply = json.loads(line)
            self.cpu += reply["cpu"]
            return Reply(reply["code"], output, reply["digest"], reply["cpu"])
        if not ready:
            self._process.send_signal(signal.SIGKILL)
        code = self._process.wait()
        self.close()
        return Reply(code if ready else None, output)
