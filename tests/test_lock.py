"""One run at a time in a folder: who has it is named, and who is dead loses it."""

import json
import os
import subprocess
import sys
import threading
import time

import jobs
import pytest

from kdiff_jax import lock, stages
from kdiff_jax.build import sections
from kdiff_jax.errors import ConfigError
from kdiff_jax.lock import Lock
from kdiff_jax.stages import locks
from kdiff_jax.train import parallel


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w" / ".lock"


def owned(path, **changes):
    """Leaves the file of another owner there."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(lock._myself() | changes))


def test_the_owner_is_named_and_gives_it_back(path):
    first = Lock(path, "--workdir=w")
    with pytest.raises(ConfigError) as found:
        Lock(path, "--workdir=w")
    for word in ("--workdir=w", f"process {os.getpid()}", os.uname().nodename):
        assert word in str(found.value)
    first.release()
    assert not list(path.parent.iterdir())
    Lock(path, "--workdir=w").release()


def test_a_dead_owner_on_this_machine_loses_it_at_once(path):
    program = (
        f"import os, pathlib\nfrom kdiff_jax.lock import Lock\n"
        f"Lock(pathlib.Path({str(path)!r}), 'w')\nos.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    assert path.exists()
    Lock(path, "w").release()


def test_a_number_that_another_process_has_by_now(path):
    owned(path, began="1")
    Lock(path, "w").release()


ELSEWHERE = dict(host="other", boot="another")


def test_an_owner_elsewhere_that_touches_its_file_lives(path):
    owned(path, **ELSEWHERE)
    done = threading.Event()

    def touch():
        while not done.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(ConfigError, match=f"on host other .* delete {path}"):
            Lock(path, "w")
    finally:
        done.set()
        thread.join()


def test_an_owner_elsewhere_that_is_silent_is_gone(path, monkeypatch, capsys):
    owned(path, **ELSEWHERE)
    monkeypatch.setattr(lock, "GONE", 0.5)
    Lock(path, "w").release()
    assert "waiting for up to" in capsys.readouterr().err
    # And one that has long been silent needs no waiting.
    monkeypatch.setattr(lock, "GONE", 3600)
    owned(path, **ELSEWHERE)
    os.utime(path, (1, 1))
    Lock(path, "w").release()


def test_a_file_that_is_damaged_gives_way_as_one_from_elsewhere(path):
    path.parent.mkdir()
    path.write_text("{")
    os.utime(path, (1, 1))
    Lock(path, "w").release()


def test_of_two_that_find_it_dead_one_gets_it(path):
    owned(path, began="1")
    text = path.read_text()
    taken = Lock(path, "w")
    lock._set_aside(path, text)  # the other had read it before
    assert path.read_text() == taken._text
    taken.release()


def test_the_owner_touches_it_and_makes_it_anew(path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    mine = Lock(path, "w")
    os.utime(path, (1, 1))
    path.unlink()
    deadline = time.monotonic() + 20
    while not path.exists() or path.stat().st_mtime < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    mine.release()


@pytest.fixture
def job(tmp_path):
    """Makes jobs of a recipe with a teacher and students of a partition."""

    def make(only=None):
        parts = [jobs.training("teacher"), jobs.training(partition=True)]
        shared = sections.Partition(only=only)
        mesh = parallel.make_mesh()
        return jobs.job(parts, tmp_path / "w", mesh, partition=shared)

    yield make
    locks.release()


def test_jobs_of_a_queue_share_a_workdir_and_students_do_not(job):
    assert locks.take(job(only=0), None)
    assert locks.take(job(only=1), None)
    with pytest.raises(ConfigError):
        locks.take(job(only=1), "student")
    # The teacher is everybody's.
    assert locks.take(job(only=0), "teacher")
    with pytest.raises(ConfigError):
        locks.take(job(only=1), "teacher")
    with pytest.raises(ConfigError):
        locks.take(job(), None)


def test_where_all_is_done_nothing_is_written(job, tmp_path):
    for name in ("teacher", "student"):
        (tmp_path / "w" / name).mkdir(parents=True)
        stages.finish(tmp_path / "w" / name)
    assert not locks.take(job(), None)
    assert not (tmp_path / "w" / ".lock").exists()


def test_a_workdir_that_is_a_file(job, tmp_path):
    (tmp_path / "w").touch()
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        locks.take(job(), None)
