"""EDM's and GDD's checkpoints become the models that their own code computes.

`edm_tiny_*`, `edm_samplers`, `edm_losses`: NVlabs/edm at 008a4e5 (2024-03-16), run by
PyTorch 2.13.0 on a CPU in float32, its samplers in float64; random weights.
`edm_forms`: what those do not have (encoder and decoder "skip", VE, iDDPM, GDD's
boundary), computed in PyTorch 2.13.0 by a functional definition of our own, written
after Karras et al. 2022, appendix F and Table 1; it shares no code with the networks.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from edm_files import objects, pickle, random_arrays
from tolerance import GRADIENT, LOSS, UNET

from kdiff_jax import interop, networks, samplers
from kdiff_jax.diffusion import noise_levels
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import containers, lazy
from kdiff_jax.formats.pickle_objects import Stub
from kdiff_jax.interop import edm
from kdiff_jax.interop.source import Facts
from kdiff_jax.interop.trees import flatten
from kdiff_jax.losses import regression

DATA = pathlib.Path(__file__).parents[1] / "parity" / "data"
CHURN = dict(S_churn=40.0, S_min=0.05, S_max=50.0, S_noise=1.003)
SONG = dict(
    model_type="SongUNet",
    model_channels=24,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[8],
    augment_dim=9,
    dropout=0.13,
)
NCSNPP = dict(
    embedding_type="fourier",
    encoder_type="residual",
    channel_mult_noise=2,
    resample_filter=[1, 3, 3, 1],
)
TINY = {  # name -> (wrapper, label_dim, keywords handed on)
    "edm_tiny_ddpmpp_vp_uncond": ("VPPrecond", 0, SONG),
    "edm_tiny_ncsnpp_edm_cond": ("EDMPrecond", 10, SONG | NCSNPP),
    "edm_tiny_adm_edm_cond": (
        "EDMPrecond",
        20,
        dict(
            model_type="DhariwalUNet",
            model_channels=16,
            channel_mult=[1, 4],
            channel_mult_emb=2,
            num_blocks=1,
            attn_resolutions=[8],
            augment_dim=9,
            dropout=0.1,
        ),
    ),
}
FORM = dict(model_channels=8, channel_mult_emb=2, num_blocks=1, attn_resolutions=[4])
SMOOTH = [1, 3, 3, 1]
FEW = ("standard_skip_vp", "adm_iddpm")  # of the forms, by default
FORMS = {
    "skip_skip_ve": (
        "VEPrecond",
        0,
        dict(
            model_type="SongUNet",
            channel_mult=[1, 2],
            embedding_type="fourier",
            channel_mult_noise=2,
            encoder_type="skip",
            decoder_type="skip",
            resample_filter=SMOOTH,
        ),
    ),
    "standard_skip_vp": (
        "VPPrecond",
        0,
        dict(model_type="SongUNet", channel_mult=[1, 2, 2], decoder_type="skip"),
    ),
    "residual_skip_gdd": (
        "GDDPrecond",
        5,
        dict(
            model_type="SongUNet",
            channel_mult=[1, 2],
            num_blocks=2,
            encoder_type="residual",
            decoder_type="skip",
            resample_filter=SMOOTH,
        ),
    ),
    "adm_iddpm": (
        "iDDPMPrecond",
        3,
        dict(model_type="DhariwalUNet", channel_mult=[1, 2]),
    ),
    "standard_standard_iddpm": (
        "iDDPMPrecond",
        0,
        dict(model_type="SongUNet", channel_mult=[2, 1], attn_resolutions=[8]),
    ),
}


def keywords(wrapper, size, classes, handed_on):
    """(of the wrapper, of its network), as their constructors were called."""
    handed_on = dict(handed_on)
    said = dict(img_resolution=size, img_channels=3, label_dim=classes) | handed_on
    del handed_on["model_type"]
    outputs = 6 if wrapper == "iDDPMPrecond" else 3
    inner = dict(img_resolution=size, in_channels=3, out_channels=outputs)
    return said, inner | dict(label_dim=classes) | handed_on


def write(path, arrays, size, wrapper, classes, handed_on):
    said, own = keywords(wrapper, size, classes, handed_on)
    attributes = {"eps": 2e-3} if wrapper == "GDDPrecond" else {}
    network = handed_on["model_type"]
    net = objects(
        arrays, wrapper=wrapper, network=network, said=said, own=own, **attributes
    )
    path.write_bytes(pickle({"ema": net, "loss_fn": None, "dataset_kwargs": {}}))
    return path


@functools.cache
def folder():
    """Where the pickles of this module lie."""
    import tempfile

    return pathlib.Path(tempfile.mkdtemp())


@functools.cache
def tiny(name):
    """(path of a pickle, the model in it) of a reference's network."""
    arrays = safetensors.numpy.load_file(DATA / f"{name}.safetensors")
    path = write(folder() / f"{name}.pkl", arrays, 16, *TINY[name])
    return path, interop.load(path)


