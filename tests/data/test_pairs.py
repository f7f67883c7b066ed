"""Pairs on disk: resumable, checked, and never half there."""

import collections
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kdiff_jax.data import pairs
from kdiff_jax.data.batches import Batches
from kdiff_jax.errors import DataError, StorageError

SHAPE = (4, 4, 3)
NUM, SIZE = 23, 5  # five shards, the last of three pairs


def identity(**changes):
    return {
        "teacher": "crc32:1234",
        "sampler": {"name": "ddim", "num_steps": 100, "grid": "quadratic"},
        "seed": 0,
        "shape": SHAPE,
        "num_pairs": NUM,
        "shard_size": SIZE,
        **changes,
    }


def shard_arrays(k):
    """The pairs of shard k, of which each entry is a function of the pair's number."""
    numbers = np.arange(k * SIZE, min((k + 1) * SIZE, NUM))
    x0 = np.broadcast_to(numbers[:, None, None, None], (len(numbers), *SHAPE))
    z = np.random.default_rng(k).normal(size=x0.shape).astype(np.float16)
    return z, x0.astype(np.uint8), (numbers % 10).astype(np.int32)


def make_all(folder, **changes):
    pairs.begin(folder, identity(**changes))
    for k in pairs.missing(folder):
        pairs.write_shard(folder, k, *shard_arrays(k))


def flip_bit(file, position, bit=0):
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def test_read_gives_back_what_was_written(tmp_path):
    make_all(tmp_path)
    pairs.verify(tmp_path)
    found = pairs.open_pairs(tmp_path)
    assert (found.num, found.shape) == (NUM, SHAPE)
    indices = np.array([22, 0, 7, 7, 4, 5])
    z, x0, y = found.read(indices)
    assert (z.dtype, x0.dtype, y.dtype) == (np.float16, np.uint8, np.int32)
    np.testing.assert_array_equal(x0[:, 0, 0, 0], indices)
    np.testing.assert_array_equal(y, indices % 10)
    np.testing.assert_array_equal(found.labels, np.arange(NUM) % 10)
    np.testing.assert_array_equal(z[2], shard_arrays(1)[0][2])


def test_batches_of_pairs_are_in_the_stateless_order(tmp_path):
    make_all(tmp_path)
    batches = Batches(pairs.open_pairs(tmp_path), seed=1, batch_size=8)
    batch = batches[2]  # straddles the end of the first epoch
    assert set(batch) == {"z", "x0", "y"}
    np.testing.assert_array_equal(batch["x0"][:, 1, 2, 0], batches.indices(2))
    numbers = np.concatenate([batches.indices(step) for step in range(3)])
    np.testing.assert_array_equal(np.sort(numbers[:NUM]), np.arange(NUM))


def test_only_shards_that_are_not_there_are_missing(tmp_path):
    pairs.begin(tmp_path, identity())
    assert pairs.missing(tmp_path) == [0, 1, 2, 3, 4]
    for k in (3, 0):
        pairs.write_shard(tmp_path, k, *shard_arrays(k))
    assert pairs.missing(tmp_path) == [1, 2, 4]
    with pytest.raises(DataError, match="missing or damaged shards: 1, 2, 4; run"):
        pairs.verify(tmp_path)
    with pytest.raises(DataError, match="shard-00001: missing or damaged; run"):
        pairs.open_pairs(tmp_path)


@pytest.mark.parametrize("name", ["z.npy", "x0.npy", "y.npy", "checksums.json"])
def test_every_flipped_bit_is_found(tmp_path, name):
    make_all(tmp_path)
    file = tmp_path / "shard-00002" / name
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    for position in {0, len(good) - 1, *rng.integers(len(good), size=60).tolist()}:
        flip_bit(file, position, int(rng.integers(8)))
        assert pairs.missing(tmp_path) == [2]
        file.write_bytes(good)
    assert pairs.missing(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 1, 100, 200, -1])
