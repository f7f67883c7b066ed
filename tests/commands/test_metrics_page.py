"""The commands of docs/metrics.md are right, up to the files that nobody has here."""

import json
import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest
from child import ROOT, run_lines
from flax import traverse_util
from named_weights import tensor

from kdiff_jax.features import frozen, inception

PAGE = pathlib.Path(ROOT) / "docs/metrics.md"
DATA = pathlib.Path(ROOT) / "tests/parity/data"
# Files of the two sections, and networks that stand in for those that nobody has here:
# what a file is told by is its content, not its name.
PICKLE, STATE, MODEL = "edm-cifar10-32x32-uncond-vp.pkl", "pytorch_model.bin", "dmd2"
EDM_REF, DMD2_REF = "cifar10-32x32.npz", "imagenet-64x64.npz"
NAMES = (PICKLE, STATE, MODEL, EDM_REF, DMD2_REF, "edm.json", "dmd2.json", "dmd2.png")
FEW = ["--num_images=4", "--batch_size=4"]


def commands(module: str) -> list[list[str]]:
    """The arguments of each command of the page."""
    text = PAGE.read_text().replace("\\\n", " ")
    return [shlex.split(a) for a in re.findall(rf"-m kdiff_jax\.{module} (--.*)", text)]


def test_commands_end_at_the_first_file_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path))
    missing = {
        "evaluate": r"pt_inception-2015-12-05-6726825d.pth|\.pkl|W/student|dmd2|FOLDER",
        "sample": "dmd2",
        "convert": "pytorch_model.bin",
    }
    found = 0
    for module, names in missing.items():
        lines = commands(module)
        lines = [[w for w in line if w != "--fetch"] for line in lines]
        for line, (code, _, said) in zip(lines, run_lines(module, lines), strict=True):
            assert code in (2, 3, 4) and said.count("\n") == 1, (line, said)
            assert re.search(names, said), (line, said)
            assert "unknown" not in said and "not understood" not in said, said
            found += 1
    assert found == 7


def commands_of(title: str, folder: pathlib.Path) -> list[tuple[str, list[str]]]:
    """(module, arguments) of a section in order, with its files in the folder."""
    section = PAGE.read_text().partition(f"\n## {title}")[2].partition("\n## ")[0]
    found = re.findall(r"-m kdiff_jax\.(\w+) (--.*)", section.replace("\\\n", " "))
    places = {name: str(folder / name) for name in NAMES}
    return [(module, _placed(shlex.split(line), places)) for module, line in found]


def _placed(words, places):
    pairs = [word.partition("=") for word in words if word != "--fetch"]
    return [f"{k}{sign}{places.get(value, value)}" for k, sign, value in pairs]


def says(module, words, *more):
    """(exit code, what is printed, the last line that is said) of one command."""
    ((code, told, said),) = run_lines(module, [[*words, *more]])
    return code, told, said.splitlines()[-1] if said else ""


def stand_in(name: str, path: pathlib.Path) -> None:
    shutil.copy(DATA / f"{name}.safetensors", path)


def reference(path: pathlib.Path) -> None:
    """Statistics as `fid-refs` has them."""
    np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of Inception, in the place of the public file."""
    leaves = traverse_util.flatten_dict(frozen.shapes(inception.Inception()))
    arrays = {}
    for leaf, one in leaves.items():
        shape = one.shape[::-1]
        if len(shape) == 4:
            shape = *shape[:2], *one.shape[:2]
        name = frozen.torch_name(leaf)
        arrays[name] = tensor(name, shape)
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    np.savez(path, **arrays)
    return f"--weights={path}"


def checked(module, words, missing, weights):
    """An evaluation ends at the weights, and with these at the next missing file."""
    code, _, said = says(module, words)
    wanted = "inception needs pt_inception-2015-12-05-6726825d.pth"
    assert code == 4 and wanted in said, said
    code, _, said = says(module, words, weights)
    assert code in (3, 4) and missing in said, (code, said)


def test_edms_figure_gets_to_each_missing_file_in_turn(tmp_path, monkeypatch, weights):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path))
    ((module, words),) = commands_of("EDM's 1.97", tmp_path)
    checked(module, words, PICKLE, weights)
    stand_in("edm_tiny_ncsnpp_edm_cond", tmp_path / PICKLE)
    checked(module, words, EDM_REF, weights)


def test_a_released_student_gets_to_each_missing_file_in_turn(
    tmp_path, monkeypatch, weights
):
    """Convert, look at it, evaluate it."""
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path))
    found = commands_of("A released student", tmp_path)
    assert [module for module, _ in found] == ["convert", "sample", "evaluate"]
    convert, sample, evaluate = found
    code, _, said = says(*convert)
    assert code == 4 and STATE in said, said
    stand_in("edm_tiny_adm_edm_cond", tmp_path / STATE)
    assert says(*convert)[0] == 0
    code, _, said = says(*sample, *FEW)
    assert code == 0 and (tmp_path / "dmd2.png").is_file(), said
    checked(*evaluate, DMD2_REF, weights)


@pytest.mark.slow  # Inception is compiled twice
def test_with_all_files_there_both_end_in_a_figure(tmp_path, weights):
    stand_in("edm_tiny_ncsnpp_edm_cond", tmp_path / PICKLE)
    stand_in("edm_tiny_adm_edm_cond", tmp_path / STATE)
    for name in (EDM_REF, DMD2_REF):
        reference(tmp_path / name)
    convert, _, evaluate = commands_of("A released student", tmp_path)
    assert says(*convert)[0] == 0
    (edm,) = commands_of("EDM's 1.97", tmp_path)
    assert "--seeds=3" in edm[1]
    for (module, words), seeds in ((edm, 2), (evaluate, 1)):  # each takes a minute
        code, told, said = says(module, words, weights, *FEW, f"--seeds={seeds}")
        row = json.loads(told)
        assert code == 0 and np.isfinite(row["metrics"]["fid"]), said
        assert len(row.get("seeds", {"each": [1]})["each"]) == seeds
