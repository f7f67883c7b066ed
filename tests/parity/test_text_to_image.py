"""Prompts to images against diffusers' own pipelines, from folders and back again.

Data: diffusers 0.42.1 (Apache-2.0), transformers 5.24.0, torch 2.13.0 in float32 on a
CPU, by benchmarks/compare_text_to_image.py: PNDM of an eps-network, DDIM of a
v-network, Euler of SDXL's kind with two encoders; guidance 7.5.
"""

import functools
import logging
import pathlib

import jax
import numpy as np
import pipeline_files as files
import pytest

from kdiff_jax import interop, pixels, text
from kdiff_jax.diffusion import guidance
from kdiff_jax.domain import Prompt
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.train import generate, parallel

DATA = pathlib.Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    home = tmp_path_factory.mktemp("pipelines")
    return functools.cache(lambda kind: files.folder(home / kind, kind))


def reference(name):
    with np.load(DATA / "text_to_image.npz") as found:
        return found[name]


def compiled(run):
    """How many programs a call compiles."""
    seen = []

    class Counter(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage().startswith("Compiling"))

    logger, handler = logging.getLogger("jax._src.interpreters.pxla"), Counter()
    logger.addHandler(handler)
    try:
        with jax.log_compiles(True):
            run()
    finally:
        logger.removeHandler(handler)
    return sum(seen)


@pytest.mark.parametrize(
    "kind", ["sd1", *(pytest.param(k, marks=pytest.mark.slow) for k in ("sd2", "xl"))]
)
def test_latents_and_images_are_the_library_s(pipelines, kind):
    negative = None if kind == "xl" else files.NEGATIVE
    generate = functools.partial(
        text.generate, pipelines(kind), num_steps=files.STEPS[kind]
    )
    latents, images = generate(files.PROMPTS, negative, z=files.noise(kind))
    expected = reference(f"{kind}/latents")
    error = np.abs(latents - expected).max() / expected.std()
    assert error < 2e-4, error
    np.testing.assert_allclose(images, reference(f"{kind}/images"), atol=1e-3)
    # Other texts, noise and strength of as many images are the same program.
    other = dict(negative_prompts="none", guidance=2.0, z=1 + files.noise(kind))
    assert compiled(lambda: generate(["a", "b"], **other)) == 0


@pytest.mark.slow
def test_a_pipeline_is_measured_and_sampled_as_a_model_of_prompts(pipelines):
    """Token ids of prompts, encoded and decoded in the sampling program."""
    folder, about = pipelines("sd1"), dict(num_steps=2, guidance=7.5)
    model = text.load_model(folder)
    ids = text.tokenizer(folder)(files.PROMPTS)
    mesh = parallel.make_mesh(jax.devices()[:1])
    make = generate.of_model(model, model.sampler(**about), mesh=mesh)
    found = make.images(model.students, labels=ids, seed=3, batch_size=2)
    _, images = text.generate(folder, files.PROMPTS, seed=3, **about)
    expected = np.asarray(pixels.to_uint8(images)).astype(int)
    assert np.abs(found - expected).max() <= 1 and expected.std() > 10


def test_a_text_model_is_guided_by_its_own_null(pipelines):
    model = interop.load(pipelines("sd1"))
    sampler = model.sampler(num_steps=2, guidance=3.0)
    y = np.ones((1, 4, 12), np.float32)
    z = files.noise("sd1")[:1]
    with pytest.raises(ConfigError, match="y: a text has no null of its own"):
        sampler.sample(lambda x, t, y: x, z, y)
    found = []

    def denoise(x, t, y):
        found.append(y.cond if isinstance(y, Prompt) else y)
        return x

    with jax.disable_jit():
        guidance.guide(denoise, 3.0)(z, np.zeros(1, np.float32), Prompt(y, 2 * y))
    np.testing.assert_array_equal(found[0], np.concatenate([y, 2 * y]))


@pytest.mark.parametrize(
    "changes, rule",
    [
        (dict(prompts=[]), r"prompts=\[\]: must be a text, or a list"),
        (dict(prompts=[3]), "prompt=3: must be a text"),
        (dict(negative_prompts=["a"]), "must be one text, or one for each of 2"),
        (dict(guidance=-1), "guidance=-1: must be 0 or more"),
        (dict(guidance=True), "guidance=True: must be a number"),
        (dict(z=np.zeros((2, 4, 8, 8))), r"z=\[2, 4, 8, 8\]: must be noise .* last"),
        (dict(z=np.zeros((1, 8, 8, 4))), r"z=\[1, 8, 8, 4\]: must be noise f32\[2, "),
        (dict(size=(15, 16)), r"size=\(15, 16\): must be height and width, multiples"),
        (dict(sampler="ddimm"), "sampler='ddimm': unknown"),
        (dict(num_steps=0), "num_steps=0: must be 1 or more"),
        (dict(seed=-1), "seed"),
        (dict(offsett=1), "'pndm' has no keyword 'offsett'"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(pipelines, changes, rule):
    given = dict(prompts=files.PROMPTS, num_steps=2) | changes
    with pytest.raises(ConfigError, match=rule) as caught:
        text.generate(pipelines("sd1"), **given)
    assert "\n" not in str(caught.value)


def test_folders_without_texts_or_parts_are_refused(pipelines, tmp_path):
    with pytest.raises(CheckpointError, match="its denoiser, dit, reads no texts"):
        text.generate(DATA / "dit_tiny", "a cat")
    folder = files.folder(tmp_path / "sd1", "sd1")
    (folder / "tokenizer/vocab.json").unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer/vocab.json"):
        text.generate(folder, "a cat")
    pipe = text.pipeline(pipelines("sd1"))
    with pytest.raises(ConfigError, match="precision='bfloat16': is said where"):
        text.generate(pipe, "a cat", precision="bfloat16")
