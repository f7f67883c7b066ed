"""What sample, evaluate and convert write, and what they refuse before they compute.

The network is of dense layers on images of one pixel, and the lines of a command are
run in one process: see `lines`.
"""

import json
import os
import pathlib
import subprocess
import sys

import drawn
import jax
import numpy as np
import pytest
from child import ROOT, run_lines
from PIL import Image

from kdiff_jax import interop
from kdiff_jax.metrics import load_stats

SPEC = {
    "network": {"name": "mlp", "channels": 8, "num_blocks": 2},
    "precondition": {"name": "v"},
    "process": {"name": "cosine"},
    "image_shape": [1, 1, 3],
    "num_classes": 8,
    "sampler": {"name": "ddim", "num_steps": 4},
}


def check(module: str, cases: list[tuple[list[str], int, str]]) -> None:
    """Runs (arguments, exit code, words of the one line) and compares."""
    answers = run_lines(module, [arguments for arguments, _, _ in cases])
    for (arguments, code, words), (found, _, said) in zip(cases, answers, strict=True):
        assert found == code, (arguments, said)
        assert words in said, (arguments, said)
        lines = said.count("\n")  # a row is said in one, and so is what it lacks
        assert lines == 1 if code else lines <= 1 + bool(words), (arguments, said)


def save(folder, value: float | None = None, **spec) -> pathlib.Path:
    """A model; all of its numbers are `value` if that is given."""
    net, _ = interop.build(SPEC | spec)
    params = drawn.params(net)
    if value is not None:
        params = jax.tree.map(lambda x: np.full_like(x, value), params)
    return interop.save(folder, params=params, spec=SPEC | spec)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save(folder / "good")
    save(folder / "nan", np.nan)
    save(folder / "infinite", np.inf)
    save(folder / "five", image_shape=[1, 1, 5])
    return folder


def test_every_keyword_of_a_sampler_is_an_option(models, tmp_path):
    def case(output, *more, code=0, words=""):
        arguments = [f"--checkpoint={models / 'good'}", f"--output={tmp_path / output}"]
        return [*arguments, "--num_images=3", *more], code, words

    def refused(option, words):
        return case("none.npz", option, code=2, words=f"{option}: {words}")

    ends = ("--sampler.num_steps=2", "--num_steps=3")
    cases = [
        case("own.npz"),
        case("again.npz", "--sampler.eta=0.0"),
        case("drawn.npz", "--sampler.eta", "0.9", "-sampler.clip=true"),
        case("churn.npz", "--sampler=heun", "--sampler.S_churn=3", "--num_steps=2"),
        case("churn.npz", "--sampler.name=heun", "--sampler.S_max=9", ends[0]),
        refused("--sampler.etta=1", "sampler 'ddim' has no keyword 'etta'; it has: nu"),
        refused("--sampler.process=1", "sampler 'ddim' has no keyword 'process'; it"),
        refused("--sampler.eta=2", "must lie in [0, 1]; the default is 0.0"),
        refused("--sampler.eta=nan", "must be a number"),
        refused("--sampler.clip=some", "must be True or False, or must be a number"),
        refused("--sampler.num_steps=0", "must be 1 or more"),
        case("none.npz", *ends, code=2, words="num_steps=2: was also given as --num_s"),
        case("none.npz", "--sampler=no", code=2, words=" --sampler='no': unknown"),
        case("none.npz", "--num_steps=2000000", code=2, words=" --num_steps=2000000: "),
        case(
            "none.npz", "--sampler.spacing=no", code=2, words="--sampler.spacing='no'"
        ),
        case("none.npz", "--samplr.eta=1", code=2, words="'samplr.eta'"),
        case(
            "none.npz", "--sampler=ddim", "--sampler.name=heun", code=2, words="name="
        ),
    ]
    check("sample", cases)
    images = {k: np.load(tmp_path / f"{k}.npz")["images"] for k in ("own", "again")}
    np.testing.assert_array_equal(images["own"], images["again"])
    assert (images["own"] != np.load(tmp_path / "drawn.npz")["images"]).any()


