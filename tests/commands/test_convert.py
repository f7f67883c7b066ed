"""The command convert: files of other projects in, model folders and exports out."""

import json
import pathlib

import child
import numpy as np
import pytest
import safetensors.numpy

from kdiff_jax import interop
from kdiff_jax.interop.trees import flatten

DATA = pathlib.Path(__file__).parents[1] / "parity" / "data"
EDM = DATA / "edm_tiny_ncsnpp_edm_cond.safetensors"
GOOGLE = DATA / "gr_dd_tiny_both.msgpack"


def convert(source, output, *more):
    return child.run("convert", f"--input={source}", f"--output={output}", *more)


def convert_all(*lines):
    """Runs lines of (source, output, *more) in one process; all of them succeed."""
    lines = [[f"--input={i}", f"--output={o}", *more] for i, o, *more in lines]
    for code, _, said in child.run_lines("convert", lines):
        assert code == 0, said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A converted EDM network."""
    output = tmp_path_factory.mktemp("converted") / "edm"
    code, said = convert(EDM, output, "--precondition=edm", "--source=edm")
    assert code == 0, said
    return output


def test_a_folder_says_where_it_came_from(folder):
    spec = json.loads((folder / "config.json").read_text())
    assert spec["source"]["file"] == EDM.name
    assert spec["source"]["family"] == "edm"
    assert len(spec["source"]["sha256"]) == 64
    card = (folder / "README.md").read_text()
    for fact in (EDM.name, spec["source"]["sha256"], "song_unet", "16x16", "heun"):
        assert fact in card


def test_the_folder_is_the_file(folder):
    model, same = interop.load(folder), interop.load(EDM)
    for name, leaf in flatten(same.params).items():
        np.testing.assert_array_equal(flatten(model.params)[name], leaf)


def test_it_samples(folder, tmp_path):
    images = tmp_path / "images.npz"
    arguments = [f"--checkpoint={folder}", f"--output={images}", "--num_images=2"]
    code, said = child.run("sample", *arguments, "--num_steps=2")
    assert code == 0, said
    assert np.load(images)["images"].shape == (2, 16, 16, 3)


def test_edm_to_ours_to_edm_is_bit_equal(folder, tmp_path):
    code, said = convert(folder, tmp_path / "out", "--target=safetensors")
    assert code == 0, said
    back = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    original = safetensors.numpy.load_file(EDM)
    assert back.keys() == original.keys()
    for name, leaf in original.items():
        np.testing.assert_array_equal(back[name], leaf)


def test_the_same_command_again_replaces_its_own_output(tmp_path):
    targets = ("kdiff", "kdiff", "safetensors", "safetensors")
    convert_all(*((EDM, tmp_path / kind, f"--target={kind}") for kind in targets))


def test_what_we_export_comes_back_as_the_same_model(tmp_path):
    convert_all(
        (EDM, tmp_path / "vp", "--precondition=vp"),
        (tmp_path / "vp", tmp_path / "out", "--target=safetensors"),
    )
    original = interop.load(tmp_path / "vp")
    for path in (tmp_path / "out", tmp_path / "out" / "model.safetensors"):
        model = interop.load(path)
        for part in ("network", "precondition", "process", "sampler"):
            assert model.spec.plain()[part] == original.spec.plain()[part]


REFUSED = [
    ("nothing", [], 4, "does not exist"),
    (DATA, [], 4, "holds no model"),
    (EDM, ["--source=diffusers"], 4, ": --source='diffusers': "),
    (EDM, ["--source=nvidia"], 2, "choose one of"),
    (EDM, ["--image_size=32"], 4, "the checkpoint says 16"),
    (EDM, ["--sampler=foo"], 2, ": --sampler='foo': unknown"),
    (EDM, ["--num_steps=-1"], 2, "num_steps"),
    (EDM, ["--average=ema"], 2, "average: is for a stage folder of a workdir, and"),
    (GOOGLE, ["--target=diffusers"], 4, "iddpm_unet"),
    (__file__, [], 4, "no known format"),
]


def test_what_is_refused(tmp_path):
    output = f"--output={tmp_path / 'out'}"
    lines = [[f"--input={source}", output, *more] for source, more, *_ in REFUSED]
    answers = child.run_lines("convert", lines)
    for (_, arguments, code, words), answer in zip(REFUSED, answers, strict=True):
        found, _, said = answer
        assert found == code, (arguments, said)
        (line,) = [x for x in said.splitlines() if x.startswith("kdiff_jax: ")]
        assert words in line
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    code, said = convert(EDM, tmp_path)
    assert code == 2 and "holds other things" in said
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
