"""A recipe on the latents of an autoencoder: its way in, its way out, and its cache."""

import dataclasses
import json
import shutil

import encoder_files
import jax
import jax.numpy as jnp
import numpy as np
import points
import pytest

from kdiff_jax import interop, latent, pixels, plan, recipe, sealed
from kdiff_jax.augment import geometry
from kdiff_jax.data import latents, pairs
from kdiff_jax.encoders.latents import ROLE
from kdiff_jax.errors import CheckpointError, ConfigError, DataError
from kdiff_jax.interop import beside
from kdiff_jax.stages import record, same_data
from kdiff_jax.train import generate, inputs, parallel

ONE = jax.devices()[:1]
FILE = dict(
    encoder_files.PLAIN,
    in_channels=2,
    out_channels=2,
    latent_channels=3,
    block_out_channels=[4],
    down_block_types=["DownEncoderBlock2D"],
    up_block_types=["UpDecoderBlock2D"],
    norm_num_groups=1,
    mid_block_add_attention=False,
    scaling_factor=0.5,
)
FIELDS = dict(
    name="autoencoder_kl",
    widths=(4,),
    num_blocks=1,
    in_channels=2,
    out_channels=2,
    latent_channels=3,
    num_groups=1,
    mid_attention=False,
    scaling_factor=0.5,
)


def config(folder, **data):
    """Teacher, pairs, student and evaluation, of points that an autoencoder reads."""
    from configs import common

    short = dict(num_steps=2, batch_size=8)
    stages = dict(
        teacher=dict(method=dict(name="denoise"), optim=points.OPTIM, train=short),
        pairs=common.tiny_pairs(),
        student=dict(
            method=dict(name="denoising_student"),
            optim=points.OPTIM,
            pairs="pairs",
            train=short,
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "student")),
    )
    found = points.sections()
    found["model"] |= dict(space="latents", image_shape=(1, 1, 3), autoencoder=FIELDS)
    found["data"] |= dict(autoencoder=str(folder / "vae"), **data)
    return common.config(
        "latents", order=tuple(stages), stages=stages, train={}, **found
    ).unlock()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("files")
    encoder_files.vae_folder(found / "vae", FILE)
    return found


@pytest.fixture(scope="module")
def workdir(folder):
    recipe.run(config(folder), folder / "run", devices=ONE)
    return folder / "run"


@pytest.fixture(scope="module")
def cache(folder):
    """The cache of the recipe's data, as the command writes it."""
    job = recipe.make_job(config(folder), folder / "other", devices=ONE)
    data, vae = recipe.build.load_images(job.recipe), latent.load(folder / "vae")
    moments = np.concatenate(
        vae.encode(pixels.to_float(data.read(np.arange(data.num)))), axis=-1
    )
    facts = dict(num_images=data.num, num_examples=data.num, shard_size=data.num)
    facts |= dict(shape=moments.shape[1:], tokens={}, vae=vae.sha256, flip=True)
    latents.begin(folder / "cache", facts)
    # Images of one pixel are their own mirror images.
    arrays = {k: moments.astype(np.float16) for k in ("moments", "flipped")}
    arrays["y"] = data.labels
    arrays["image"] = np.arange(data.num, dtype=np.int32)
    latents.write_shard(folder / "cache", 0, arrays)
    latents.finish(folder / "cache")
    return folder / "cache"


def test_images_come_in_by_a_draw_and_the_mean_and_go_out_decoded(workdir, folder):
    model, vae = interop.load(workdir / "student"), latent.load(folder / "vae")
    space, frozen = model.net.space, model.frozen
    raw = np.random.default_rng(0).integers(0, 256, (64, 1, 1, 2), np.uint8)
    mean, logvar = vae.encode(pixels.to_float(raw))
    x0 = space.to_x0(frozen, raw)
    np.testing.assert_allclose(x0, 0.5 * mean, atol=1e-5)
    keys = jax.random.split(jax.random.key(0), 64)
    drawn = inputs.make(space=space)(frozen, {"x0": raw}, keys)["x0"]
    eps = (drawn / 0.5 - mean) / np.exp(0.5 * logvar)
    assert 0.8 < float(eps.std()) < 1.2 and abs(float(eps.mean())) < 0.2
    moments = np.concatenate([mean, logvar], axis=-1).astype(np.float16)
    given = {"x0": jnp.asarray(moments)}
    cached = inputs.make(space=space)(frozen, given, keys)["x0"]
    np.testing.assert_allclose(cached, drawn, atol=2e-2)
    expected = pixels.to_uint8(vae.decode(x0 / 0.5))
    np.testing.assert_array_equal(space.to_pixels(frozen, x0), expected)


