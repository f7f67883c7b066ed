"""Metrics and pictures to Weights & Biases or to trackio, beside TensorBoard.

Neither may end a training: nothing is asked for, and what fails there is a line of the
log. `metrics.jsonl` has everything in any case.
"""

import contextlib
import importlib
import importlib.util
import io
import logging
import netrc
import os
import pathlib
import urllib.parse
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kdiff_jax import sealed
from kdiff_jax.errors import ConfigError

log = logging.getLogger(__name__)

NAMES = ("wandb", "trackio")
OFFLINE = ("offline", "disabled", "dryrun")  # values of WANDB_MODE that need no key


def check(argument: str, name: str) -> None:
    """Refuses a tracker that could not start, or would have to ask.

    Args:
        argument: Name of the option, for messages.
        name: "wandb", "trackio", or "" for none.

    Raises:
        ConfigError: If its package is missing, or W&B is to be online without a key.
    """
    if not name:
        return
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"{argument}={name}: the package is not installed; pip install {name}, or"
            " leave it out"
        )
    mode = os.environ.get("WANDB_MODE", "")
    if name == "wandb" and mode not in ("", *OFFLINE) and not _has_key():
        raise ConfigError(
            f"{argument}=wandb: WANDB_MODE={mode}, and there is no key; set"
            " WANDB_API_KEY or WANDB_MODE=offline"
        )


class Tracker:
    """One stage of a run at a tracker; a name that is "" tracks nothing.

    Args:
        name: "wandb", "trackio" or "".
        folder: Folder of the stage; it keeps the identity of the run, which goes on
            when the stage is resumed, and what W&B keeps offline.
        config: The recipe in plain values; its `name` is the project, unless
            WANDB_PROJECT or TRACKIO_PROJECT names another.
    """

    def __init__(
        self, name: str, folder: str | os.PathLike, *, config: Mapping[str, Any]
    ):
        self._name, self._run, self._module = name, None, None
        if not name:
            return
        folder = pathlib.Path(folder).absolute()
        begin = {"wandb": _wandb, "trackio": _trackio}[name]
        with self._forgiving(), contextlib.redirect_stdout(io.StringIO()):
            self._module = importlib.import_module(name)
            self._run = begin(self._module, folder, dict(config))

    def scalars(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds every metric of a logged step."""
        self._log(step, {name: float(value) for name, value in metrics.items()})

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w C"]) -> None:
        """Adds a picture, such as a sample grid."""
        if self._module is not None:
            rgb = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, -1)
            with self._forgiving():
                self._log(step, {name: self._module.Image(rgb)})

    def close(self) -> None:
        """Ends the run there; what W&B has not sent yet is waited for."""
        if self._run is not None:
            with self._forgiving(), contextlib.redirect_stdout(io.StringIO()):
                self._run.finish()
        self._run = None

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        if self._run is None:
            return
        with self._forgiving():
            if self._name == "wandb":
                # Its own steps only grow, and a resumed run writes some again.
                self._run.log({**values, "step": step})
            else:
                self._run.log(dict(values), step=step)

    @contextlib.contextmanager
    def _forgiving(self):
        """Tells what fails in the block, in one line, and tracks nothing from there."""
        try:
            yield
        except Exception as error:  # anything may fail on the way to a server
            self._run = None
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            log.warning(
                "train.tracker=%s: stopped (%s); the training goes on, and"
                " metrics.jsonl has everything",
                *(self._name, text),
            )


def _wandb(module: Any, folder: pathlib.Path, config: dict[str, Any]) -> Any:
    mode = os.environ.get("WANDB_MODE")
    if not mode and not _has_key():
        mode = "offline"
        log.info("wandb: no key is here; offline, and `wandb sync` sends it later")
    about: dict[str, Any] = dict(
        project=os.environ.get("WANDB_PROJECT") or config.get("name", "kdiff_jax"),
        name=f"{folder.parent.name}/{folder.name}",
        group=folder.parent.name,
        id=_identity(folder),
        resume="allow",
        dir=str(folder),
        config=config,
        settings=module.Settings(console="off", silent=True),
    )
    try:
        run = module.init(**about, mode=mode)
    except Exception as error:
        if mode in OFFLINE:
            raise
        text = " ".join(str(error).split())[:200]
        log.warning("wandb: cannot be reached (%s); offline from here", text)
        run = module.init(**about, mode="offline")
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run


def _trackio(module: Any, folder: pathlib.Path, config: dict[str, Any]) -> Any:
    return module.init(
        project=os.environ.get("TRACKIO_PROJECT") or config.get("name", "kdiff_jax"),
        name=f"{folder.parent.name}/{folder.name}/{_identity(folder)}",
        group=folder.parent.name,
        resume="allow",
        config=config,
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )


def _identity(folder: pathlib.Path) -> str:
    """What a stage is called there, the same after a resume."""
    path = folder / "tracker.json"
    with contextlib.suppress(OSError, sealed.Damaged, KeyError):
        return str(sealed.parse(path.read_bytes())["id"])
    made = uuid.uuid4().hex[:8]
    sealed.write_json(path, {"id": made})
    return made


def _has_key() -> bool:
    """Whether W&B would find a key without asking for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    url = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError, ValueError):
        return False
