"""A model with encoders of its own as a whole pipeline of diffusers, and back."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import cifar10_text
from kdiff_jax import interop, latent, text
from kdiff_jax.encoders import latents, texts
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import clip_training
from kdiff_jax.interop import Spec, diffusers_export
from kdiff_jax.interop.model import Model


def drawn(shapes, seed=0):
    """Random leaves of these shapes: to initialise networks takes a compiler."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype("f4"), shapes)


@pytest.fixture(scope="module")
def model():
    spec = Spec.of(cifar10_text.sections(tiny=True)["model"])
    net, process = interop.build(spec)
    params = drawn(jax.eval_shape(net.init, jax.random.key(0)))
    frozen = {
        latents.ROLE: drawn(latents.shapes(spec.autoencoder), 1),
        texts.ROLE: drawn(texts.shapes(spec.text), 2),
    }
    return Model(net, params, process, spec, frozen)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    about = dict(vocab_size=1024, length=cifar10_text.LENGTH)
    clip_training.train(["a photo of a frog"], **about).write(folder)
    return folder


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_all_parts_are_written_and_read_again(model, tokenizer, tmp_path):
    diffusers_export.save(tmp_path, model, tokenizer=tokenizer)
    index = json.loads((tmp_path / "model_index.json").read_text())
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    named = {name for name, value in index.items() if isinstance(value, list)}
    assert folders == {n for n in named if index[n] != [None, None]}
    assert folders == {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]

    encoder, vae = text.load(tmp_path), latent.load(tmp_path)
    equal(encoder.params, model.frozen[texts.ROLE])
    equal(vae.params, model.frozen[latents.ROLE])
    assert vae.scaling_factor == 1.0
    wanted = model.spec.text.call(texts.make)
    for field in dataclasses.fields(encoder.module):
        if field.name not in ("parent", "name"):
            assert getattr(encoder.module, field.name) == getattr(wanted, field.name)
    assert text.tokenizer(tmp_path).sha256 == text.tokenizer(tokenizer).sha256
    back = text.load_model(tmp_path)
    equal(back.params, model.params)
    sampler = back.spec.sampler.keywords
    assert sampler["spacing"] == "trailing" and back.spec.text


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (dict(cond_length=12), "cond_length=12"),
        (dict(text={"output": "penultimate"}), "text.output='penultimate'"),
        (dict(autoencoder={"shift_factor": 0.5}), "shift_factor=0.5"),
    ],
)
def test_what_the_pipeline_would_read_otherwise_is_refused(
    model, tokenizer, change, line, tmp_path
):
    other = dataclasses.replace(model, spec=model.spec.changed(change))
    with pytest.raises(CheckpointError, match=line):
        diffusers_export.save(tmp_path / "out", other, tokenizer=tokenizer)
    assert not (tmp_path / "out").exists()


def test_without_the_tokenizer_it_is_no_pipeline(model, tmp_path):
    diffusers_export.save(tmp_path, model, tokenizer=tmp_path / "nowhere")
    assert not (tmp_path / "model_index.json").exists()
    assert "There is no pipeline here" in (tmp_path / "README.md").read_text()