@functools.cache
def form(name):
    """(arrays computed by the definition in torch, our model)."""
    with np.load(DATA / "edm_forms.npz") as file:
        data = {k.split("/")[1]: file[k] for k in file if k.startswith(name + "/")}
    data = {k: np.moveaxis(v, -3, -1) if v.ndim > 3 else v for k, v in data.items()}
    wrapper, classes, handed_on = FORMS[name]
    handed_on = FORM | handed_on
    taps = handed_on.get("resample_filter", [1, 1])
    arrays = random_arrays(str(data["shapes"]), taps)
    path = write(folder() / f"{name}.pkl", arrays, 8, wrapper, classes, handed_on)
    return data, interop.load(path)


def tolerance(name, atol=1e-4):
    """D of VP, VE and iDDPM is of the order of sigma_max = 80, and so is its error."""
    scale = 80 if name.endswith(("vp", "ve", "iddpm", "vp_uncond")) else 1
    return dict(UNET, atol=atol * scale)


def sample(model, name, z, y, noise=None, **keywords):
    sampler = samplers.make(name, process=model.process, **keywords)
    noise = None if noise is None else jnp.asarray(noise)
    return sampler.sample(
        model.apply, jnp.asarray(z), jnp.asarray(y), noise=lambda i: noise[i]
    )


@functools.cache
def apply(name):
    """(x_t, sigma, y, augment, cotangent) -> (x0_hat, gradient of x_t), compiled."""
    _, model = (tiny if name in TINY else form)(name)

    def product(x, params, sigma, y, augment, cotangent):
        more = {"augment": augment} if model.spec.plain()["augment_dim"] else {}
        x0_hat = model.net.apply(params, x, sigma, y, **more)
        return (x0_hat * cotangent).sum(), x0_hat

    @jax.jit
    def run(params, x, *args):
        # Parameters are arguments: XLA would compute with constants as it compiles.
        (_, x0_hat), grad_x = jax.value_and_grad(product, has_aux=True)(
            x, params, *args
        )
        return x0_hat, grad_x

    return functools.partial(run, model.params)


@pytest.mark.parametrize(
    "name",
    [  # ADM's output is compared in parity/test_edm_networks too
        pytest.param(name, marks=[pytest.mark.slow] if "adm" in name else [])
        for name in TINY
    ],
)
def test_a_pickle_is_the_reference_s_denoiser(name):
    _, model = tiny(name)
    with np.load(DATA / f"{name}.npz") as file:
        data = {k: jnp.asarray(v) for k, v in file.items()}
    images = {k: jnp.moveaxis(v, 1, -1) for k, v in data.items() if v.ndim == 4}
    x, cotangent, augment = images["x"], images["cotangent"], data["augment_labels"]
    run, no_label = apply(name), jnp.full(4, -1)
    y = jnp.argmax(data["class_labels"], -1) if model.num_classes else no_label
    x0_hat, grad_x = run(x, data["sigma"], y, augment, cotangent)
    np.testing.assert_allclose(x0_hat, images["D_x"], **tolerance(name))
    np.testing.assert_allclose(grad_x, images["grad_x"], **GRADIENT)
    x0_hat, _ = run(x, data["sigma"], y, 0 * augment, cotangent)
    np.testing.assert_allclose(x0_hat, images["D_x_noaug"], **tolerance(name))
    if model.num_classes:
        x0_hat, _ = run(x, data["sigma"], no_label, 0 * augment, cotangent)
        np.testing.assert_allclose(x0_hat, images["D_x_nolabel"], **UNET)


