"""DiT against diffusers and its authors' definition, SiT against its authors'.

Data: diffusers 0.42.1 (Apache-2.0), torch 2.13.0, float64 runs on a CPU rounded to
float32; random weights, none zero. `dit_tiny` is a `DiTPipeline` folder with the same
tensors under the authors' names beside it; samples are of own float64 samplers.
Rounding of float32 is 5e-6 for DiT, whose sines are of times up to 999, and 1e-6 for
SiT; of gradients 2e-5.
"""

import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import streams
from safetensors.numpy import load_file, save_file

from kdiff_jax import interop, networks, samplers
from kdiff_jax.diffusion.process import broadcast_left
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import containers, lazy
from kdiff_jax.interop import (
    Facts,
    convert,
    diffusers_export,
    dit_names,
    safetensors_export,
)
from kdiff_jax.interop.trees import flatten
from kdiff_jax.networks.dit import positions

DATA = pathlib.Path(__file__).parent / "data"
DIT, SIT = DATA / "dit_tiny", DATA / "sit_tiny/SiT-tiny.pt"
SIT_FACTS = Facts(num_heads=2, precondition="velocity")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@functools.cache
def loaded(name):
    """The model of each kind of file."""
    return {
        "diffusers": lambda: interop.load(DIT),
        "authors": lambda: interop.load(DIT / "DiT-tiny.pt", facts=Facts(num_heads=4)),
        "sit": lambda: interop.load(SIT, facts=SIT_FACTS),
    }[name]()


@functools.cache
def arrays(name):
    with np.load(DATA / name / "io.npz") as file:
        found = {k: file[k] for k in file}
    return {k: np.moveaxis(v, 1, -1) if v.ndim == 4 else v for k, v in found.items()}


def labels(y, num):
    """The reference's last row is ours -1."""
    return np.where(y == num, -1, y)


def module(model, **fields):
    """The network itself, with the variance that it has."""
    spec = model.spec
    about = dict(out_channels=4, num_classes=spec.num_classes, **fields)
    return spec.network.call(networks.make, **about)


CASES = [
    ("diffusers", "dit_tiny", "out", 10),
    ("authors", "dit_tiny", "out_original", 10),
    ("sit", "sit_tiny", "out", 7),
]


@pytest.mark.parametrize("name, data, key, num", CASES)
def test_output_and_gradient_are_the_reference_s(name, data, key, num):
    model, io = loaded(name), arrays(data)
    network = module(model, remat=name == "sit")
    y, t = jnp.asarray(labels(io["y"], num)), jnp.asarray(io["t"], jnp.float32)

    def loss(x):
        out = network.apply({"params": model.params}, x, t, y)
        return jnp.sum(out**2), out

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, out), grad = run(jnp.asarray(io["x"]))
    tolerance = 1e-4 if name == "sit" else 2e-4
    np.testing.assert_allclose(out, io[key], rtol=0, atol=tolerance)
    if key == "out":
        largest = np.abs(io["grad_x"]).max()
        np.testing.assert_allclose(grad / largest, io["grad_x"] / largest, atol=1e-3)


def test_a_dit_s_x0_hat_is_of_the_first_half_of_its_output():
    model, io = loaded("diffusers"), arrays("dit_tiny")
    found = model.apply(io["x"], io["t"], labels(io["y"], 10))
    t = jnp.asarray(io["t"], jnp.float32)
    alpha, sigma = model.process.alpha(t), model.process.sigma(t)
    eps = io["out"][..., :4]
    expected = (io["x"] - broadcast_left(sigma, eps) * eps) / broadcast_left(alpha, eps)
    scale = broadcast_left(alpha / sigma, eps)
    np.testing.assert_allclose(found * scale, expected * scale, rtol=0, atol=2e-4)
    assert model.spec.space == "latents" and model.spec.null_prob == 0.1
    none = model.apply(io["x"], io["t"])
    np.testing.assert_allclose(none[1], found[1], rtol=1e-4, atol=1e-5)


def test_a_sit_s_time_runs_from_the_data():
    model, io = loaded("sit"), arrays("sit_tiny")
    v, t = io["out"][..., :4], io["t"].astype(np.float32)
    found = model.apply(io["x"], t, labels(io["y"], 7))
    expected = io["x"] + broadcast_left(1 - t, v) * v  # x_t = t data + (1 - t) noise
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.process.alpha(1 - t), t, atol=1e-7)


