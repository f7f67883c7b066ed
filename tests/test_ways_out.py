"""Every option, flag and file that a message names is there.

Messages are the texts of the package beside its docstrings. What is proved here is that
the name exists; that the way out works is the matter of the test of each message, and
of those of the data below.
"""

import ast
import functools
import importlib
import inspect
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

import kdiff_jax
from kdiff_jax import methods, networks, samplers
from kdiff_jax.build import sections, stage_sections, stages
from kdiff_jax.data import images
from kdiff_jax.errors import UserError
from kdiff_jax.train import optim

PACKAGE = pathlib.Path(kdiff_jax.__path__[0])
ROOT = PACKAGE.parent
# Of other programs that messages name: tensorflow-datasets, git.
FOREIGN = {"data_dir", "file_format", "porcelain", "untracked"}
SECTIONS = "data|train|model|evaluate|partition|optim|rounds"
OPTION = re.compile(
    rf"(?<![\w./-])(?:--config\.)?((?:{SECTIONS})(?:\.[a-z_0-9]+)+)\b(?!\()"
)
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z_]*)(?![\w.-]*:)")
FILE = re.compile(r"\b(?:docs|configs|launch)/[\w/]+\.(?:md|py|sh)\b")
MODULES = {"data.json", "data.pkl", "model.json", "model.safetensors"}


@functools.cache
def messages() -> tuple[tuple[str, str], ...]:
    """(place, text) of every text in the package that is no docstring, holes as {}."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree, inner = ast.parse(path.read_text()), set()
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                inner.add(id(body[0].value))
            if isinstance(node, ast.JoinedStr):
                inner |= {id(part) for part in node.values}
                whole = [
                    str(part.value) if isinstance(part, ast.Constant) else "{}"
                    for part in node.values
                ]
                found.append((f"{path.name}:{node.lineno}", "".join(whole)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if id(node) not in inner and "var(--" not in node.value:
                    found.append((f"{path.name}:{node.lineno}", node.value))
    return tuple(found)


def keywords(function):
    return set(inspect.signature(function).parameters)


def known_options() -> dict[str, set[str]]:
    """Section -> its keys, from the functions that the sections are for."""
    sources = [importlib.import_module(f"kdiff_jax.data.{s}") for s in images.sources()]
    fields = [keywords(networks.make_function(n)) for n in networks.names()]
    return {
        "data": keywords(sections.Data).union(*(keywords(s.load) for s in sources)),
        "train": keywords(sections.Train),
        "evaluate": keywords(stage_sections.EvaluateStage),
        "partition": keywords(sections.Partition),
        "optim": keywords(optim.make),
        "rounds": keywords(stages.halvings),
        "model": keywords(sections.Model),
        "network": {"name"}.union(*fields),
        "method": {"name"}.union(
            *(keywords(methods.make_function(name)) for name in methods.names())
        ),
        "sampler": {"name"}.union(
            *(keywords(samplers.make_function(name)) for name in samplers.names())
        ),
    }


def unknown_options(text: str, known) -> list[str]:
    """Options in a text that no config has."""
    wrong = []
    for found in OPTION.findall(text):
        *above, key = found.split(".")
        if found not in MODULES and key not in known.get(above[-1], {key}):
            wrong.append(found)
    return wrong


def known_flags() -> set[str]:
    """What the commands define; two of them cannot be imported at once."""
    of_kdiff = {"version", "complete", "option"}  # which has no flags
    return (
        {"help"}
        | of_kdiff
        | {
            node.args[0].value
            for path in PACKAGE.glob("*.py")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and "DEFINE_" in getattr(node.func, "attr", "")
        }
    )


def test_options_that_messages_name_exist():
    known = known_options()
    wrong = [
        f"{place}: {name}"
        for place, text in messages()
        for name in unknown_options(text, known)
    ]
    assert not wrong, "\n".join(wrong)
    assert unknown_options("set train.hang_minuets", known) == ["train.hang_minuets"]
    assert unknown_options("--config.data.chanels=3", known) == ["data.chanels"]
    assert not unknown_options("model.network.remat=True", known)


def test_flags_that_messages_name_exist():
    known = known_flags() | FOREIGN
    wrong = [
        f"{place}: --{name}"
        for place, text in messages()
        for name in FLAG.findall(text)
        if name not in known
    ]
    assert not wrong, "\n".join(wrong)
    assert {"config", "workdir", "force_config_change", "checkpoint"} <= known


def test_files_that_messages_name_exist():
    named = [(place, f) for place, text in messages() for f in FILE.findall(text)]
    assert named
    wrong = [f"{place}: {file}" for place, file in named if not (ROOT / file).is_file()]
    assert not wrong, "\n".join(wrong)


PICTURES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)


def write(path, *arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(path.with_name(f"{i}{path.name}"))


def grey_beside_colour(folder):
    write(folder / "a.png", PICTURES[0, ..., 0], PICTURES[1])
    return dict(name="folder", path=str(folder))


def two_sizes(folder):
    write(folder / "a.png", PICTURES[0], PICTURES[1, :6])
    return dict(name="folder", path=str(folder))


def here_and_in_folders(folder):
    write(folder / "a.png", PICTURES[0])
    write(folder / "b/a.png", PICTURES[1])
    return dict(name="folder", path=str(folder))


def labels_beyond_all(folder):
    np.savez(folder / "a.npz", images=PICTURES, labels=[0, 1, 2, 10**12])
    return dict(name="npz", path=f"{folder}/a.npz")


def a_home_that_moved(folder):
    write(folder / "new/a.png", PICTURES[0])
    return dict(name="folder", path=f"{folder}/old")


@pytest.mark.parametrize(
    "make, named, value",
    [
        (grey_beside_colour, "--config.data.channels=3 or 1", dict(channels=3)),
        (grey_beside_colour, "--config.data.channels=3 or 1", dict(channels=1)),
        (two_sizes, "set data.size to resize all", dict(size=6)),
        (here_and_in_folders, "data.use_labels=False", dict(use_labels=False)),
        (labels_beyond_all, "data.use_labels=False", dict(use_labels=False)),
        (a_home_that_moved, "set data.path to a folder", "new"),
    ],
)
def test_the_way_out_that_a_message_names_works(tmp_path, make, named, value):
    wanted = make(tmp_path)
    with pytest.raises(UserError, match=named):
        images.load(**wanted)
    value = dict(path=str(tmp_path / value)) if isinstance(value, str) else value
    assert images.load(**{**wanted, **value}).num
    # And the command line takes it: a key of every recipe's section.
    assert value.keys() <= keywords(sections.Data)