def test_every_stage_works_on_latents(workdir):
    _, x0, _ = pairs.open_pairs(workdir / "pairs/train").read(np.arange(24))
    assert x0.dtype == np.float16 and x0.shape == (24, 1, 1, 3)
    model = interop.load(workdir / "student")
    make = generate.of_model(model, model.sampler(), mesh=parallel.make_mesh(ONE))
    images = make.images(
        model.students, seed=0, labels=np.arange(4, dtype=np.int32), batch_size=4
    )
    assert images.shape == (4, 1, 1, 2) and images.dtype == np.uint8
    rows = json.loads((workdir / "report.json").read_text())["rows"]
    assert np.isfinite([list(row["metrics"].values()) for row in rows]).all()


def test_a_model_brings_its_autoencoder(workdir, folder, tmp_path):
    model = interop.load(workdir / "teacher")
    vae = latent.load(folder / "vae")
    jax.tree.map(np.testing.assert_array_equal, model.frozen[ROLE], vae.params)
    copy = shutil.copytree(workdir / "teacher/model", tmp_path / "model")
    blob = bytearray((copy / beside.AUTOENCODER).read_bytes())
    blob[-1] ^= 1
    (copy / beside.AUTOENCODER).write_bytes(blob)
    with pytest.raises(CheckpointError, match="autoencoder.safetensors: is damaged"):
        interop.load(copy)
    (copy / beside.AUTOENCODER).unlink()
    with pytest.raises(CheckpointError, match="autoencoder.safetensors: is missing"):
        interop.load(copy)


def test_a_run_goes_on_with_its_autoencoder_and_its_cache(folder, cache, tmp_path):
    wanted = config(folder, latents=str(cache))
    job = recipe.make_job(wanted, tmp_path, devices=ONE)
    data = recipe.build.load_images(job.recipe)
    same_data.check(job, data, force=False)
    same_data.check(job, data, force=False)
    kept = job.frozen[ROLE]
    job._autoencoder[ROLE] = jax.tree.map(lambda x: x + 1, kept)
    with pytest.raises(DataError, match="autoencoder was .*, is"):
        same_data.check(job, data, force=False)
    job._autoencoder[ROLE] = kept
    manifest = cache / "latents.json"
    before, facts = (
        manifest.read_text(),
        sealed.read_json(manifest, error=DataError, way_out=""),
    )
    sealed.write_json(manifest, facts | {"crop": "another"})
    with pytest.raises(DataError, match="latents was .*, is"):
        same_data.check(job, data, force=False)
    manifest.write_text(before)


def test_the_autoencoder_may_move(folder, tmp_path):
    record.write(recipe.make_job(config(folder), tmp_path, devices=ONE), False, {})
    shutil.copytree(folder / "vae", tmp_path / "elsewhere/vae")
    moved = config(tmp_path / "elsewhere")
    record.write(recipe.make_job(moved, tmp_path, devices=ONE), False, {})
    moved.data.latents = "cache"
    with pytest.raises(ConfigError, match="config.data.latents was '', is 'cache'"):
        record.write(recipe.make_job(moved, tmp_path, devices=ONE), False, {})


def test_another_autoencoder_than_the_teacher_s_is_refused(workdir, folder, tmp_path):
    wanted = config(folder)
    other = latent.load(folder / "vae")
    moved = jax.tree.map(lambda x: x + 1, other.params)
    dataclasses.replace(other, params=moved).save(tmp_path / "vae")
    wanted.data.autoencoder = str(tmp_path / "vae")
    job = recipe.make_job(wanted, tmp_path / "run", devices=ONE)
    with pytest.raises(ConfigError, match="with another autoencoder than data.auto"):
        job.model(str(workdir / "teacher/model"), "float32")