@pytest.mark.parametrize(
    "name, key, sampler, options",
    [
        ("sit", "euler", "euler", dict(guidance=1.5)),
        ("sit", "euler_three_channels", "euler", dict(guidance=1.5, three=True)),
        ("sit", "heun", "heun", dict(guidance=1.5)),
        ("diffusers", "ddim64", "ddim", dict(guidance=4.0)),
    ],
)
def test_samples_are_the_reference_s(name, key, sampler, options):
    model = loaded(name)
    io = arrays("sit_tiny" if name == "sit" else "dit_tiny")
    options = dict(options)
    if options.pop("three", False):
        options["guidance_channels"] = 3
    made = model.sampler(sampler, num_steps=10, **options)
    if name == "diffusers":
        times = samplers.asked_times(made)
        np.testing.assert_array_equal(times, io["sample/timesteps"])
    run = jax.jit(functools.partial(made.sample, model.apply))
    found = run(jnp.asarray(io["sample/z"]), jnp.asarray(io["sample/y"], jnp.int32))
    expected = io[f"sample/{key}"]
    error = np.abs(found - expected).max() / expected.std()
    assert error < 2e-4, error


def test_xl_2_has_the_published_tensors():
    network = networks.make("dit", learned_variance=True)
    x = jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, t)["params"]
    leaves = {
        path: lazy.Lazy(leaf.shape, np.dtype(np.float32), lambda: np.zeros(0))
        for path, leaf in flatten(shapes).items()
    }
    published = json.loads((DATA / "dit_xl_2_shapes.json").read_text())
    assert published.pop("pos_embed") == [1, 256, 1152]
    found = {k: list(v.shape) for k, v in dit_names.to_authors(leaves).items()}
    assert found == published and len(found) == 291
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 674_834_720


def test_names_there_and_back_are_the_files():
    file = containers.open(DIT / "DiT-tiny.pt").content
    again = dit_names.to_authors(dit_names.of_authors(file))
    assert again.keys() | {"pos_embed"} == file.keys()
    for name, leaf in again.items():
        np.testing.assert_array_equal(leaf.read(), file[name].read(), err_msg=name)
    theirs = load_file(DIT / "transformer" / WEIGHTS)
    leaves, own = dit_names.of_diffusers({k: lazy.of(v) for k, v in theirs.items()})
    again = dit_names.to_diffusers(leaves, 2)
    assert not own and again.keys() == theirs.keys()
    for name, leaf in again.items():
        np.testing.assert_array_equal(leaf.read(), theirs[name], err_msg=name)
    stored = file["pos_embed"].read()
    np.testing.assert_allclose(stored, positions(4, 4, 32).reshape(1, 16, 32))


@pytest.mark.parametrize("target", ["kdiff", "safetensors"])
def test_what_we_write_is_the_same_model(tmp_path, target):
    facts = dict(num_heads=2, precondition="velocity")
    lines = convert.run(SIT, tmp_path / "out", target, facts=facts)
    # Those of the positions and of the file's second embedder are none of ours.
    assert lines[-1].startswith("69,984 parameters")
    again = interop.load(tmp_path / "out")
    model = loaded("sit")
    assert again.spec.defining() == model.spec.defining()
    for path, leaf in flatten(again.params).items():
        np.testing.assert_array_equal(leaf, flatten(model.params)[path], err_msg=path)


def test_blocks_with_embeddings_of_their_own_keep_them(tmp_path):
    """As they are when diffusers has trained the network further."""
    folder = tmp_path / "dit"
    shutil.copytree(DIT, folder)
    tensors = load_file(folder / "transformer" / WEIGHTS)
    name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    save_file(tensors | {name: tensors[name] + 1}, folder / "transformer" / WEIGHTS)
    model = interop.load(folder)
    assert model.spec.network.keywords["own_embeddings"]
    io = arrays("dit_tiny")
    given = io["x"], io["t"], labels(io["y"], 10)
    moved = model.apply(*given) - loaded("diffusers").apply(*given)
    assert np.abs(moved).max() > 1e-2
    with pytest.raises(CheckpointError, match="own_embeddings=True: the authors'"):
        safetensors_export.save(tmp_path / "out", model)


