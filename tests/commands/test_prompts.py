"""A recipe on prompts: token ids in a table, and an encoder that reads them."""

import pathlib
import shutil

import child
import jax
import numpy as np
import points
import prompted
import pytest
import vectors
from PIL import Image
from prompted import FIELDS, LENGTH, PROMPTS

from kdiff_jax import domain, interop, recipe, text
from kdiff_jax.encoders.texts import ROLE
from kdiff_jax.errors import CheckpointError, ConfigError, DataError
from kdiff_jax.interop import beside
from kdiff_jax.train import generate, parallel

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline with a tokenizer and a text encoder, and a file of prompts."""
    return prompted.pipeline(tmp_path_factory.mktemp("pipeline"))


def config(folder, **model):
    """Teacher and two students of near prompts, in the plane."""
    table = folder / "unused.npy"
    found = vectors.config(table, num_groups=2, rule="pca")
    for name, value in (
        dict(cond_dim=16, cond_length=LENGTH, text=FIELDS) | model
    ).items():
        found.model[name] = value
    found.data.conditions = str(folder / "prompts.txt")
    found.data.text_encoder = str(folder)
    del found.stages.pairs
    found.stages.student.pairs = ""
    found.stages.student.method = dict(name="tsm", null_prob=0.5, guidance=2.0)
    found.stages.student.optim = points.OPTIM
    found.order = ("teacher", "student")
    return found


@pytest.fixture(scope="module")
def workdir(folder):
    recipe.run(config(folder), folder / "run", devices=ONE)
    return folder / "run"


def states(folder, prompts):
    """f32[B, LENGTH, 16] by the functions that people call."""
    ids = text.tokenizer(folder)(prompts)
    return np.asarray(text.load(folder).apply(ids).hidden)[:, :LENGTH]


def test_a_number_is_its_prompt_and_none_is_the_empty_one(workdir, folder):
    model = interop.load(workdir / "teacher")
    assert model.frozen[domain.TABLE].dtype == np.uint16
    numbers = np.array([0, 5, -1])
    prompt = model.net.conditions.take(model.frozen, numbers)
    wanted = states(folder, [PROMPTS[0], PROMPTS[5], ""])
    np.testing.assert_allclose(prompt.cond, wanted, atol=1e-5)
    np.testing.assert_allclose(prompt.null, [wanted[2]] * 3, atol=1e-5)
    x_t = np.ones((3, 1, 1, 2), np.float32)
    by_number, by_state = model.apply(x_t, 0.5, numbers), model.apply(x_t, 0.5, wanted)
    np.testing.assert_allclose(by_number, by_state, atol=1e-5)
    told = beside.prompts(model.frozen, workdir / "teacher/model", numbers)
    assert told == [PROMPTS[0], PROMPTS[5], ""]


def test_grids_of_a_training_show_their_prompts(workdir):
    """Below the last of the rows, each below its picture."""
    with Image.open(workdir / "student/samples/2.png") as file:
        picture = np.asarray(file)
    white = (picture == 255).all(axis=(1, 2))
    assert picture.shape[0] > 0 and not white[-20:].all()


def test_prompts_have_owners_by_the_mean_of_their_states(workdir, folder):
    model = interop.load(workdir / "student")
    assert model.num_students == 2
    rows = states(folder, PROMPTS)
    direction = np.linalg.svd(rows.mean(1) - rows.mean((0, 1)))[2][0]
    high = (rows.mean(1) - rows.mean((0, 1))) @ direction
    groups = model.partition.group_of(np.arange(8))
    np.testing.assert_array_equal(
        groups == groups[np.argmax(high)], high > np.median(high)
    )
    make = generate.of_model(model, model.sampler(), mesh=parallel.make_mesh(ONE))
    asked = dict(seed=0, batch_size=8)
    one = make.images(model.students, labels=np.arange(8), **asked)
    other = make.images(model.students, labels=rows, **asked)
    assert np.abs(one.astype(int) - other).max() <= 1


def test_sample_takes_prompts(workdir, folder, tmp_path):
    """Those of the table are its numbers, and others have an owner."""
    path = folder / "prompts.txt"
    words = f"--checkpoint={workdir / 'student'}", "--num_images=9"
    out = [f"--output={tmp_path}/{k}.npz" for k in range(6)]
    answers = child.run_lines(
        "sample",
        [
            [*words, f"--prompts={path}", out[0]],
            [*words, "--labels=0-7", out[1]],
            [*words, "--prompt=red ab gh", "--negative_prompt=big", out[2]],
            [*words, "--prompt=a", "--labels=1", out[3]],
            [*words, "--negative_prompt=a", out[4]],
            [*words, f"--prompt={'ab ' * 20}", out[5]],
        ],
    )
    assert [code for code, _, _ in answers] == [0, 0, 0, 2, 2, 2], answers
    found, expected, other = (np.load(tmp_path / f"{k}.npz") for k in range(3))
    assert found["prompts"].tolist() == [*PROMPTS, PROMPTS[0]]
    assert np.abs(found["images"].astype(int) - expected["images"]).max() <= 1
    assert set(other["prompts"]) == {"red ab gh"}
    lines = [error.strip().splitlines()[-1] for _, _, error in answers[3:]]
    assert "--labels and --prompt: give one of them" in lines[0]
    assert "--negative_prompt: needs --prompt" in lines[1]
    assert "has more than the 12 tokens" in lines[2]


def test_a_model_brings_its_encoder(workdir, folder, tmp_path):
    model = interop.load(workdir / "student")
    expected = text.load(folder).params
    jax.tree.map(np.testing.assert_array_equal, model.frozen[ROLE], expected)
    copy = shutil.copytree(workdir / "student/model", tmp_path / "model")
    (copy / "text_encoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match="text_encoder.safetensors: is missing"):
        interop.load(copy)


def test_what_does_not_fit_is_refused_in_a_line(folder, tmp_path):
    def refused(changed, error, match):
        with pytest.raises(error, match=match):
            recipe.check_inputs(recipe.make_job(changed, tmp_path / "run", devices=ONE))

    refused(config(folder, num_classes=9), ConfigError, "8 prompts .* has 9")
    refused(config(folder, cond_dim=8), ConfigError, "cond_dim=8.* makes 16 numbers")
    refused(config(folder, cond_length=4), ConfigError, "prompt 0 has more than")
    other = config(folder)
    other.data.text_encoder = ""
    refused(other, ConfigError, "data.text_encoder=''.*give it")
    other = config(folder)
    other.data.conditions = str(folder / "none.txt")
    refused(other, DataError, "none.txt")
    other = config(folder, text=FIELDS | dict(width=8), cond_dim=8)
    refused(other, CheckpointError, "data.text_encoder=.*expected")
    other = config(folder, text=FIELDS | dict(gelu="exact"))
    refused(other, ConfigError, "model.text.gelu='exact': .* has 'quick'; set that")


def test_a_relative_folder_is_enough(workdir, monkeypatch):
    monkeypatch.chdir(workdir)
    found = beside.with_tokenizer(pathlib.Path("student"))
    assert (found / "tokenizer/vocab.json").is_file()
