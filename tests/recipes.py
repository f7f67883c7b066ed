"""The recipes of configs/, by file name, as tests load them."""

import importlib.util
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = {
    *(
        "common",
        "digits",
        "dit256",
        "dmd",
        "edm_student",
        "gdd",
        "luhman",
        "msd",
        "o2mkd",
        "progressive_paper",
        "sd15",
        "small_unet",
    ),
    "teachers",
}


def names() -> list[str]:
    """Every recipe: the files of configs/ that are not shared by others."""
    files = sorted(p.stem for p in (ROOT / "configs").glob("*.py"))
    return [name for name in files if name not in SHARED]


def load(name: str, *arguments):
    """The config of a recipe."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # recipes import what they share
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arguments)
