"""Takes out of a report what tells who made it, and where."""

import contextlib
import getpass
import os
import pathlib
import platform
import re
import socket
import tempfile
from collections.abc import Mapping
from typing import Any

# A name that says that its value is nobody's business.
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|COOKIE|PRIVATE", re.I)
# What ends a path in a text.
_END = r"\s'\",;:()\[\]"
# From the root, of a home, up and down from here, of a scheme; never "GB/s" or "1/2".
_PATH = re.compile(
    rf"""(['"])(?:\w+://|~?/)[^'"]*\1"""
    rf"|(?<![\w.])(?:\w+://|~\w*(?=/)|\.{{1,2}}(?=/)|(?=/))[^{_END}]*[^{_END}/]+"
)
_ADDRESS = re.compile(
    r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\b[\w-]+(?:\.[\w-]+)+:\d+\b"
)
_EMAIL = re.compile(r"\b[\w.+-]+@[\w.-]+")
PATTERNS = ((_EMAIL, "NAME"), (_ADDRESS, "ADDRESS"), (_PATH, "PATH"))


def scrubbed(tree: Any, known: Mapping[str, str]) -> Any:
    """Plain values without secrets, names of users and hosts, addresses and paths.

    Args:
        tree: Plain values.
        known: Paths -> what to put there.
    """
    words = {text: name for text, name in _words(known).items() if len(text) > 1}
    return _scrub(tree, sorted(words.items(), key=lambda item: -len(item[0])))


def _scrub(tree, words):
    if isinstance(tree, dict):
        return {_scrub(k, words): _scrub(v, words) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_scrub(value, words) for value in tree]
    if not isinstance(tree, str):
        return tree
    for text, name in words:
        tail = rf"[^{_END}]*" if name == "PATH" else ""
        tree = re.sub(rf"(?<!\w){re.escape(text)}(?!\w){tail}", name, tree)
    for pattern, name in PATTERNS:
        tree = pattern.sub(name, tree)
    return tree


def _words(known: Mapping[str, str]) -> dict[str, str]:
    """What this process knows of its user and host -> what to put there."""
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        paths = [part for part in value.split(":") if re.match(r"~?/(?!/)", part)]
        found |= {text: "PATH" for path in paths for text in _both(path)}
        if SECRET.search(name) and len(value) > 3:
            found[value] = "SECRET"
    found |= dict.fromkeys(_users(), "USER") | dict.fromkeys(_hosts(), "HOST")
    for ask in (os.getcwd, pathlib.Path.home, tempfile.gettempdir):
        with contextlib.suppress(OSError, RuntimeError):
            found |= dict.fromkeys(_both(str(ask())), "PATH")
    for path, name in known.items():
        found |= dict.fromkeys(_both(path), name)
    return found


def _both(path: str) -> list[str]:
    """A path as given and with links followed; the root is none of anybody's."""
    paths = (path.rstrip("/"), os.path.realpath(path))
    return [text for text in paths if text.strip("/.~")]


def _users() -> set[str]:
    found = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")}
    with contextlib.suppress(OSError, KeyError, ImportError):
        found.add(getpass.getuser())
    return found - {""}


def _hosts() -> set[str]:
    found = {platform.node(), os.environ.get("HOSTNAME", "")}
    with contextlib.suppress(OSError):
        found.add(socket.gethostname())
    found |= {name.partition(".")[0] for name in found}
    return found - {"", "localhost"}