def test_a_truncated_file_is_found(tmp_path, keep):
    make_all(tmp_path)
    file = tmp_path / "shard-00004" / "z.npy"
    file.write_bytes(file.read_bytes()[:keep])
    assert pairs.missing(tmp_path) == [4]
    with pytest.raises(DataError, match="shard-00004: missing or damaged"):
        pairs.open_pairs(tmp_path)


def test_a_deleted_file_is_found_and_made_again(tmp_path):
    make_all(tmp_path)
    (tmp_path / "shard-00001" / "y.npy").unlink()
    flip_bit(tmp_path / "shard-00003" / "x0.npy", 200)
    assert pairs.missing(tmp_path) == [1, 3]
    make_all(tmp_path)
    pairs.verify(tmp_path)
    z, _, _ = pairs.open_pairs(tmp_path).read(np.arange(5, 10))
    np.testing.assert_array_equal(z, shard_arrays(1)[0])


def test_killed_at_any_time_the_next_run_finishes(tmp_path):
    """SIGKILL after 0 .. 4 shards and anywhere inside the next one."""
    script = (
        "import sys, numpy as np\n"
        "from kdiff_jax.data import pairs\n"
        "folder, num, size = sys.argv[1], 40, 4\n"
        "pairs.begin(folder, dict(num_pairs=num, shard_size=size, shape=[64, 64, 3]))\n"
        "print('ready', flush=True)\n"
        "for k in pairs.missing(folder):\n"
        "    z = np.full((size, 64, 64, 3), k, np.float16)\n"
        "    y = np.full(size, k, np.int32)\n"
        "    pairs.write_shard(folder, k, z, z.astype(np.uint8), y)\n"
        "    print(k, flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    rng = np.random.default_rng(0)
    committed = []
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(int(rng.integers(3))):
            line = process.stdout.readline()
            committed += [int(line)] if line else []
        time.sleep(rng.uniform(0, 0.01))
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().split()
        committed += [int(k) for k in rest]
        process.wait()
        left = pairs.missing(tmp_path)
        # What was reported done is done, and nothing is made twice.
        assert not set(left) & set(committed)
        assert len(committed) == len(set(committed))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    pairs.verify(tmp_path)
    found = pairs.open_pairs(tmp_path)
    np.testing.assert_array_equal(found.labels, np.repeat(np.arange(10), 4))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["pairs.json", *(f"shard-{k:05d}" for k in range(10))]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(teacher="crc32:9"), "teacher='crc32:1234', now it is 'crc32:9'"),
        (dict(seed=1), "seed=0, now it is 1"),
        (dict(num_pairs=24), "num_pairs=23, now it is 24"),
        (dict(shape=(4, 4, 1)), r"shape=\[4, 4, 3\], now it is \[4, 4, 1\]"),
        (dict(extra=1), "extra=None, now it is 1"),
    ],
)
def test_pairs_of_another_teacher_are_not_mixed(tmp_path, change, message):
    make_all(tmp_path)
    pairs.begin(tmp_path, identity())  # the same command again is fine
    with pytest.raises(DataError, match=message) as raised:
        pairs.begin(tmp_path, identity(**change))
    assert raised.value.exit_code == 3 and "\n" not in str(raised.value)


def test_a_folder_without_pairs_says_so(tmp_path):
    with pytest.raises(DataError, match="pairs.json: is missing; run the stage"):
        pairs.open_pairs(tmp_path / "nowhere")
    for text in ("{", "{}", '{"num_pairs": true, "shard_size": 5, "shape": [4, 4, 3]}'):
        (tmp_path / "pairs.json").write_text(text)
        with pytest.raises(DataError, match="pairs.json: is damaged .*; run the stage"):
            pairs.verify(tmp_path)