@pytest.mark.parametrize("name", TINY)
def test_losses_are_the_reference_s(name):
    _, model = tiny(name)
    with np.load(DATA / "edm_losses.npz") as file:
        data = {k.split("/")[1]: file[k] for k in file if k.startswith(name + "/")}
    data = {k: jnp.moveaxis(v, 1, -1) if v.ndim == 4 else v for k, v in data.items()}
    x0, eps, draw = data["y"], data["noise"], data["draw"].reshape(-1)
    level = noise_levels.vp if "_vp_" in name else noise_levels.lognormal
    sigma = level(draw)
    y = jnp.full(4, -1)
    if model.num_classes:
        y = jnp.argmax(jnp.asarray(data["class_labels"]), -1)
    x_t = model.process.add_noise(x0, eps, sigma)
    x0_hat, _ = apply(name)(x_t, sigma, y, jnp.zeros((4, 9)), x0)
    weight = regression.weight(
        "inverse_variance" if "_vp_" in name else "edm", model.process.logsnr(sigma)
    )
    loss = weight * regression.mse_per_example(x0_hat, x0)
    np.testing.assert_allclose(loss, data["loss"].mean((1, 2, 3)), **LOSS)


@pytest.mark.parametrize("name", TINY)
def test_a_pickle_samples_as_the_reference_does(name):
    _, model = tiny(name)
    with np.load(DATA / "edm_samplers.npz") as file:
        data = {k.split("/")[1]: file[k] for k in file if k.startswith(name + "/")}
    data = {k: np.moveaxis(v, -3, -1) if v.ndim > 3 else v for k, v in data.items()}
    one_hot = data.get("class_labels", np.zeros((2, 1)))
    z, y = data["latents"], np.argmax(one_hot, -1)
    # What VP ends at is of the order of sigma_max, and so is its error.
    bound = dict(UNET, atol=3e-3) if "_vp_" in name else UNET
    assert model.spec.plain()["sampler"] == {"name": "heun", "num_steps": 18}
    got = sample(model, z=z, y=y, **model.spec.plain()["sampler"])
    np.testing.assert_allclose(got, data["heun18"], **bound)


@pytest.mark.parametrize(
    "name",
    [
        # Each takes seconds to compile; two have all the parts.
        pytest.param(name, marks=() if name in FEW else pytest.mark.slow)
        for name in FORMS
    ],
)
def test_other_forms_are_the_denoisers_of_the_definition(name):
    data, model = form(name)
    y = data["y"] if model.num_classes else np.zeros(4, int)
    got, _ = apply(name)(data["x"], data["sigma"], y, None, data["x"])
    np.testing.assert_allclose(got, data["D"], **tolerance(name))


@pytest.mark.parametrize(
    "name, run", [("adm_iddpm", "churn6"), ("skip_skip_ve", "heun6")]
)
def test_other_forms_sample_as_the_definition_does(name, run):
    """iDDPM: the grid, and the levels raised by fresh noise, are rounded."""
    data, model = form(name)
    y = data["y"] if model.num_classes else np.zeros(4, int)
    churn = CHURN | dict(S_churn=4.0) if run == "churn6" else {}
    got = sample(model, "heun", data["z"], y, data["noise"], num_steps=6, **churn)
    np.testing.assert_allclose(got, data[run], **tolerance(name))


def test_iddpm_s_grid_has_only_levels_that_its_network_knows():
    _, model = form("adm_iddpm")
    levels = noise_levels.iddpm_levels()
    # the level next to 80; a network asked between two levels would not know which
    assert model.process.z_scale == levels[np.abs(levels - 80).argmin()] != 80
    assert model.spec.plain()["process"]["sigma_min"] == levels[999]
    assert model.spec.plain()["process"]["sigma_max"] == 80


def test_gdd_s_generator_is_one_step_from_80():
    _, model = form("residual_skip_gdd")
    assert model.spec.plain()["sampler"] == {"name": "ddim", "num_steps": 1}
    expected = {"name": "boundary", "sigma_data": 0.5, "sigma_min": 0.002}
    assert model.spec.plain()["precondition"] == expected
    assert model.process.z_scale == 80