def test_a_folder_that_is_replaced_gets_the_new_autoencoder(workdir, tmp_path):
    model, again = interop.load(workdir / "teacher"), tmp_path / "model"
    moved = {ROLE: jax.tree.map(lambda x: x + 1, model.frozen[ROLE])}
    interop.save(again, params=model.params, spec=model.spec, frozen=moved)
    digest = interop.load(again).spec.autoencoder_sha256
    assert digest != model.spec.autoencoder_sha256
    interop.save(again, params=model.params, spec=model.spec, frozen=model.frozen)
    found = interop.load(again)
    assert found.spec.autoencoder_sha256 == model.spec.autoencoder_sha256
    jax.tree.map(np.testing.assert_array_equal, found.frozen, model.frozen)


def test_training_reads_the_cache(workdir, cache, folder, tmp_path, monkeypatch):
    """The same draws, of moments that float16 has rounded, and none is flipped."""
    monkeypatch.delattr(geometry, "random_flip")
    wanted = config(folder, latents=str(cache), flip=True)
    wanted.order = ("teacher",)
    job = recipe.make_job(wanted, tmp_path, devices=ONE)
    assert recipe.build.load_latents(job.recipe).num_views == 2
    without = recipe.make_job(config(folder, latents=str(cache)), tmp_path, devices=ONE)
    assert recipe.build.load_latents(without.recipe).num_views == 1
    recipe.run(wanted, tmp_path, devices=ONE)
    found, expected = (interop.load(w / "teacher").params for w in (tmp_path, workdir))
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_what_does_not_fit_is_refused_in_a_line(folder, cache, tmp_path):
    def refused(changed, error, match):
        with pytest.raises(error, match=match):
            recipe.check_inputs(recipe.make_job(changed, tmp_path / "run", devices=ONE))

    without = config(folder)
    without.data.autoencoder = ""
    refused(without, ConfigError, "data.autoencoder='', model.autoencoder=autoenc")
    for field, value, match in (
        ("scaling_factor", 0.25, "scaling_factor=0.25: .* has 0.5; set that"),
        ("latent_channels", 4, "image_shape=.*have 4 channels"),
        ("wide", 4, "autoencoder.wide"),
    ):
        other = config(folder)
        other.model.autoencoder[field] = value
        refused(other, ConfigError, match)
    other = config(folder)
    other.model.autoencoder.widths = (8,)
    refused(other, CheckpointError, "data.autoencoder=.*expected")
    manifest = cache / latents.MANIFEST
    facts = sealed.read_json(manifest, error=DataError, way_out="")
    shutil.copytree(cache, tmp_path / "unflipped")
    sealed.write_json(tmp_path / "unflipped" / latents.MANIFEST, facts | {"flip": 0})
    flipped = config(folder, latents=str(tmp_path / "unflipped"), flip=True)
    refused(flipped, ConfigError, "data.flip=True: .*data.latents.*with --flip")
    other = config(folder)
    other.model.autoencoder.num_groups = 2
    refused(other, ConfigError, "model.autoencoder.num_groups=2: .* has 1; set that")
    missing = config(folder, latents=str(tmp_path / "none"))
    refused(missing, DataError, "latents.json: is missing")


def test_the_cache_says_what_images_are_conditioned_on(folder, cache, tmp_path):
    """Images with captions have no classes, or others than there are captions."""
    many = config(folder, latents=str(cache))
    many.model.num_classes = 300
    job = recipe.make_job(many, tmp_path / "run", devices=ONE)
    assert recipe.build.load_images(job.recipe).num_classes == 8
    many.data.latents = ""
    job = recipe.make_job(many, tmp_path / "run", devices=ONE)
    with pytest.raises(ConfigError, match="8 classes, model.num_classes is 300"):
        recipe.build.load_images(job.recipe)


def test_a_dry_run_counts_the_autoencoder(folder, tmp_path):
    text = plan.text(recipe.make_job(config(folder), tmp_path / "run", devices=ONE))
    assert "autoencoder" in text
