"""How a tree is built: sizes of files and functions, reads by string keys.

    python benchmarks/structure.py . OLDER_CHECKOUT ...

A column for each tree. Lines of functions are without their docstrings. A read by a
string key is `x["name"]` that is loaded, or `x.get("name")`; where keys are those of
other people's files (interop, formats, data, and all that writes reports) it says
nothing, so that these rooms are left out of the second count, and `build` is, where a
recipe's keys are to be read.
"""

import ast
import pathlib
import statistics
import sys
from collections.abc import Iterator

FOREIGN = "interop", "formats", "data", "report", "checkup", "exported", "encoders"
BUILD = "build"


def main() -> None:
    columns = [figures(pathlib.Path(tree) / "kdiff_jax") for tree in sys.argv[1:]]
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(str(column[name]) for column in columns))


def figures(package: pathlib.Path) -> dict[str, object]:
    """Name -> figure of a package."""
    paths = sorted(package.rglob("*.py"))
    if not paths:
        raise SystemExit(f"{package}: has no Python files; give checkouts")
    trees = {path: ast.parse(path.read_text()) for path in paths}
    lines = [len(path.read_text().splitlines()) for path in paths]
    functions = [node for tree in trees.values() for node in functions_of(tree)]
    sizes = sorted(map(size, functions))
    reads = {path: sum(1 for _ in string_reads(tree)) for path, tree in trees.items()}
    below = [n for path, n in reads.items() if is_below(path.relative_to(package))]
    return {
        "files": len(paths),
        "median file": round(statistics.median(lines)),
        "longest file": max(lines),
        "functions": len(functions),
        "median function": round(statistics.median(sizes)),
        "p95 function": sizes[int(0.95 * len(sizes))],
        "longest function": sizes[-1],
        "functions of more than 6 parameters": sum(num_of(f) > 6 for f in functions),
        "of them by position": sum(num_by_position(f) > 6 for f in functions),
        "reads by string key": sum(reads.values()),
        "of them below build": sum(below),
        "lines of stages/train.run": lines_of_run(trees, package / "stages/train.py"),
    }


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def size(node: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    lines = (node.end_lineno or 0) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def num_by_position(node: ast.FunctionDef) -> int:
    return len(node.args.posonlyargs + node.args.args)


def num_of(node: ast.FunctionDef) -> int:
    return num_by_position(node) + len(node.args.kwonlyargs)


def string_reads(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            key = node.slice
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get":
            key = node.args[0] if node.args else None
        else:
            continue
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield node


def is_below(path: pathlib.Path) -> bool:
    """Whether a module is below `build`, and its keys are not those of files."""
    room = path.parts[0].removesuffix(".py")
    return room not in (*FOREIGN, BUILD)


def lines_of_run(trees, path: pathlib.Path) -> int | None:
    runs = [
        f for f in functions_of(trees.get(path, ast.Module([], []))) if f.name == "run"
    ]
    return (runs[0].end_lineno or 0) - runs[0].lineno + 1 if runs else None


if __name__ == "__main__":
    main()
