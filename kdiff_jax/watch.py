"""Shows a run in the terminal: python -m kdiff_jax.watch RUN

RUN is a workdir, or the folder of one of its stages: while it is written, when it has
finished, or before it is there. What is shown is renewed until the run is done or
Ctrl-C is pressed; --once, or an output that is no terminal, shows it once. Pictures are
coloured blocks, where the terminal has colours. Nothing is written, and JAX is not
started, so it works beside any run, and over ssh.
"""

import pathlib
import signal
import sys
import time

from absl import flags
from rich.console import Console
from rich.live import Live
from rich.text import Text

from kdiff_jax import command, output
from kdiff_jax.errors import ConfigError
from kdiff_jax.report import terminal, watched
from kdiff_jax.train import watchdog

RUN = flags.DEFINE_string("run", None, "A workdir; the word RUN above.")
ONCE = flags.DEFINE_bool("once", False, "Show it once and end.")
EVERY = flags.DEFINE_float("every", 5.0, "Seconds between two looks.", lower_bound=0.5)
PICTURES = flags.DEFINE_bool("pictures", True, "Show pictures.")


def main() -> None:
    if not RUN.value:
        raise ConfigError("RUN is missing; name the workdir of a run")
    path = output.expanded("RUN", RUN.value)
    console = Console()
    if ONCE.value or not console.is_terminal:
        if (run := watched.read(path)) is None:
            raise ConfigError(
                f"RUN={path}: nothing is there yet; wait for the run to begin, or name"
                " its --workdir"
            )
        console.print(terminal.page(run, console, pictures=PICTURES.value))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _follow(path, console)
    except KeyboardInterrupt:
        pass  # which is how it ends


def _follow(path: pathlib.Path, console: Console) -> None:
    """Shows a run until it is done."""
    waits = Text(f"waiting for the run to begin: nothing is there yet: {path}")
    about: dict = dict(pictures=PICTURES.value)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while (run := watched.read(path)) is None or not run.is_done:
            shown = run and terminal.page(run, console, fits=True, **about)
            live.update(shown or waits, refresh=True)
            watchdog.beat()
            time.sleep(EVERY.value)
    console.print(terminal.page(run, console, **about))  # which stays


def run() -> None:
    """Runs the command, see `command.run`; the first plain word is RUN."""
    words, named = sys.argv[1:], False
    for i, word in enumerate(words):
        if not word.startswith("-") and not named:
            words[i], named = f"--run={word}", True
    sys.argv[1:] = words
    command.run(main, jax=False)


if __name__ == "__main__":
    run()
