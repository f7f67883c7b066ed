"""A workdir in which nothing can be written is refused at once, with a way out."""

import os

import jax
import pytest
import recipes

from kdiff_jax import recipe
from kdiff_jax.build import plain
from kdiff_jax.errors import ConfigError
from kdiff_jax.stages import place

LONG = "a" * 300


@pytest.fixture
def here(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/proc/x", "cannot be written .*; name another folder"),
        ("/proc/x/y", "cannot be written .*; name another folder"),
        ("/sys/x", "cannot be written .*; name another folder"),
        ("/dev/null/x", "/dev/null is a file; name a folder"),
        ("file", "file is a file; name a folder"),
        ("file/sub", "file is a file; name a folder"),
        ("link", "is a link to .*nowhere, which is not there; make that folder"),
        ("link/sub", "is a link to .*nowhere, which is not there; make that folder"),
        ("loop/sub", "; make that folder, or name another"),
        (LONG, "File name too long.*; name another folder"),
        (f"new/{LONG}/sub", "File name too long.*; name another folder"),
    ],
)
def test_a_place_for_no_workdir_is_one_line(here, name, words):
    if name.startswith("/") and not os.path.exists("/proc/self"):
        pytest.skip("no such file system here")
    before = sorted(os.listdir(here))
    with pytest.raises(ConfigError, match=f"^--workdir=.*{words}"):
        place.check(here / name)
    # As a run and a dry run begin: neither goes as far as the data.
    job = recipe.make_job(
        plain(recipes.load("toy2d_msd", "tiny")),
        here / name,
        devices=jax.devices()[:1],
    )
    with pytest.raises(ConfigError, match=words):
        recipe.check_inputs(job)
    assert sorted(os.listdir(here)) == before


def test_a_place_for_a_workdir_stays_as_it_is(here):
    for name in ("new", "new/folder", "."):
        place.check(here / name)
    assert len(os.listdir(here)) == 3
