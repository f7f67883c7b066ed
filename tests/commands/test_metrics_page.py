"""The commands of docs/metrics.md are right, up to the files that nobody has here."""

import pathlib
import re
import shlex

from child import ROOT, run_lines

PAGE = pathlib.Path(ROOT) / "docs/metrics.md"


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