@pytest.mark.parametrize(
    "name, said",
    [
        *((name, None) for name in TINY if "_vp_" not in name),
        ("edm_tiny_ddpmpp_vp_uncond", "vp"),
    ],
)
def test_a_state_dict_is_the_same_model(name, said):
    """All but the preconditioning and dropout is in names, shapes and buffers."""
    path, _ = tiny(name)
    told = edm.convert(containers.open(path).content, Facts())
    content = containers.open(DATA / f"{name}.safetensors").content
    assert edm.matches(content)
    found = edm.convert(content, Facts(precondition=said))
    network = told.spec["network"] | {"dropout": 0.0}
    assert found.spec == told.spec | {"network": network}
    assert found.leaves.keys() == told.leaves.keys()
    for path, leaf in found.leaves.items():
        np.testing.assert_array_equal(leaf.read(), told.leaves[path].read())
    assert len(found.assumed) == (1 if said else 2)
    assert told.assumed == ()


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_told_by_its_state_dict(name):
    data, model = form(name)
    taps = model.spec.plain()["network"].get("taps", [1, 1])
    arrays = random_arrays(str(data["shapes"]), taps)
    content = {k.removeprefix("model."): lazy.of(v) for k, v in arrays.items()}
    precondition = model.spec.plain()["precondition"]["name"]
    source = edm.convert({"net": content}, Facts(precondition=precondition))
    for key, value in source.spec.items():
        if key == "network":
            value = value | {"dropout": 0.1}  # the constructor's default
        assert model.spec.plain()[key] == value, key


class Full:
    """The released networks, as objects whose arrays nobody reads."""

    def __init__(self, wrapper, said, fields, size, classes, count):
        self.wrapper, self.said, self.fields = wrapper, said, fields
        self.size, self.classes, self.count = size, classes, count


RELEASED = {
    "cifar10-32x32-uncond-vp": Full(
        "EDMPrecond",
        dict(model_type="SongUNet", channel_mult=[2, 2, 2], dropout=0.13),
        dict(name="song_unet"),
        32,
        0,
        55.73e6,
    ),
    "cifar10-32x32-uncond-ve": Full(
        "EDMPrecond",
        dict(model_type="SongUNet", channel_mult=[2, 2, 2], **NCSNPP),
        dict(
            name="song_unet",
            embedding="fourier",
            noise_mult=2,
            encoder="residual",
            taps=(1, 3, 3, 1),
        ),
        32,
        0,
        56.40e6,
    ),
    "imagenet-64x64-cond-adm": Full(
        "EDMPrecond", {}, dict(name="adm_unet", num_classes=1000), 64, 1000, 295.90e6
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_network_has_its_published_size(name):
    """Our defaults are these networks, and so are the constructors' where unsaid."""
    full = RELEASED[name]
    module = networks.make(**full.fields)
    x, t = jnp.zeros((1, full.size, full.size, 3)), jnp.zeros(1)
    params = jax.eval_shape(module.init, jax.random.key(0), x, t)["params"]
    arrays = {}
    for path, leaf in flatten(params).items():
        shape = leaf.shape
        axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(shape), range(len(shape)))
        shape = tuple(shape[axis] for axis in axes)
        empty = lazy.Lazy(shape, np.dtype(np.float32), lambda: None)
        head, *rest = (
            path.replace("scale", "weight").replace("kernel", "weight").split("/")
        )
        head = head.replace("_", ".", 1) if head[:4] in ("enc_", "dec_") else head
        arrays[".".join(["model", head, *rest])] = empty
    taps = np.array(full.fields.get("taps", (1, 1)))
    taps = np.outer(taps, taps)[None, None] / taps.sum() ** 2
    arrays["model.enc.16x16_down.conv0.resample_filter"] = lazy.of(taps)
    network = full.said.get("model_type", "DhariwalUNet")
    said, own = keywords(
        full.wrapper, full.size, full.classes, {"model_type": network} | full.said
    )
    net = objects(arrays, wrapper=full.wrapper, network=network, said=said, own=own)
    source = edm.convert({"ema": net}, Facts())
    found, _ = interop.build(source.spec)
    found = flatten(jax.eval_shape(found.init, jax.random.key(0)))
    assert {k: v.shape for k, v in found.items()} == {
        k: v.shape for k, v in source.leaves.items()
    }
    count = sum(v.size for k, v in found.items() if not k.endswith("freqs"))
    np.testing.assert_allclose(count, full.count, rtol=1e-4)
    steps = 18 if full.size == 32 else 40
    assert source.spec["sampler"] == {"name": "heun", "num_steps": steps}


def changed(name="edm_tiny_ddpmpp_vp_uncond", *, said=(), own=(), drop=(), **more):
    """The objects of a small network with something else in them."""
    wrapper, classes, handed_on = TINY[name]
    arrays = safetensors.numpy.load_file(DATA / f"{name}.safetensors")
    arrays = {k: lazy.of(v) for k, v in arrays.items() if k not in drop}
    of_wrapper, of_net = keywords(wrapper, 16, classes, handed_on)
    fields = dict(
        wrapper=wrapper,
        network=handed_on["model_type"],
        said=of_wrapper | dict(said),
        own=of_net | dict(own),
    )
    return objects(arrays, **(fields | more))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(wrapper="FooPrecond"), "class_name='FooPrecond': not a network that is"),
        (dict(said={"sigma_dato": 1}), "sigma_dato=1: VPPrecond has no such keyword"),
        (dict(own={"use_flash": 1}), "use_flash=1: SongUNet has no such keyword"),
        (
            dict(own={"channel_mult": [1, 1]}),
            r"channel_mult=\[1, 1\]: the checkpoint's",
        ),
        (
            dict(own={"resample_filter": SMOOTH}),
            "resample_filter=.* contradicts itself",
        ),
        (dict(own={"attn_resolutions": []}), "attn_resolutions=.* contradicts itself"),
        (dict(own={"out_channels": 6}), "out_channels=6: the checkpoint's arrays"),
        (dict(own={"dropout": "much"}), "dropout='much': not what the reference"),
        (dict(drop=["model.map_layer0.weight"]), "no map_layer0.weight; it is not"),
    ],
)
def test_what_is_not_known_is_refused_by_name(change, message):
    with pytest.raises(CheckpointError, match=message):
        edm.convert({"ema": changed(**change)}, Facts())


