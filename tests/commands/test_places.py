"""Places that a command is started in: platforms, homes, caches, folders of recipes."""

import ctypes
import errno
import os
import pathlib
import subprocess
import sys

import child
import jax
import pytest

from kdiff_jax import start
from kdiff_jax.errors import ConfigError
from kdiff_jax.report.tensorboard import TensorBoard
from kdiff_jax.train import peers


@pytest.mark.parametrize("module", ["main", "sample", "evaluate", "convert"])
def test_a_platform_that_is_not_here_is_named(module, tmp_path, monkeypatch):
    arguments = {
        "main": [f"--config={child.RECIPE}", f"--workdir={tmp_path}/w"],
        "sample": ["--checkpoint=x", f"--output={tmp_path}/x.png"],
        "evaluate": ["--checkpoint=x", "--reference=x"],
        "convert": ["--input=x", f"--output={tmp_path}/x"],
    }
    monkeypatch.setattr(child, "PLATFORM", "nonsense")
    code, output = child.run(module, *arguments[module], anew=True)
    assert code == 2, output
    (line,) = [x for x in output.splitlines() if x.startswith("kdiff_jax: ")]
    assert "JAX_PLATFORMS=nonsense" in line and "JAX_PLATFORMS=cpu" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no device")])
def test_a_gpu_that_is_missing_is_a_mistake_of_the_environment(error, monkeypatch):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(ConfigError, match="JAX_PLATFORMS=cpu: cannot start on this"):
        start.platform()


@pytest.fixture
def cache(monkeypatch):
    """What JAX is told of its cache."""
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    return told


def test_no_home_costs_the_cache_and_not_the_run(cache, monkeypatch, caplog):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("KDIFF_CACHE")
    monkeypatch.setattr(pathlib.Path, "home", home)
    start.cache()
    assert not cache and "Could not determine home" in caplog.text


def test_a_cache_that_cannot_be_written_costs_no_run(
    cache, monkeypatch, caplog, tmp_path
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "file" / "cache"))
    start.cache()
    assert not cache and "Not a directory" in caplog.text
    monkeypatch.setenv("KDIFF_CACHE", "")
    start.cache()
    assert not cache
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "cache"))
    start.cache()
    assert cache["jax_compilation_cache_dir"] == str(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.fixture
def path(monkeypatch):
    """A path of modules without the clone."""
    found = [p for p in sys.path if p not in (str(child.ROOT), "")]
    monkeypatch.setattr(sys, "path", found)
    return found


def test_a_recipe_elsewhere_finds_ours_and_its_neighbours(path, tmp_path):
    recipe = tmp_path / "mine" / "recipe.py"
    recipe.parent.mkdir()
    recipe.touch()
    assert start.find_recipe(f"{recipe}:tiny") == f"{recipe}:tiny"
    assert path[0] == str(tmp_path)
    # Behind everything else: `copy.py` beside a recipe is no module of Python.
    assert path[-2:] == [str(child.ROOT), str(recipe.parent)]


def test_our_recipes_are_found_from_any_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = child.ROOT / "configs" / "digits_student.py"
    assert start.find_recipe("configs/digits_student.py:tiny") == f"{ours}:tiny"
    assert start.find_recipe("digits_student:tiny") == f"{ours}:tiny"
    assert start.find_recipe("configs/digits_student") == str(ours)
    with pytest.raises(ConfigError, match="no such file"):
        start.find_recipe("configs/nothing.py")
    with pytest.raises(ConfigError, match="'digits_student' is one.*give NAME"):
        start.find_recipe("digits_studnt:tiny")


def test_a_recipe_in_the_root_folder_has_no_folder_above(path, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "is_file", lambda self: True)
    assert start.find_recipe("/recipe.py") == "/recipe.py"


def test_what_a_recipe_misses_is_named(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("from nowhere import common\n")
    code, output = child.run("main", f"--config={recipe}")
    assert code == 2
    assert "No module named 'nowhere'" in output and "PYTHONPATH" in output


@pytest.mark.parametrize("place", ["/dev/full", "a pipe without a reader"])
def test_an_output_that_takes_nothing_is_told(place):
    if place == "/dev/full":
        out = os.open(place, os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    command = [sys.executable, "-m", "kdiff_jax.main", f"--config={child.RECIPE}"]
    path = f"{child.ROOT}:{child.ROOT / 'tests'}"
    done = subprocess.run(
        [*command, "--print_config"],
        cwd=child.ROOT,
        env=os.environ | {"PYTHONPATH": path},
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(out)
    assert done.returncode == 7
    assert done.stderr.startswith("kdiff_jax: ") and done.stderr.count("\n") == 1


def test_a_workdir_may_be_in_the_home(tmp_path, monkeypatch):
    from kdiff_jax import main

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(type(main.WORKDIR), "value", "~/w", raising=False)
    assert main._workdir("digits") == tmp_path / "w"


@pytest.mark.parametrize(
    ("address", "num", "own", "words"),
    [
        ("host", "2", "0", "KDIFF_COORDINATOR=host: must be HOST:PORT"),
        ("host:port", "2", "0", "KDIFF_COORDINATOR=host:port: must be HOST:PORT"),
        ("host:1", "two", "0", "KDIFF_NUM_PROCESSES=two: must be a whole number"),
        ("host:1", "0", "0", "KDIFF_NUM_PROCESSES=0: must be 1 or more"),
        ("host:1", "2", "2", "KDIFF_PROCESS_ID=2: must be in 0..1"),
    ],
)
def test_a_cluster_that_is_none(address, num, own, words, monkeypatch):
    for name, value in zip(peers.NAMES, (address, num, own), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words):
        peers.join()


def test_tensorboard_needs_no_shared_memory(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    import multiprocessing

    def none_here(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(multiprocessing, "Queue", none_here)
    board = TensorBoard(tmp_path)
    board.scalars(1, {"loss": 1.0})
    board.close()
    (file,) = tmp_path.iterdir()
    assert b"loss" in file.read_bytes()


def test_freed_memory_stays_where_the_cpu_computes(monkeypatch):
    """Pages that are asked for again were a third of the time of FID's network."""
    called = []

    class Libc:
        def mallopt(self, parameter, value):
            called.append((parameter, value))

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    start.allocator()
    assert dict(called) == {-4: 0, -1: 2**31 - 1, -2: 2**26}
    called.clear()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")  # whoever sets these knows better
    start.allocator()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    monkeypatch.setattr(start.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    start.allocator()
    assert not called