def test_a_damaged_note_is_written_anew_and_the_shards_know_whose_they_are(tmp_path):
    make_all(tmp_path)
    note = tmp_path / "pairs.json"
    flip_bit(note, note.read_bytes().index(b"crc32:1234") + 6)
    with pytest.raises(DataError, match="changed after it was written"):
        pairs.open_pairs(tmp_path)
    pairs.begin(tmp_path, identity())
    pairs.verify(tmp_path)  # the shards are kept
    note.unlink()
    pairs.begin(tmp_path, identity(seed=1))
    assert pairs.missing(tmp_path) == [0, 1, 2, 3, 4]  # those of another seed are not


def test_pairs_of_a_version_before_are_read(tmp_path):
    """Their notes have no digest, and their shards do not know whose they are."""
    make_all(tmp_path)
    for file in tmp_path.rglob("*.json"):
        found = json.loads(file.read_text())
        rest = {k: v for k, v in found.items() if k not in ("digest", "made_by")}
        file.write_text(json.dumps(rest))
    pairs.begin(tmp_path, identity())
    pairs.verify(tmp_path)
    assert pairs.open_pairs(tmp_path).num == NUM
    flip_bit(tmp_path / "shard-00002" / "z.npy", 200)
    assert pairs.missing(tmp_path) == [2]


def test_the_disk_need_of_the_paper():
    """1 024 000 pairs of 256x256x3, 3 bytes a value: "about 600 GB" in the code."""
    assert pairs.disk_need(1_024_000, (256, 256, 3)) == 1_024_000 * (3 * 196_608 + 4)
    assert round(pairs.disk_need(1_024_000, (256, 256, 3)) / 1e9) == 604


def test_the_disk_need_is_what_a_shard_takes(tmp_path):
    make_all(tmp_path)
    there = sum(f.stat().st_size for f in tmp_path.glob("shard-*/*.npy"))
    assert there == pairs.disk_need(NUM, SHAPE) + 5 * 3 * 128  # a .npy header is 128


def test_a_disk_too_small_is_refused_with_the_numbers(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    folder = tmp_path / "not" / "yet"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 5_000_000_000))
    pairs.check_disk(folder, 1_600_000, (32, 32, 1))  # 4.92 GB
    with pytest.raises(StorageError) as raised:
        pairs.check_disk(folder, 1_700_000, (32, 32, 1))
    message = str(raised.value)
    assert "1700000 pairs of 32x32x1 need 5.23 GB; 0.00 GB are there" in message
    assert "5.00 GB free; free some" in message
    assert raised.value.exit_code == 7 and "\n" not in message


def test_shards_that_are_there_count_as_room(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    make_all(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 10))
    pairs.check_disk(tmp_path, NUM, SHAPE)
    with pytest.raises(StorageError, match="are there and the disk has 0.00 GB free"):
        pairs.check_disk(tmp_path, 10 * NUM, SHAPE)


def test_a_disk_that_fills_up_leaves_no_half_shard(tmp_path):
    """The system refuses files above 700 bytes; the noise of ten pairs has 1088."""
    make_all(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    z, x0, y = (np.concatenate([a, a]) for a in shard_arrays(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
    try:
        with pytest.raises(
            StorageError, match="shard-00000: cannot be written .* the same"
        ):
            pairs.write_shard(tmp_path, 0, z, x0, y)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.rglob("*")) == before
    pairs.verify(tmp_path)  # the shard that was there still is


@pytest.mark.parametrize("key", ["z", "x0", "y"])
def test_other_types_are_refused(tmp_path, key):
    arrays = dict(zip(("z", "x0", "y"), shard_arrays(0), strict=True))
    arrays[key] = arrays[key].astype(np.float32)
    with pytest.raises(Exception, match=key):
        pairs.write_shard(tmp_path, 0, **arrays)
    assert not list(tmp_path.iterdir())


def test_the_notes_are_plain_json(tmp_path):
    make_all(tmp_path)
    notes = json.loads((tmp_path / "pairs.json").read_text())
    assert notes["sampler"]["grid"] == "quadratic"
    sums = json.loads((tmp_path / "shard-00004/checksums.json").read_text())
    assert sums["num"] == 3 and sums["z"]["bytes"] == 3 * 48 * 2 + 128