def test_parts_that_were_changed_are_refused():
    net = changed()
    block = net.state["_modules"]["model"].state["_modules"]["enc"].state["_modules"]
    block["16x16_block0"].state["skip_scale"] = 1.0
    with pytest.raises(CheckpointError, match="16x16_block0.skip_scale=1.0: SongUNet"):
        edm.convert(net, Facts())
    block["16x16_block0"] = Stub("torch.nn", "Identity", (), {})
    with pytest.raises(CheckpointError, match="'Identity', which networks of this"):
        edm.convert(net, Facts())


def test_facts_that_the_file_denies_are_refused():
    with pytest.raises(
        CheckpointError, match="precondition='edm': the checkpoint says"
    ):
        edm.convert(changed(), Facts(precondition="edm"))
    content = containers.open(DATA / "edm_tiny_ncsnpp_edm_cond.safetensors").content
    with pytest.raises(CheckpointError, match="image_size=32: the checkpoint says 16"):
        edm.convert(content, Facts(image_size=32))
    with pytest.raises(CheckpointError, match="precondition='eps': networks of this"):
        edm.convert(content, Facts(precondition="eps"))
    two = {f"{who}.{k}": v for who in ("real", "fake") for k, v in content.items()}
    with pytest.raises(CheckpointError, match="several networks, 'real.', 'fake.'"):
        edm.convert(two, Facts())
    bare = {k: v for k, v in content.items() if "resample_filter" not in k}
    with pytest.raises(CheckpointError, match="no resample_filter; save the buffers"):
        edm.convert(bare, Facts())


def test_what_only_training_reads_is_said_and_not_kept():
    source = edm.convert(changed(own={"label_dropout": 0.1}), Facts())
    assert source.assumed == ("label_dropout=0.1 of its training is not kept",)
    assert source.spec == edm.convert(changed(said={"use_fp16": True}), Facts()).spec


def test_a_tree_of_another_make_is_refused_in_one_line():
    net = changed()
    net.state["_modules"]["model"].state["_modules"]["enc"] = 3
    with pytest.raises(CheckpointError, match="class 'int', which networks of this"):
        edm.convert(net, Facts())
    content = {"map_layer0.weight": 1, "enc.8x8_conv.weight": 2}
    with pytest.raises(CheckpointError, match="made otherwise than this family's"):
        edm.convert(content, Facts())


def test_another_sampler_may_be_asked_for():
    sampler = edm.convert(changed(), Facts(sampler="dpm_solver", num_steps=9)).spec
    assert sampler["sampler"] == {"name": "dpm_solver", "num_steps": 9}