@pytest.mark.parametrize(
    "facts, rule",
    [
        ({}, "num_heads=None: no such file says it, and 32 is no published width"),
        (dict(num_heads=5), "num_heads=5: must divide the width, which is 32"),
        (dict(num_heads=4, precondition="x"), "precondition='x': that of DiT is eps"),
        (dict(num_heads=4, image_size=16), "image_size=16: the checkpoint says 8"),
    ],
)
def test_facts_that_are_missing_or_wrong_are_told_in_one_line(facts, rule):
    with pytest.raises(CheckpointError, match=rule) as caught:
        interop.load(DIT / "DiT-tiny.pt", facts=Facts(**facts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config, rule",
    [
        (dict(norm_type="layer_norm"), "norm_type='layer_norm': is not implemented"),
        (dict(activation_fn="geglu"), "activation_fn='geglu': is not implemented"),
        (dict(out_channels=5), "out_channels=5: is not implemented; there is 4, or 8"),
        (dict(num_layers=0), "num_layers=0: is not implemented; there is a number"),
        (dict(sample_size=9), "sample_size=9: is not implemented; there is whole"),
        (dict(num_attention_heads=2), "does not fit its network"),
        (dict(caption_channels=8), "caption_channels=8: is not implemented"),
    ],
)
def test_options_that_are_not_implemented_are_told_in_one_line(tmp_path, config, rule):
    shutil.copytree(DIT / "transformer", tmp_path / "transformer")
    path = tmp_path / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(CheckpointError, match=rule) as caught:
        interop.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_config_of_2022_and_one_with_defaults_are_the_same_network(tmp_path):
    config = json.loads((DIT / "transformer/config.json").read_text())
    old = config | dict(_class_name="Transformer2DModel", cross_attention_dim=None)
    old |= dict(num_vector_embeds=None, only_cross_attention=False)
    defaults = dict(patch_size=2, attention_bias=True, norm_eps=1e-5, dropout=0.0)
    short = {k: v for k, v in config.items() if k not in defaults}
    for number, one in enumerate((old, short)):
        folder = tmp_path / str(number)
        shutil.copytree(DIT / "transformer", folder / "transformer")
        (folder / "transformer/config.json").write_text(json.dumps(one))
        index = {"_class_name": "DiTPipeline", "id2label": {"0": "tench, Tinca tinca"}}
        (folder / "model_index.json").write_text(json.dumps(index))
        found = interop.load(folder)
        assert found.spec.network == loaded("diffusers").spec.network
        assert found.spec.process == loaded("diffusers").spec.process


def test_heads_of_another_network_are_refused():
    with pytest.raises(CheckpointError, match="num_heads=2: the checkpoint says 4"):
        interop.load(DIT, facts=Facts(num_heads=2))
    folder = DATA / "diffusers_class_conditional"
    with pytest.raises(CheckpointError, match="num_heads=2: is a fact of a DiT"):
        interop.load(folder, facts=Facts(num_heads=2))


def training_state(path, **flags):
    """The file that the authors' train.py writes, of SiT's tensors."""
    state = {k: v.read() for k, v in containers.open(SIT).content.items()}
    tensors = streams.Tensors()
    namespace = streams.build(streams.call("argparse", "Namespace"), flags)
    tree = {
        "model": {k: tensors(v) for k, v in state.items()},
        "ema": {k: tensors(v) for k, v in state.items()},
        "opt": {"state": {}, "param_groups": []},
        "args": namespace,
    }
    path.write_bytes(streams.torch_zip(tree, tensors))
    return path


def test_the_flags_of_a_training_state_tell_a_sit(tmp_path):
    path = training_state(tmp_path / "0001.pt", model="SiT-XL/2", path_type="Linear")
    model = interop.load(path, facts=Facts(num_heads=2))
    assert model.spec.defining() == loaded("sit").spec.defining()
    with pytest.raises(CheckpointError, match="precondition='eps': the checkpoint say"):
        interop.load(path, facts=Facts(num_heads=2, precondition="eps"))
    path = training_state(tmp_path / "0002.pt", model="SiT-B/2", prediction="noise")
    with pytest.raises(CheckpointError, match="args.prediction='noise': is not impl"):
        interop.load(path, facts=Facts(num_heads=2))


def test_what_diffusers_is_given_is_its_own_folder(tmp_path):
    convert.run(DIT, tmp_path / "out", "diffusers")
    for name in ("transformer/config.json", "scheduler/scheduler_config.json"):
        theirs = json.loads((DIT / name).read_text())
        ours = json.loads((tmp_path / "out" / name).read_text())
        shared = ours.keys() & theirs.keys()
        assert {k: ours[k] for k in shared} == {k: theirs[k] for k in shared}
    theirs = load_file(DIT / "transformer" / WEIGHTS)
    ours = load_file(tmp_path / "out/transformer" / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
    again = interop.load(tmp_path / "out")
    assert again.spec.defining() == loaded("diffusers").spec.defining()
    for name in ("authors", "sit"):
        with pytest.raises(CheckpointError, match="freq_shift=0: diffusers' DiT has 1"):
            diffusers_export.save(tmp_path / "no", loaded(name))
    assert not (tmp_path / "no").exists()
