"""The wheel, made from the sdist, in an environment without the checkout."""

import os
import pathlib
import subprocess
import sys
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(*words, cwd, **variables):
    """(exit code, all that was written) of a command."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return result.returncode, result.stdout


@pytest.fixture(scope="module")
def kdiff(tmp_path_factory):
    """The console script of an environment with the wheel and what it depends on."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    for name in ("kdiff_jax", "configs", "setup.py", "README.md", "LICENSE"):
        (source / name).parent.mkdir(exist_ok=True)
        code, said = run("cp", "-r", ROOT / name, source / name, cwd=place)
        assert code == 0, said
    build = ("-m", "build", "--no-isolation", "--outdir", place / "dist", source)
    code, said = run(sys.executable, *build, cwd=place)
    assert code == 0, said
    (wheel,) = (place / "dist").glob("*.whl")
    assert len(list((place / "dist").glob("*.tar.gz"))) == 1
    code, said = run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=place)
    assert code == 0, said
    python = place / "env/bin/python"
    install = ("-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    code, said = run(sys.executable, *install, wheel, cwd=place)
    assert code == 0, said
    # Dependencies as they are here; an editable install of a checkout is not seen.
    (packages,) = (place / "env/lib").glob("python*/site-packages")
    (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "env/bin/kdiff"


def test_it_brings_its_commands_and_recipes(kdiff, tmp_path):
    code, said = run(kdiff, "--help", cwd=tmp_path)
    assert code == 0 and "\n  export " in said
    shown = ("import kdiff_jax; print(kdiff_jax.__file__)",)
    code, said = run(kdiff.parent / "python", "-c", *shown, cwd=tmp_path)
    assert str(kdiff.parents[1]) in said  # not the checkout
    recipe = ("train", "--config=sd15_student:tiny", "--print_config")
    code, said = run(kdiff, *recipe, cwd=tmp_path, JAX_PLATFORMS="cpu")
    assert code == 0, said
    (texts,) = {word for word in said.split() if word.endswith("tiny_texts.npy")}
    assert pathlib.Path(texts).is_file() and str(kdiff.parents[1]) in texts
    code, said = run(kdiff, "train", "--config=none", cwd=tmp_path, JAX_PLATFORMS="cpu")
    assert code == 2 and said.startswith("kdiff_jax: command line: --config=none: no")
    assert not list(tmp_path.iterdir())
