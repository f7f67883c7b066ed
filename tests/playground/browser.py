"""Chromium without a window, driven by its own protocol over a pipe."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATH = next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page, see `opened`."""

    def __init__(self, process, write, read):
        self._process, self._write, self._read = process, write, read
        self._rest, self._count, self._session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        about = dict(targetId=target, flatten=True)
        self._session = self.call("Target.attachToTarget", **about)["sessionId"]

    def call(self, method, **parameters):
        """The answer to a command of the protocol."""
        self._count += 1
        told = {"id": self._count, "method": method, "params": parameters}
        told |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(told).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            continue
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self):
        while b"\0" not in self._rest:
            found = os.read(self._read, 2**20)
            assert found, "the browser has ended"
            self._rest += found
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def run(self, script):
        """The value of an expression in the page; promises are waited for."""
        about = dict(expression=script, awaitPromise=True, returnByValue=True)
        found = self.call("Runtime.evaluate", **about)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, script, seconds=60):
        """The value as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, (
                script,
                self.run("document.body.innerText"),
            )
            time.sleep(0.1)
        return found

    def picture(self, path, width, height):
        """Writes what a window of this size shows."""
        about = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setDeviceMetricsOverride", **about)
        time.sleep(0.5)
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def opened(folder):
    """A `Browser` for a block; `folder` is its own."""
    theirs, write = os.pipe()
    read, answers = os.pipe()

    def place():  # the protocol's descriptors are 3 and 4
        os.dup2(theirs, 100), os.dup2(answers, 101)
        os.dup2(100, 3), os.dup2(101, 4)
        os.set_inheritable(3, True), os.set_inheritable(4, True)

    options = ["--headless", "--disable-gpu", "--no-first-run"]
    options += ["--remote-debugging-pipe", f"--user-data-dir={folder}"]
    options += ["--no-sandbox"] * (os.getuid() == 0)  # root may not have one
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(
        [PATH, *options], close_fds=False, preexec_fn=place, **quiet
    )
    os.close(theirs), os.close(answers)
    try:
        yield Browser(process, write, read)
    finally:
        process.kill()
        process.wait()
        os.close(write), os.close(read)
