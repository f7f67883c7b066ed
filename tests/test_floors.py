"""A module imports its own package and strictly lower floors, nothing else.

Two packages on one floor do not know each other, and a method never imports a method.
The files of floor 0 are one package that happens to lie at the root, and `formats/` is
of it: the readers of files know no networks.
"""

import ast
import pathlib
import re

import pytest

import kdiff_jax
from kdiff_jax import methods

FLOORS = (
    "types domain rng errors files arguments sealed shards storage ending arrays zips"
    " memory lock pixels formats registry named provided chips",
    "method diffusion losses networks features",
    "denoiser samplers partition augment discriminators encoders pretrained decoded",
    "methods metrics data report interop",
    "train latent",
    "text exported",
    "build",
    "stages start options usage prompting topology",
    "recipe plan scale command output checkup playground completion",
    "cli main sample evaluate convert cache export doctor watch demo",
)
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names.split()}
# What configs are resolved into that has keys: nobody asks these for one by its name.
# `build` resolves them, and the record compares what was written down.
KEYED = re.compile(
    r"\b(?:stage|recipe|job)\.(?:\w+\.)*"
    r"(?:config|section|init|settings|augmented|made|hints|keywords|optim|roles)\b"
)
RESOLVES = ("build/", "stages/record.py")
STAGE, MOST_LINES = ("stages", "run"), 50
ROOT = pathlib.Path(kdiff_jax.__path__[0])


