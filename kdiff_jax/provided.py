"""The recipes that come with the package, in a clone or installed."""

import pathlib


def folder() -> pathlib.Path | None:
    """The folder that holds our `configs`: the clone, or that of setup.py."""
    package = pathlib.Path(__file__).absolute().parent
    for place in (package.parent, package / "shipped"):
        if (place / "configs" / "common.py").is_file():
            return place
    return None


def names() -> list[str]:
    """Names of the recipes: files of `configs` that have a config."""
    ours = folder()
    files = sorted((ours / "configs").glob("*.py")) if ours else []
    return [p.stem for p in files if "\ndef get_config(" in p.read_text("utf-8")]


def find(name: str) -> pathlib.Path | None:
    """The file of a recipe: NAME, configs/NAME or configs/NAME.py of ours."""
    path = pathlib.Path(name)
    inside = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    ours = folder()
    if ours is None or len(inside) != 1:
        return None
    file = ours / "configs" / inside[0]
    found = file if file.suffix == ".py" else file.with_name(f"{file.name}.py")
    return found if found.is_file() else None
