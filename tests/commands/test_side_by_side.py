"""`evaluate --compare RUN RUN ...`: exit codes, what is written, what is refused."""

import json

from child import run_lines


def row(folder, name, value):
    """A row as `evaluate --output` writes it."""
    content = {
        "checkpoint": f"W/{name}",
        "sampler": "ddim",
        "nfe": 1,
        "num_images": 100,
        "metrics": {"fd_pixels": value},
        "features": {"name": "pixels", "preprocessing": "default"},
        "compared_with": {"num_images": 10, "data": "ab"},
        "images_per_second": 10.0,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_compare(tmp_path):
    a, b = row(tmp_path, "a", 2.0), row(tmp_path, "b", 1.0)
    bad, pages = tmp_path / "bad.json", [tmp_path / f"x.{e}" for e in ("html", "md")]
    bad.write_text("{")
    outputs = [f"--output={page}" for page in pages]
    cases = [
        (["--compare", a, b, outputs[0]], 0, ""),
        ([f"--compare={a}", b, outputs[0]], 0, ""),  # the file of before is replaced
        (["--compare", a, outputs[1], "--compare", b], 0, ""),
        (["--compare", a, str(bad)], 3, f"compare={bad}: bad.json is damaged"),
        (["--compare", str(tmp_path)], 3, "there is no report.json; run its recipe"),
        (["--compare", a, f"--output={bad}"], 2, "holds no comparison; name a new"),
        (["--compare", a, "--output=x.png"], 2, "name a .html or .md or .json file"),
        (["--compare", a, f"--output={b}"], 2, "holds no comparison; name a new"),
        (["--compare", a, "--checkpoint=x"], 2, "--checkpoint=x: --compare measures"),
        (["--checkpoint=x", "spare"], 2, "'spare' is not understood"),
    ]
    answers = run_lines("evaluate", [words for words, _, _ in cases])
    for (words, code, why), (found, told, said) in zip(cases, answers, strict=True):
        assert (found, said.count("\n")) == (code, int(code != 0)), (words, said)
        assert why in said, (words, said)
        if code == 0:
            assert "| b | ddim | 1 | **1** |" in told and "| a | ddim |" in told
    assert "<table>" in pages[0].read_text() and "**1**" in pages[1].read_text()
    assert json.loads((tmp_path / "b.json").read_text())["metrics"] == {"fd_pixels": 1}