def imports(tree: ast.AST, package: str):
    """Full dotted names that `tree` imports; `package` is where relative ones start."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parents = parts[: len(parts) - node.level + 1]
                base = ".".join(parents + [base] * bool(base))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules(root):
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        package = ".".join(("kdiff_jax", *parts[:-1]))
        yield path.relative_to(root), parts, package, ast.parse(path.read_text())


def floor(parts) -> int | None:
    return FLOOR.get(parts[0])


def climbing_imports(root) -> list[str]:
    """One line for each import that does not point down."""
    wrong = []
    for path, parts, package, tree in modules(root):
        here = parts[0]
        if here == "__init__":
            here_floor = -1  # the package itself: whoever imports it imports nothing
        elif (here_floor := floor(parts)) is None:
            wrong.append(f"{path} has no floor; add {here!r} to FLOORS")
            continue
        for name in imports(tree, package):
            library, *there = name.split(".")
            there_floor = floor(there) if there else None
            if library != "kdiff_jax" or there_floor is None:
                continue
            if there_floor < here_floor or here_floor == there_floor == 0:
                continue
            is_own = there[0] == here and there_floor == here_floor
            if is_own and (here != "methods" or parts[1] == "__init__"):
                continue
            floors = f"floor {here_floor} imports floor {there_floor}"
            wrong.append(f"{path} imports {name}: {floors}")
    return wrong


def named(tree, package, library) -> bool:
    return any(name.split(".")[0] == library for name in imports(tree, package))


def at_import(tree: ast.Module) -> ast.Module:
    """What runs when the module is imported: everything outside of functions."""

    class DropBodies(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    return DropBodies().visit(tree)


def libraries_out_of_place(root) -> list[str]:
    wrong = []
    for path, parts, package, tree in modules(root):
        if FLOOR.get(parts[0], 0) < FLOOR["build"] and named(
            tree, package, "ml_collections"
        ):
            wrong.append(f"{path} imports ml_collections: only build and commands may")
        outside = at_import(tree)
        for library in ("tensorflow", "torch"):
            if named(outside, package, library):
                wrong.append(
                    f"{path} imports {library} at the top: users need not have it"
                )
    return wrong


def compared_names(root, names) -> list[str]:
    """Where one of the names is compared with, outside of the file of that name."""
    wrong = []
    for path, _, _, tree in modules(root):
        for node in ast.walk(tree):
            parts: list[ast.AST] = []
            if isinstance(node, ast.Compare):
                parts = [node.left, *node.comparators]
            elif isinstance(node, ast.MatchValue):
                parts = [node.value]
            for part in (x for one in parts for x in ast.walk(one)):
                name = getattr(part, "value", None)
                if isinstance(name, str) and name in names and name != path.stem:
                    wrong.append(f"{path}:{node.lineno} compares with {name!r}")
    return wrong


def test_nothing_asks_which_method_it_is():
    wrong = compared_names(ROOT, methods.names())
    assert not wrong, "\n".join(wrong)


def test_a_question_for_the_method_is_named(tmp_path):
    (tmp_path / "dmd.py").write_text('a = b == "dmd"\n')
    (tmp_path / "rows.py").write_text('a = b == "dmd" or b in ("x", "sid")\n')
    assert compared_names(tmp_path, ["dmd", "sid"]) == [
        "rows.py:1 compares with 'dmd'",
        "rows.py:1 compares with 'sid'",
    ]


def key_reads(root) -> list[str]:
    """Where configs, or names for them in the same file, are read by a string key."""
    wrong = []
    for path, _, _, tree in modules(root):
        if str(path).startswith(RESOLVES):
            continue
        nodes = [*ast.walk(tree)]
        pairs = [p for node in nodes for p in assigned(node)]
        aliases = {name for name, value in pairs if KEYED.search(ast.unparse(value))}
        for node in nodes:
            base, key = read_by_key(node)
            if base is None or not isinstance(getattr(key, "value", None), str):
                continue
            text = ast.unparse(base)
            if KEYED.search(text) or text in aliases:
                wrong.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    return wrong


def assigned(node):
    """(name, value) of an assignment, entry by entry where it has several."""
    if isinstance(node, ast.NamedExpr):
        yield node.target.id, node.value
    elif isinstance(node, ast.Assign):
        (target, *_), value = node.targets, node.value
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = zip(target.elts, value.elts, strict=False)
        for one, of in pairs:
            if isinstance(one, ast.Name) and not isinstance(of, ast.Call):
                yield one.id, of


def read_by_key(node):
    """(what is read, the key), of x[key], x.get(key), x.pop(key) and key in x."""
    if isinstance(node, ast.Subscript):
        return node.value, node.slice
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        return node.comparators[0], node.left
    function = getattr(node, "func", None)
    if isinstance(function, ast.Attribute) and function.attr in ("get", "pop"):
        return function.value, node.args[0] if node.args else None
    return None, None


def test_no_config_is_read_by_a_string_key_below_build():
    assert key_reads(ROOT) == []


@pytest.mark.parametrize(
    "line",
    [
        'x = stage.init["teacher"]',
        'x = job.recipe.config.get("evaluate", {})',
        'x = "flip" in job.recipe.augmented',
        'x = stage.section["train"].get("figure_every")',
        'told = stage.method.keywords\nx = told.get("guidance")',
        'told, net = stage.method.keywords, 1\nx = told["guidance"]',
    ],
)
def test_a_string_key_below_build_is_named(tmp_path, line):
    (tmp_path / "train.py").write_text(line)
    assert any(one.startswith("train.py:") for one in key_reads(tmp_path))
    (tmp_path / "train.py").write_text("x = stage.init.teacher, numbers['teacher']")
    assert key_reads(tmp_path) == []


def lengths_of_stages(root) -> dict[str, int]:
    """Lines of `run` of each kind of stage."""
    return {
        path.stem: node.end_lineno - node.lineno + 1
        for path, parts, _, tree in modules(root)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and (parts[0], node.name) == STAGE
    }


def test_a_stage_is_read_in_one_go():
    lengths = lengths_of_stages(ROOT)
    assert {"train", "autoencoder", "pairs", "evaluate", "encoded"} <= {*lengths}
    assert max(lengths.values()) < MOST_LINES, lengths


def test_imports_point_down():
    wrong = climbing_imports(ROOT)
    assert not wrong, "\n".join(wrong)


def test_configs_and_other_frameworks_stay_where_they_belong():
    wrong = libraries_out_of_place(ROOT)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("path", "line", "message"),
    [
        (
            "methods/kd.py",
            "from kdiff_jax.train.step import make_train_step",
            "methods/kd.py imports kdiff_jax.train.step.make_train_step:"
            " floor 3 imports floor 4",
        ),
        (
            "methods/kd.py",
            "from kdiff_jax.methods import dmd",
            "methods/kd.py imports kdiff_jax.methods.dmd: floor 3 imports floor 3",
        ),
        (
            "methods/kd.py",
            "from . import dmd",
            "methods/kd.py imports kdiff_jax.methods.dmd: floor 3 imports floor 3",
        ),
        (
            "losses/gan.py",
            "from kdiff_jax import networks",
            "losses/gan.py imports kdiff_jax.networks: floor 1 imports floor 1",
        ),
        (
            "samplers/heun.py",
            "def f():\n    import kdiff_jax.data.images",
            "samplers/heun.py imports kdiff_jax.data.images: floor 2 imports floor 3",
        ),
        (
            "diffusion/grids.py",
            "from ..networks.layers import Block",
            "diffusion/grids.py imports kdiff_jax.networks.layers.Block:"
            " floor 1 imports floor 1",
        ),
        (
            "__init__.py",
            "from kdiff_jax import errors",
            "__init__.py imports kdiff_jax.errors: floor -1 imports floor 0",
        ),
        (
            "formats/raw.py",
            "from kdiff_jax.interop import model",
            "formats/raw.py imports kdiff_jax.interop.model: floor 0 imports floor 3",
        ),
        (
            "features/frozen.py",
            "from kdiff_jax.interop.source import Source",
            "features/frozen.py imports kdiff_jax.interop.source.Source:"
            " floor 1 imports floor 3",
        ),
        ("misc.py", "", "misc.py has no floor; add 'misc' to FLOORS"),
    ],
)
def test_an_import_that_climbs_is_named(tmp_path, path, line, message):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(line)
    assert climbing_imports(tmp_path) == [message]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("methods/kd.py", "from kdiff_jax.losses import regression"),
        ("networks/unet.py", "from kdiff_jax.networks import layers\nimport flax"),
        ("networks/unet.py", "from .layers import Block"),
        ("features/frozen.py", "from kdiff_jax.formats import containers"),
        ("formats/raw.py", "from kdiff_jax.formats.lazy import Lazy"),
        ("interop/model.py", "from kdiff_jax.interop import source"),
        ("rng.py", "from kdiff_jax.types import Keys"),
        ("main.py", "from kdiff_jax import __version__, recipe"),
    ],
)
def test_an_import_that_points_down_passes(tmp_path, path, line):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(line)
    assert climbing_imports(tmp_path) == []


def test_libraries_out_of_place_are_named(tmp_path):
    (tmp_path / "train.py").write_text("def f():\n    import ml_collections")
    (tmp_path / "data.py").write_text("try:\n    import tensorflow as tf\nfinally:\n 1")
    (tmp_path / "build.py").write_text("from ml_collections import config_dict")
    (tmp_path / "metrics.py").write_text("def f():\n    import torch")
    assert libraries_out_of_place(tmp_path) == [
        "data.py imports tensorflow at the top: users need not have it",
        "train.py imports ml_collections: only build and commands may",
    ]
