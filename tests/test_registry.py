"""Things by their names: what has a file is there, and what has none is said so."""

import importlib
import sys

import pytest

from kdiff_jax import methods, networks, registry, samplers
from kdiff_jax.data import images
from kdiff_jax.diffusion import precondition, process
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop import foreign


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of one thing, `heun`, and a module that helps it."""
    folder = tmp_path / "things_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "heun.py").write_text("def make():\n    return 'heun'\n")
    (folder / "layers.py").write_text("def helper(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_a_file_is_all_that_a_new_thing_needs(package):
    assert registry.names(package.name) == ["heun"]
    (package / "euler.py").write_text("def make():\n    return 'euler'\n")
    importlib.invalidate_caches()
    assert registry.names(package.name) == ["euler", "heun"]
    assert registry.module(package.name, "euler", what="thing").make() == "euler"


@pytest.mark.parametrize("name", ["heum", "layers", "heun.make", "", "../heun", "1"])
def test_what_is_no_such_thing_is_refused_with_those_that_are(package, name):
    line = f"thing={name!r}: unknown; choose one of heun"
    with pytest.raises(ConfigError) as raised:
        registry.module(package.name, name, what="thing")
    assert str(raised.value).startswith(line)


def test_a_near_name_is_offered(package):
    with pytest.raises(ConfigError, match="choose one of heun; did you mean heun\\?$"):
        registry.module(package.name, "huen", what="thing")


def test_entries_of_a_table():
    assert registry.entry({"a": 1}, "a", what="letter") == 1
    with pytest.raises(ConfigError, match="letter='b': unknown; choose one of a$"):
        registry.entry({"a": 1}, "b", what="letter")


def test_what_there_is_at_least():
    """A new file adds itself: what is there beside these is not looked at."""
    papers = ("denoising_student", "progressive", "dmd", "dmd2", "gdd", "tsm")
    assert {"denoise", *papers} <= set(methods.names())
    unets = ("adm_unet", "ddpm_unet", "iddpm_unet", "song_unet")
    assert {"mlp", *unets} <= set(networks.names())
    assert "layers" not in networks.names() and "network" not in networks.names()
    assert {"ddim", "heun", "dpm_solver", "ancestral"} <= set(samplers.names())
    assert {"digits", "folder", "tfds", "edm_zip"} <= set(images.sources())
    assert "images" not in images.sources()
    assert {"edm", "diffusers", "google"} <= set(foreign.families())


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (methods.make_function, "method"),
        (samplers.make_function, "sampler"),
        (networks.make_function, "network"),
        (process.make_function, "process"),
        (precondition.make_function, "precondition"),
        (images.source, "data.name"),
    ],
)
def test_one_message_for_all(make, what):
    with pytest.raises(ConfigError, match=f"^{what}='none': unknown; choose one of "):
        make("none")
