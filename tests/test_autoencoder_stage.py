"""The stage that trains an autoencoder: what it leaves, resumes and refuses."""

import json
import shutil

import jax
import numpy as np
import points
import pytest
from PIL import Image
from tolerance import REORDER

from configs import cifar10_latent, common, digits
from kdiff_jax import build, latent, pixels, recipe
from kdiff_jax.encoders import trained
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.interop import trees
from kdiff_jax.report import metrics_log
from kdiff_jax.stages import autoencoder, autoencoder_end, finish, same_data

SHAPE = (8, 8, 1)


def config(**changes):
    """Digits through a single level; changes by the path of a value."""
    stage = cifar10_latent.autoencoder(tiny=True)
    stage["network"] |= dict(widths=(4,), num_groups=2)
    stage["method"] |= dict(disc_width=4, disc_levels=1)
    stage |= dict(num_held_out=20, num_measured=70)
    sections = points.sections() | dict(data=dict(name="digits"))
    sections["model"] = {**digits.sections(tiny=True)["model"]}
    sections["train"] = dict(log_every=2, save_every=2, sample_every=4)
    sections["evaluate"] = dict(num_images=20, features="pixels")
    found = common.config(
        "latents", order=("autoencoder",), stages=dict(autoencoder=stage), **sections
    )
    for path, value in changes.items():
        *parts, last = path.split("__")
        section = found
        for part in parts:
            section = section[part]
        with section.unlocked():
            section[last] = value
    return build.plain(found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of a stage of four steps."""
    workdir = tmp_path_factory.mktemp("whole")
    recipe.run(config(), workdir, devices=jax.devices()[:1])
    return workdir / "autoencoder"


def data():
    found = build.resolve(config())
    return autoencoder.split(found.stages[0], build.load_images(found))


def test_the_folder_is_an_autoencoder_with_the_figures_that_are_told(whole):
    about = json.loads((whole / "done.json").read_text())
    vae = latent.load(whole)
    held_out, trained_on = data()
    assert held_out.num == 20 and trained_on.num == 1797 - 20
    assert vae.sample_size == 8 and vae.module.factor == 1
    x = np.asarray(pixels.to_float(held_out.read(np.arange(20))))
    mean, logvar = vae.encode(x)
    made = vae.decode(mean)
    assert mean.shape == (20, 8, 8, 8) and made.shape == x.shape
    np.testing.assert_allclose(about["held_out"]["l1"], np.abs(made - x).mean(), 1e-5)
    u, v = (np.asarray(pixels.to_uint8(one), np.float64) for one in (x, made))
    mse = ((u - v) ** 2).mean((1, 2, 3))
    psnr = (10 * np.log10(255**2 / mse)).mean()
    np.testing.assert_allclose(about["held_out"]["psnr"], psnr, 1e-5)
    # Trained were latents of another deviation; those of the folder have 1.
    scale = about["latent_std"]
    mu, log = mean * scale, logvar + 2 * np.log(scale)
    kl = ((mu**2 + np.exp(log) - 1 - log) / 2).sum((1, 2, 3)).mean()
    np.testing.assert_allclose(about["held_out"]["kl"], kl, 1e-4)
    places = autoencoder_end.places(build.resolve(config()).stages[0], trained_on)
    mean, logvar = vae.encode(np.asarray(pixels.to_float(trained_on.read(places))))
    std = np.sqrt(np.var(mean) + np.exp(logvar).mean())
    np.testing.assert_allclose(std, 1, 1e-4)
    assert vae.scaling_factor == 1
    assert about["fd_pixels"] > 0 and about["train_steps"] == 4
    assert about["average"] == "ema"


def test_the_log_has_losses_and_errors_and_a_picture(whole):
    lines = metrics_log.read(whole / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4]
    losses = {f"autoencoder/{k}" for k in ("l1", "kl", "gan", "disc_loss", "loss")}
    assert losses <= lines[0].keys() and "held_out/psnr" in lines[1]
    with Image.open(whole / "reconstructions.png") as picture:
        assert picture.width > 400 and picture.height > 90


def test_it_begins_as_flax_does():
    fields = dict(widths=(8, 8), num_groups=4)
    shape = (8, 8, 3)
    module = trained.make(
        "autoencoder_kl", image_shape=shape, precision="float32", **fields
    )
    key = jax.random.key(0)
    found = trees.flatten(trained.net(module, shape).init(key))
    shapes = jax.eval_shape(module.init, key, np.zeros((1, *shape), "f4"))["params"]
    expected = trees.flatten(shapes)
    assert {k: x.shape for k, x in found.items()} == {
        k: x.shape for k, x in expected.items()
    }
    kernel = found["decoder/conv_in/kernel"]  # 3x3 of 4 channels
    np.testing.assert_allclose(np.std(kernel) * 6, 1, atol=0.15)
    assert np.abs(kernel * 6).max() < 2 / 0.87
    assert (found["encoder/conv_norm_out/scale"] == 1).all()
    assert (found["encoder/conv_out/bias"] == 0).all()


@pytest.mark.parametrize("quant", [False, True])
def test_latents_divided_decode_to_the_same(quant):
    shape = (4, 4, 3)
    module = trained.make(
        "autoencoder_kl",
        **dict(image_shape=shape, precision="float32", widths=(4,), num_blocks=1),
        **dict(num_groups=2, mid_attention=False),
        **dict(quant_conv=quant, post_quant_conv=quant),
    )
    net, key = trained.net(module, shape), jax.random.key(0)
    params = jax.tree.map(lambda x: x + 0.1, net.init(key))
    divided = trained.divided(module, params, 2.5)
    x = jax.random.uniform(key, (2, *shape), minval=-1)
    mean, logvar = net.encode(params, x)
    found, found_logvar = net.encode(divided, x)
    np.testing.assert_allclose(found, mean / 2.5, atol=1e-5)
    np.testing.assert_allclose(found_logvar, logvar - 2 * np.log(2.5), atol=1e-5)
    np.testing.assert_allclose(
        net.apply(divided, mean / 2.5), net.apply(params, mean), atol=1e-5
    )


def again(whole, tmp_path, devices):
    """The run goes on where its second step was saved."""
    shutil.copytree(whole.parent, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "autoencoder"
    for name in ("vae", "checkpoints/4"):
        shutil.rmtree(folder / name)
    (folder / "done.json").unlink()
    recipe.run(config(), tmp_path, devices=devices)
    return folder


def test_it_resumes_bit_for_bit(whole, tmp_path):
    folder = again(whole, tmp_path, jax.devices()[:1])
    for name in ("diffusion_pytorch_model.safetensors", "config.json"):
        assert (folder / "vae" / name).read_bytes() == (
            whole / "vae" / name
        ).read_bytes()


@pytest.mark.slow
def test_it_resumes_on_other_devices(whole, tmp_path):
    folder = again(whole, tmp_path, jax.devices())
    found, expected = latent.load(folder), latent.load(whole)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **REORDER),
        *(found.params, expected.params),
    )


STAGE = "stages__autoencoder__"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("network__num_groups", 3, r"network\.num_groups=3: does not divide"),
        ("network__widths", (4, 4, 4, 4, 4), r"network\.widths=.*multiples of 16"),
        ("network__name", "vqgan", r"network\.name.*autoencoder_kl"),
        ("network__blocks", 3, r"network\.blocks=3: .*num_blocks"),
        ("train__result", "best", r"train\.result='best': the stage has params, ema"),
        ("train__figure_every", 2, r"train\.figure_every=2: .*set 0"),
        ("method", dict(name="dmd2"), r"method\.name='dmd2': .*one of autoencoder"),
        ("method__lpips_weight", 1.0, r"method\.lpips_weights"),
        ("roles", {"fake_score": {}}, r"roles\.fake_score: .*disc"),
        ("num_held_out", 0, r"num_held_out=0: must be 1 or more"),
        ("kind", "train", r"autoencoder\.(network|num_|sampler)"),
    ],
)
def test_what_it_refuses(path, value, said, tmp_path):
    with pytest.raises(ConfigError, match=said) as error:
        found = config(**{f"{STAGE}{path}": value})
        recipe.check_inputs(recipe.make_job(found, tmp_path))
    assert "\n" not in str(error.value)


def test_too_few_images_are_refused(tmp_path):
    found = config(**{f"{STAGE}num_held_out": 1796})
    with pytest.raises(DataError, match="num_held_out=1796: .* has 1797 images"):
        recipe.check_inputs(recipe.make_job(found, tmp_path))


def test_a_denoiser_is_trained_by_no_autoencoders_method():
    teacher = digits.teacher(tiny=True) | dict(method=dict(name="autoencoder"))
    with pytest.raises(ConfigError, match=r"name='autoencoder': a stage of kind"):
        sections = digits.sections(tiny=True)
        found = common.config(
            "x", order=("teacher",), stages=dict(teacher=teacher), **sections
        )
        build.check(build.plain(found))


def latent_config(**changes):
    """The tiny recipe that trains its own autoencoder."""
    found = cifar10_latent.get_config("tiny")
    with found.unlocked():
        for path, value in changes.items():
            *parts, last = path.split("__")
            section = found
            for part in parts:
                section = section[part]
            section[last] = value
    return found


def test_stages_are_named_where_folders_are(tmp_path):
    short = latent_config(order=("autoencoder", "latents", "teacher"))
    job = recipe.make_job(short, tmp_path, devices=jax.devices()[:1])
    made = job.recipe
    assert made.made == {"autoencoder": "autoencoder", "latents": "latents"}
    assert made.autoencoder == str(tmp_path / "autoencoder") and not made.brings_latents
    assert made.latents == str(tmp_path / "latents")
    assert job.lacks == ["autoencoder", "latents"]
    same_data.check(job, build.load_images(made), force=False)
    for name in job.lacks:
        (tmp_path / name).mkdir()
        finish(tmp_path / name)
    assert job.lacks == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("order", ("latents", "autoencoder", "teacher"), "order: 'latents' stands bef"),
        ("order", ("teacher", "autoencoder", "latents"), "order: 'teacher' stands bef"),
        ("data__latents", "", "latents='': does not name the stage 'latents'"),
        ("model__autoencoder__wide", 1, r"autoencoder\.wide"),
        ("model__autoencoder__num_blocks", 2, r"num_blocks=2: .* has 1; set that"),
        ("model__autoencoder__scaling_factor", 0.5, r"=0.5: .* has 1.0; set that"),
        ("stages__latents__shard_size", 0, r"latents\.shard_size=0: must be 1 or more"),
    ],
)
def test_what_a_recipe_of_both_refuses(path, value, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        recipe.make_job(latent_config(**{path: value}), tmp_path)
