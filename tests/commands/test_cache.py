"""The command that caches latents and tokens: the same bytes, however often killed."""

import json
import pathlib
import shutil

import child
import encoder_files
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from kdiff_jax import latent, text
from kdiff_jax.data import captions, latents
from kdiff_jax.data.batches import Batches
from kdiff_jax.encoders import autoencoder_kl

TOKENIZER = pathlib.Path(__file__).parents[1] / "parity/data/clip_tokenizer"
SIDE = 8


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A pipeline of an autoencoder and a tokenizer."""
    folder = tmp_path_factory.mktemp("teacher")
    config = encoder_files.PLAIN | dict(sample_size=SIDE, scaling_factor=0.5)
    encoder_files.vae_folder(folder / "vae", config)
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Seven photos with eight captions."""
    folder = tmp_path_factory.mktemp("photos")
    random, rows = np.random.default_rng(0), []
    for i in range(7):
        pixels = random.integers(0, 255, (SIDE + i, 2 * SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": f"photo {i}"})
    rows.append({"file_name": "3.png", "text": "the third photo"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def words(photos, teacher, output, *more):
    return [
        *(f"--data={photos}", f"--teacher={teacher}", f"--output={output}"),
        *("--shard_size=2", "--batch_size=2", *more),
    ]


@pytest.fixture(scope="module")
def cache(photos, teacher, tmp_path_factory):
    """A cache that nobody interrupted."""
    folder = tmp_path_factory.mktemp("cache") / "latents"
    code, said = child.run("cache", *words(photos, teacher, folder, "--flip"))
    assert code == 0, said
    first = said.splitlines()[0]
    wanted = "latents: 7 images of 8x8 and their flips and 8 captions take 4.92e-06 GB"
    assert first.endswith(wanted)
    assert "4 shards made" in said
    return folder


def content(folder):
    """Every file of a cache."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.startswith(".lock")
    }


def test_what_is_cached_is_what_the_encoders_say(cache, photos, teacher):
    vae, found = latent.load(teacher), latents.open_latents(cache)
    latents.verify(cache)
    batch = found.batch(np.arange(found.num))
    loaded = captions.read(str(photos))
    which = [i for i, texts in enumerate(loaded.captions) for _ in texts]
    assert which == [0, 1, 2, 3, 3, 4, 5, 6]
    pixels = loaded.images(SIDE, 3).read(which)
    flipped = found.batch(np.arange(found.num) + found.num)
    np.testing.assert_array_equal(flipped["ids"], batch["ids"])
    for images, view in ((pixels, batch), (pixels[:, :, ::-1], flipped)):
        expected = vae.encode(images.astype(np.float32) / 127.5 - 1)
        mine = autoencoder_kl.split(jnp.asarray(view["moments"], jnp.float32))
        for ours, wanted in zip(mine, expected, strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-3)
    flat = [text for texts in loaded.captions for text in texts]
    np.testing.assert_array_equal(batch["ids"], text.tokenizer(teacher)(flat))
    assert batch["ids"].dtype == np.uint16 and batch["moments"].dtype == np.float16
    assert batch["y"].tolist() == [*range(8)]
    assert [latents.texts(cache, k) for k in (0, 1)] == [flat[:2], flat[2:5]]
    facts = found.facts
    assert (facts["vae"], facts["scaling_factor"]) == (vae.sha256, 0.5)
    assert facts["prepared"]["crop"] == "largest centred square"
    size = sum(file.stat().st_size for file in cache.glob("shard-*/*.npy"))
    assert 0 < size - latents.disk_need(facts, len("\n".join(flat)) + 1) < 20 * 130


def test_killed_and_gone_on_with_other_devices_it_is_the_same_bytes(
    cache, photos, teacher, tmp_path
):
    line = words(photos, teacher, tmp_path / "b", "--flip")
    process = child.start("cache", *line, devices=4)
    code, _ = child.stop_when(process, (tmp_path / "b/shard-00000").is_dir)
    assert code == -9
    shutil.rmtree(tmp_path / "b/shard-00001", ignore_errors=True)
    code, said = child.run("cache", *line)
    assert code == 0 and "shards are there and whole" in said, said
    assert content(tmp_path / "b") == content(cache)


def test_a_run_goes_on_with_the_same_batches(cache):
    batches = Batches(latents.open_latents(cache), seed=3, batch_size=3)
    wanted = [batches[step] for step in range(5)]
    again = Batches(latents.open_latents(cache), seed=3, batch_size=3)
    for step in (4, 1):
        for name, array in again[step].items():
            np.testing.assert_array_equal(array, wanted[step][name])
    halves = [
        Batches(latents.open_latents(cache), seed=3, batch_size=2, num_hosts=2, host=k)
        for k in (0, 1)
    ]
    both = np.concatenate([half.indices(0) for half in halves])
    single = Batches(latents.open_latents(cache), seed=3, batch_size=2)
    np.testing.assert_array_equal(both, single.indices(0))
    epoch = np.concatenate([b["y"] for b in wanted])[:8]
    assert sorted(epoch.tolist()) == [*range(8)]


def test_unreadable_images_are_left_out_by_choice(photos, cache, teacher, tmp_path):
    bad, none, classes = (tmp_path / name for name in ("bad", "none", "classes"))
    for folder in (bad, none):
        shutil.copytree(photos, folder)
    for i in (4, 5):  # the whole of a shard
        (bad / f"{i}.png").write_bytes((photos / f"{i}.png").read_bytes()[:100])
    for file in none.glob("*.png"):
        file.write_bytes(b"")
    for name in ("cat", "dog"):
        shutil.copytree(bad, classes / name, ignore=lambda *_: ["metadata.jsonl"])
    skip, out = "--unreadable=skip", tmp_path / "out"
    lines = {
        "stop": (words(bad, teacher, tmp_path / "stop"), 3, "or leave it out by --unr"),
        "first": (
            words(bad, teacher, out, "--flip", skip),
            0,
            "4 shards made, 2 images",
        ),
        "again": (
            words(bad, teacher, out, "--flip", skip),
            0,
            "0 shards made, 2 images",
        ),
        "other": (words(bad, teacher, out, "--flip"), 3, "4.png: not a readable image"),
        "none": (words(none, teacher, tmp_path / "no", skip), 3, "none of the images"),
        "classes": (
            words(classes, teacher, tmp_path / "c", "--tokenizer=none", skip),
            0,
            "7 shards made, 4 images left out (see unreadable.json)",
        ),
    }
    answers = child.run_lines("cache", [line for line, _, _ in lines.values()])
    for (_, code, part), answer in zip(lines.values(), answers, strict=True):
        assert answer[0] == code and part in answer[1] + answer[2], answer
    whole, found = latents.open_latents(cache), latents.open_latents(out)
    kept = [0, 1, 2, 3, 4, 7]  # captions, of which image 3 has two
    for views in (0, 1):
        wanted = whole.batch(np.array(kept) + views * whole.num)
        batch = found.batch(np.arange(6) + views * found.num)
        for name in ("moments", "ids"):
            np.testing.assert_array_equal(batch[name], wanted[name])
    assert batch["y"].tolist() == [*range(6)] and latents.texts(out, 2) == []
    report = json.loads((out / "unreadable.json").read_text())["left_out"]
    assert [(r["name"], r["image"]) for r in report] == [("4.png", 4), ("5.png", 5)]
    assert report[0]["reason"].startswith("not a readable image (")
    before = content(out)
    shutil.rmtree(out / "shard-00002")
    (out / "latents.json").unlink()
    code, said = child.run("cache", *words(bad, teacher, out, "--flip", skip))
    assert code == 0 and "1 shards made" in said and content(out) == before
    found = latents.open_latents(tmp_path / "c")
    assert found.batch(np.arange(10))["y"].tolist() == [0] * 5 + [1] * 5


def test_other_uses_and_what_is_refused(cache, photos, teacher, tmp_path):
    """Each line: what is given, the exit code, and what is said."""
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    config = encoder_files.PLAIN | dict(sample_size=SIDE, scaling_factor=0.25)
    encoder_files.vae_folder(other / "vae", config)
    shutil.copytree(TOKENIZER, other / "tokenizer_2")  # as SDXL has
    text_map = other / "tokenizer_2/special_tokens_map.json"
    text_map.write_text(json.dumps({"pad_token": "!"}))
    loud = tmp_path / "loud"
    arrays = encoder_files.vae_tensors(encoder_files.PLAIN)
    arrays["quant_conv.bias"] = np.full(8, 1e6, np.float32)
    encoder_files.vae_folder(loud / "vae", config, arrays)
    unsized = encoder_files.vae_folder(tmp_path / "unsized")
    prompts, copy = tmp_path / "prompts.txt", tmp_path / "copy"
    prompts.write_text("a photo\n\nan astronaut\na cat\n")
    shutil.copytree(cache, copy)
    (copy / "shard-00001/ids.npy").write_bytes(b"x")
    no_tokenizer = tmp_path / "dit"
    shutil.copytree(teacher / "vae", no_tokenizer / "vae")
    classes = tmp_path / "classes"
    for name in ("cat", "dog"):
        (classes / name).mkdir(parents=True)
        shutil.copy(photos / "1.png", classes / name)
    bad = tmp_path / "bad"
    shutil.copytree(photos, bad)
    (bad / "5.png").write_bytes(b"\x89PNG")
    file = tmp_path / "sd.safetensors"
    shutil.copy(next((teacher / "vae").glob("*.safetensors")), file)
    lines = {
        "a": (words(photos, teacher, cache, "--flip"), 0, "0 shards made"),
        "b": (words(photos, teacher, copy, "--flip"), 0, "1 shards made"),
        "c": (
            words(photos, other, cache, "--flip"),
            3,
            "made with scaling_factor=0.5, now",
        ),
        "d": (
            words(photos, teacher, cache, "--size=16", "--flip"),
            3,
            "this cache was made with image_size=[8, 8], now it is [16, 16]; delete",
        ),
        "e": (words(prompts, other, tmp_path / "p"), 0, "p: 3 captions take"),
        "f": (
            words(classes, no_tokenizer, tmp_path / "c"),
            0,
            "2 images of 8x8 and labels of 2 classes",
        ),
        "g": (words(bad, teacher, tmp_path / "g"), 3, "5.png: not a readable image"),
        "t": (words(photos, teacher, cache), 3, "with flip=True, now it is None"),
        "u": (words(prompts, teacher, tmp_path / "u", "--flip"), 2, "--flip: prompts"),
        "h": (
            words(photos, teacher, tmp_path / "h", "--size=9"),
            2,
            "--size=9: must be a multiple of 2",
        ),
        "i": (words(photos, teacher, photos), 2, "the --data; name another"),
        "j": (words(photos, teacher, teacher.parent), 2, "--output="),
        "k": (words(photos, file, tmp_path / "k"), 2, "give --tokenizer=FOLDER"),
        "r": (
            words(photos, file, tmp_path / "r", f"--tokenizer={TOKENIZER}"),
            4,
            "config=FOLDER",
        ),
        "s": (words(photos, unsized, tmp_path / "s"), 2, "--size: is missing, and the"),
        "l": (
            words(photos, teacher, tmp_path / "l", "--dryrun"),
            0,
            "7 images of 8x8 and 8 captions",
        ),
        "m": (words(tmp_path / "x", teacher, tmp_path / "m"), 3, "does not exist"),
        "n": (words(photos, tmp_path, tmp_path / "n"), 4, "no vae/ and no config"),
        "p": (
            words(photos, loud, tmp_path / "q", "--tokenizer=none"),
            5,
            "image 0 of folder",
        ),
        "o": (words(photos, teacher, "")[:2], 2, "--output is missing"),
    }
    given = [line for line, _, _ in lines.values()]
    answers = child.run_lines("cache", given)
    for given, answer in zip(lines.values(), answers, strict=True):
        line, wanted, part = given
        code, out, error = answer
        assert code == wanted and part in out + error, (line, *answer)
        assert "Traceback" not in error
    assert not (tmp_path / "l").exists()
    assert content(copy) == content(cache)
    found = latents.open_latents(tmp_path / "p")
    assert found.shape == () and found.num == 3
    batch = found.batch([2, 0])
    assert batch["ids"][0, -1] == 999 and batch["ids_2"][0, -1] == 0
    found = latents.open_latents(tmp_path / "c")
    assert found.batch([0, 1])["y"].tolist() == [0, 1] and not found.tokens
    assert not (tmp_path / "g/shard-00002").exists()
