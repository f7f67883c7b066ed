"""Caches of latents: what opens, and what is refused."""

import shutil

import numpy as np
import pytest

from kdiff_jax import sealed
from kdiff_jax.data import latents
from kdiff_jax.errors import DataError, StorageError

FACTS = dict(
    num_images=3,
    num_examples=4,
    shard_size=2,
    shape=[1, 1, 2],
    tokens={"ids": 2},
    vae="a" * 64,
    captions="b",
)


def shard(images, counts):
    captions = [
        f"of {i}" for i, n in zip(images, counts, strict=True) for _ in range(n)
    ]
    rows = np.arange(len(images), dtype=np.int32)
    captions = [f"of {images[row]}" for row in np.repeat(rows, counts)]
    moments = np.float16(images).reshape(-1, 1, 1, 1) + np.float16([0, 10])
    ids = np.arange(2 * len(captions), dtype=np.uint16).reshape(-1, 2)
    return dict(
        moments=moments,
        ids=ids,
        image=np.repeat(rows, counts),
        captions=latents.packed(captions),
    )


@pytest.fixture
def folder(tmp_path):
    latents.begin(tmp_path / "a", FACTS)
    latents.write_shard(tmp_path / "a", 0, shard([0, 1], [1, 2]))
    latents.write_shard(tmp_path / "a", 1, shard([2], [1]))
    latents.finish(tmp_path / "a")
    return tmp_path / "a"


def test_examples_are_captions_with_their_images(folder):
    found = latents.open_latents(folder, vae=FACTS["vae"])
    batch = found.batch(np.array([3, 0, 2, 1]))
    assert batch["moments"][:, 0, 0, 0].tolist() == [2, 0, 1, 1]
    assert batch["ids"].tolist() == [[0, 1], [0, 1], [4, 5], [2, 3]]
    assert batch["y"].tolist() == [3, 0, 2, 1] and found.num == 4
    assert latents.texts(folder, 0) == ["of 0", "of 1", "of 1"]
    assert latents.disk_need(FACTS, 20) == 3 * 4 + 4 * (4 + 4) + 20


def test_flipped_images_are_further_examples(tmp_path):
    facts = FACTS | dict(flip=True)
    latents.begin(tmp_path, facts)
    for k, (images, counts) in enumerate([([0, 1], [1, 2]), ([2], [1])]):
        arrays = shard(images, counts)
        arrays["flipped"] = -arrays["moments"]
        latents.write_shard(tmp_path, k, arrays)
    latents.finish(tmp_path)
    found = latents.open_latents(tmp_path)
    batch = found.batch(np.array([3, 7, 5, 1]))
    assert batch["moments"][:, 0, 0, 0].tolist() == [2, -2, -1, 1]
    assert batch["y"].tolist() == [3, 3, 1, 1] and found.num_views == 2
    one = latents.disk_need(FACTS) - latents.disk_need(FACTS | dict(shape=[]))
    assert latents.disk_need(facts) == latents.disk_need(FACTS) + one
    with pytest.raises(DataError, match="made with flip=True, now it is None; delete"):
        latents.begin(tmp_path, FACTS)


def test_a_cache_of_another_autoencoder_is_refused(folder):
    with pytest.raises(DataError, match=r"another autoencoder \(a{16}\.\.\."):
        latents.open_latents(folder, vae="c" * 64)
    with pytest.raises(DataError, match=r"made with vae=aaaa.*, now it is c; delete"):
        latents.begin(folder, FACTS | dict(vae="c"))
    latents.begin(folder, FACTS)  # the same


def test_unfinished_and_damaged_caches_are_refused(folder, tmp_path):
    facts = sealed.read_json(folder / latents.MANIFEST, error=DataError, way_out="")
    del facts["shards"]
    sealed.write_json(folder / latents.MANIFEST, facts)
    with pytest.raises(DataError, match="is not finished; run the command"):
        latents.open_latents(folder)
    assert latents.missing(folder) == []
    latents.finish(folder)
    one = folder / "shard-00001"
    data = bytearray((one / "moments.npy").read_bytes())
    data[-1] ^= 1
    (one / "moments.npy").write_bytes(data)
    assert latents.missing(folder) == [1]
    with pytest.raises(DataError, match="missing or damaged shards: 1; run the"):
        latents.verify(folder)
    # Of another cache, though whole.
    latents.begin(tmp_path / "b", FACTS | dict(captions="c"))
    latents.write_shard(tmp_path / "b", 1, shard([5], [1]))
    shutil.rmtree(one)
    shutil.copytree(tmp_path / "b/shard-00001", one)
    assert latents.missing(folder) == [1]
    with pytest.raises(DataError, match="is of another cache, or damaged"):
        latents.open_latents(folder)
    (folder / latents.MANIFEST).write_text("{}")
    with pytest.raises(DataError, match=r"latents\.json: is damaged"):
        latents.open_latents(folder)
    with pytest.raises(DataError, match="is missing; run the command"):
        latents.open_latents(tmp_path / "x")


def test_storage_that_does_not_take_a_shard(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(latents.shards, "write", full)
    with pytest.raises(StorageError, match="No space left.*finished shards are kept"):
        latents.write_shard(folder, 0, shard([0, 1], [1, 2]))