def test_sample(models, tmp_path):
    former = b"what was there"
    for name in ("kept.npz", "kept.png"):
        (tmp_path / name).write_bytes(former)
    for folder in ("old", "kept", "other"):
        (tmp_path / folder).mkdir()
        for i in range(9):
            (tmp_path / folder / f"{i:06d}.png").write_bytes(former)
    (tmp_path / "other" / "thesis.tex").touch()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.npz").symlink_to(tmp_path / "target.npz")

    def case(output, code=0, words="", *more, model="good", num=3):
        arguments = [f"--checkpoint={models / model}", f"--output={tmp_path / output}"]
        return [*arguments, f"--num_images={num}", *more], code, words

    nan = "is NaN or infinite (sampler ddim, 4 evaluations)"
    largest = "--seed=4294967295"
    cases = [
        case("a.npz"),
        case("largest.npz", 0, "", largest),
        case("again.npz", 0, "", largest, "--batch_size=2"),
        case("link.npz"),
        case("A.PNG"),
        case("old"),
        case("new/er"),
        case("of \u2028 \udcff.png"),
        *(case(f"kept{end}", 5, nan, model="nan") for end in (".npz", ".png", "")),
        case("none", 5, f"infinite: image 0 {nan}", model="infinite"),
        *(
            case("a.npz", 2, f"seed={seed}: ", f"--seed={seed}")
            for seed in (-1, 2**32, 2**63, 2**64)
        ),
        case("other", 2, "holds other things (thesis.tex)"),
        case("pipe.png", 2, "is no regular file"),
        case("a.npz/x.png", 2, "a.npz/x.png: cannot be written (Not a directory)"),
        case("x" * 300, 2, "File name too long"),
        case("x" * 240 + ".npz", 2, "File name too long"),
        case("a.jpg", 2, "give FILE.png, FILE.npz, or a folder"),
        case("five.png", 2, "5 channels are no pictures; give FILE.npz", model="five"),
        case("a.npz", 2, "images=0: 0 is not an integer in the range [1,", num=0),
        case("a.png", 2, "GB of memory, and there are", num=2**31 - 1),
        case("a.npz", 2, "num_images=2147483648", num=2**31),
        case("a.npz", 2, "num_steps=1000001: must be at most", "--num_steps=1000001"),
        *(
            case("a.npz", 2, f"--labels='{labels}': {words}", f"--labels={labels}")
            for labels, words in {
                **dict.fromkeys(("", "-1", "1,", "\u00b2", "x"), "give 3, or"),
                **dict.fromkeys(("8", "0-99999999"), "this model has 8 classes"),
                "5-2": "5-2 is empty",
            }.items()
        ),
    ]
    mine = f"--checkpoint={models / 'good'}"
    for output, words in {
        models / "good": "is the --checkpoint",
        models: "holds the --checkpoint",
        "/dev/null": "is no folder",
        "/proc/x.png": "cannot be written",
        "~nobody.of.this.name/x.png": "no home folder of that name",
    }.items():
        cases.append(([mine, f"--output={output}"], 2, words))
    check("sample", cases)

    images = {p.stem: np.load(p)["images"] for p in tmp_path.glob("[!k]*.npz")}
    assert images["a"].shape == (3, 1, 1, 3)
    np.testing.assert_array_equal(images["largest"], images["again"])
    assert (images["largest"] != images["a"]).any()
    assert (tmp_path / "link.npz").is_symlink()  # and what it names was written
    np.testing.assert_array_equal(images["target"], images["a"])
    for folder in ("old", "new/er"):
        names = sorted(path.name for path in (tmp_path / folder).iterdir())
        assert names == [f"{i:06d}.png" for i in range(3)]
        with Image.open(tmp_path / folder / "000002.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), images["a"][2])
    for kept in (tmp_path / "kept.npz", *(tmp_path / "kept").iterdir()):
        assert kept.read_bytes() == former
    assert not list(tmp_path.rglob(".*")) and not (tmp_path / "none").exists()


def test_evaluate(models, tmp_path):
    rng, one = np.random.default_rng(0), np.eye(3)
    images = rng.integers(0, 256, (40, 1, 1, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    np.savez(tmp_path / "grey.npz", images=images[..., :1])
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    (tmp_path / "empty.json").touch()
    os.mkfifo(tmp_path / "pipe.npz")

    def stats(name, **arrays):
        moments = {"mu": np.zeros(3), "sigma": one}
        np.savez(tmp_path / f"{name}.npz", **moments | arrays)

    refused = {
        "long": (
            "has 20 features, and pixels are 3",
            dict(mu=[0] * 20, sigma=np.eye(20)),
        ),
        "shape": ("must be (D,) and (D, D)", dict(sigma=np.eye(4))),
        "nan": ("holds NaN or infinity", dict(mu=[0, 0, np.nan])),
        "infinite": ("holds NaN or infinity", dict(sigma=np.diag([1, 1, np.inf]))),
        "askew": ("is not symmetric", dict(sigma=one + np.triu(one[::-1]))),
        "negative": ("eigenvalues from -1 to -1", dict(sigma=-one)),
        "partly": ("eigenvalues from -0.1 to 1", dict(sigma=np.diag([1, 1, -0.1]))),
        "huge": ("numbers above 1e+100", dict(mu=[1e200] * 3)),
        "complex": ("must be real numbers", dict(mu=np.zeros(3) * 1j)),
        "words": ("must be real numbers", dict(mu=["a", "b", "c"])),
        "none": ("must be (D,) and (D, D)", dict(mu=[], sigma=np.zeros((0, 0)))),
        "theirs": (
            "made with features='inception', not 'pixels'",
            dict(features="inception"),
        ),
        "nobody": ("num=0 must be the number of images", dict(num=0)),
        "two": ("num=[3, 3] must be the number", dict(num=[3, 3])),
        "many": ("num=nan must be the number", dict(num=np.nan)),
    }
    for name, (_, arrays) in refused.items():
        stats(name, **arrays)
    about = dict(features="pixels", preprocessing="default", prepared="{}")
    stats("sound", num=9, **about)
    rounded = np.float32(one + 1e-6 * np.triu(np.ones((3, 3)), 1))
    stats("rounded", sigma=rounded - np.float32(1e-6) * one)

    def case(reference, code=0, words="", *more, model="good"):
        reference = reference if "/" in reference else f"{tmp_path / reference}"
        arguments = [f"--checkpoint={models / model}", f"--reference={reference}"]
        return [*arguments, "--num_images=20", "--batch_size=20", *more], code, words

    sound = "sound.npz"
    cases = [
        *(case(f"{name}.npz", 3, words) for name, (words, _) in refused.items()),
        case("grey.npz", 3, "images of [1, 1, 1], and the model makes [1, 1, 3]"),
        case("pipe.npz", 3, "is no regular file"),
        case("~nobody.of.this.name/x.npz", 2, "no home folder"),
        case(sound, 5, "is NaN or infinite", model="nan"),
        case(
            sound,
            2,
            "weights=~nobody.of.this.name/x",
            "--weights=~nobody.of.this.name/x",
        ),
        case(sound, 2, "--seed=-1", "--seed=-1"),
        case(sound, 2, "--num_images=1", "--num_images=1"),
        *(
            case(sound, 2, words, f"--output={output}")
            for output, words in {
                tmp_path / "notes.json": "holds something else than a row",
                models / "good" / "config.json": "holds something else than a row",
                tmp_path / "row.txt": "name a .json file",
                tmp_path / "images.npz" / "x.json": "Not a directory",
                "/proc/x.json": "cannot be written",
            }.items()
        ),
        case("rounded.npz", 0, "does not say its", f"--output={tmp_path}/row.json"),
        case("images.npz", 0, "", f"--output={tmp_path}/row.json"),
        case(sound, 0, "", f"--output={tmp_path}/empty.json"),
    ]
    check("evaluate", cases)
    for name in ("row", "empty"):
        row = json.loads((tmp_path / f"{name}.json").read_text())
        assert row["metrics"]["fd_pixels"] > 0 and row["latency_ms"] > 0
    assert (tmp_path / "notes.json").read_text() == '{"mine": 1}'


def test_a_reference_is_made_once_and_every_metric_reads_it(models, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 1, 1, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(80) % 8)
    np.savez(tmp_path / "grey.npz", images=images[..., :1])
    np.savez(tmp_path / "mine.npz", notes=np.zeros(3))
    whole = ["--metrics=fd,kd,kd_full,memorisation,prdc", "--per=class"]

    def make(output, code=0, words="", *more, of="images.npz"):
        arguments = ["--make_reference", f"--reference={tmp_path / of}", *more]
        return [*arguments, f"--output={tmp_path / output}"], code, words

    def case(reference, code=0, words="", *more):
        arguments = [f"--checkpoint={models / 'good'}", "--num_images=64"]
        return [*arguments, f"--reference={tmp_path / reference}", *more], code, words

    row = f"--output={tmp_path / 'row.json'}"
    several = "--labels=random", "--seeds=3", "--headline=mean"
    alone = "--labels=random", "--seed=3"
    cases = [
        make("ref.npz", 0, "", *whole),
        make("plain.npz"),
        make("plain.npz"),
        make("grey_ref.npz", of="grey.npz"),
        make("larger.npz", 0, "", "--image_size=2"),
        case("ref.npz", 0, "no interval of recall", *whole, "--bootstrap=4", row),
        case("ref.npz", 0, "", *several, f"--output={tmp_path / 'several.json'}"),
        case("ref.npz", 0, "", *alone, f"--output={tmp_path / 'alone.json'}"),
        case("ref.npz", 2, "--seeds=2: from seed", "--seeds=2", "--seed=4294967295"),
        case("plain.npz", 3, "holds no rows, which the metrics read", "--metrics=kd"),
        case("grey_ref.npz", 3, "has 1 features, and pixels are 3"),
        case("larger.npz", 3, "has 12 features, and pixels are 3"),
        case("grey.npz", 3, "images of [1, 1, 1], and the model makes [1, 1, 3]"),
        case("ref.npz", 2, "metrics='fid': unknown; choose", "--metrics=fd,fid"),
        case("ref.npz", 2, "pixels has none", "--metrics=inception_score"),
        case("ref.npz", 2, "features='x': unknown", "--features=x"),
        case("ref.npz", 2, "preprocessing='x': unknown", "--preprocessing=x"),
        case("ref.npz", 2, "per=student: one student", "--per=student"),
        make("ref.json", 2, "name a .npz file"),
        make("mine.npz", 2, "holds no statistics; name a new file"),
        make("images.npz", 2, "is the --reference"),
        make("new.npz", 3, "are statistics already; name a data set", of="ref.npz"),
        make("new.npz", 3, "has no labels to group", "--per=class", of="grey.npz"),
        make("new.npz", 4, "resnet56 needs resnet56-4bfd", "--features=resnet56"),
        make("new.npz", 4, "/no/w: no such file", "--features=clip", "--weights=/no/w"),
        make("new.npz", 2, "did you mean inception_64", "--features=inception_65"),
        make("new.npz", 2, "metrics=sfd: reads spatial, and", "--metrics=sfd"),
    ]
    check("evaluate", cases)
    found = json.loads((tmp_path / "row.json").read_text())
    assert found["metrics"]["fd_pixels"] > found["metrics"]["fd_pixels_low"]
    assert 0 <= found["metrics"]["precision_pixels"] <= 1
    assert found["compared_with"]["num_images"] == 80
    assert found["features"]["name"] == "pixels"
    assert [one["num_images"] for one in found["groups"].values()] == [8] * 8
    assert not (tmp_path / "new.npz").exists()
    kept = dict(crop=None, resize=None, filter=None, antialias=None, flip=False)
    assert load_stats(tmp_path / "ref.npz").prepared == kept
    square = "largest centred square"
    scaled = dict(crop=square, resize=2, filter="lanczos", antialias=True, flip=False)
    assert load_stats(tmp_path / "larger.npz").prepared == scaled
    names = "several.json", "alone.json"
    found, one = (json.loads((tmp_path / name).read_text()) for name in names)
    assert one["labels"] == "random" and "seeds" not in one and one["seed"] == 3
    assert [each["seed"] for each in found["seeds"]["each"]] == [1, 2, 3]
    assert found["seeds"]["each"][2]["metrics"] == one["metrics"]
    values = [each["metrics"]["fd_pixels"] for each in found["seeds"]["each"]]
    np.testing.assert_allclose(found["metrics"]["fd_pixels"], np.mean(values))


def test_a_row_that_cannot_be_written_after_all_is_printed(models, tmp_path):
    """The folder goes while the model is measured: its sets are read from a pipe."""
    script = """
import pathlib, shutil, sys
from kdiff_jax import command, evaluate
from kdiff_jax.train import measure
found, folder = measure.generated, pathlib.Path(sys.argv.pop())

def generated(*arguments, **keywords):
    folder.rmdir()
    folder.write_text("a file")
    return found(*arguments, **keywords)

measure.generated = generated
command.run(evaluate.main)
"""
    np.savez(tmp_path / "sound.npz", mu=np.zeros(3), sigma=np.eye(3))
    folder = tmp_path / "folder"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [
        *(f"--checkpoint={models / 'good'}", f"--reference={tmp_path}/sound.npz"),
        *("--num_images=20", f"--output={folder}/row.json", str(folder)),
    ]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        env=environment,
        text=True,
    )
    assert done.returncode == 2 and "row.json: cannot be written" in done.stderr
    assert json.loads(done.stdout)["metrics"]["fd_pixels"] > 0


def test_convert(models, tmp_path):
    stage, source = tmp_path / "stage", models / "good"
    save(stage / "model")
    before = (stage / "model" / "model.safetensors").read_bytes()
    os.mkfifo(tmp_path / "pipe")

    def case(output, code, words="", *more, source=source):
        arguments = [f"--input={source}", f"--output={output}"]
        return [*arguments, *more], code, words

    folder = tmp_path / "out"
    cases = [
        case(folder, 0),
        case(folder, 0),
        case(tmp_path / "stage's", 0, source=stage),
        case(folder, 2, "source='edm': ", "--source=edm"),
        case(tmp_path / "pipe", 2, "is no folder"),
        case(tmp_path / "pipe" / "x", 2, "cannot be written (Not a directory)"),
        case("/proc/x", 2, "cannot be written"),
        case("x" * 300, 2, "File name too long"),
        case("~nobody.of.this.name/x", 2, "--output=~nobody.of.this.name/x: no home"),
        case(folder, 2, "--input=~nobody", source="~nobody.of.this.name/x"),
        case(source, 2, "is the --input"),
        case(source.parent, 2, "holds the --input"),
        case(stage / "model", 2, "is the model of the --input", source=stage),
        case(stage, 2, "holds the --input", source=stage / "model"),
        case(folder, 2, "student=-1", "--student=-1"),
        case(folder, 2, "num_steps=0", "--num_steps=0"),
        case(folder, 2, "must be at most 1000000", "--num_steps=1000001"),
    ]
    check("convert", cases)
    assert (stage / "model" / "model.safetensors").read_bytes() == before
    assert interop.load(folder).num_params == interop.load(source).num_params
    assert interop.load(tmp_path / "stage's").num_params > 0
