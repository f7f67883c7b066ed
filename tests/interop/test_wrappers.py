"""Names of PyTorch's wrappers, averages beside raw weights: for every family."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_ddpm_torch import DATA, tree
from test_diffusers_import import ddpm_folder

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import containers, lazy, tensors
from kdiff_jax.formats.wrappers import unwrapped
from kdiff_jax.interop import ddpm_torch, diffusers, edm, google, score_sde
from kdiff_jax.interop.source import Facts

PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module.")
EDM = "edm_tiny_ncsnpp_edm_cond.safetensors"


def named(arrays, prefix, inside=""):
    """The arrays with `prefix` before all names, and in them after `inside`."""
    return {
        prefix + (k.replace(inside, inside + prefix, 1) if inside else k): lazy.of(v)
        for k, v in arrays.items()
    }


def same(found, wanted):
    assert found.spec == wanted.spec
    assert found.leaves.keys() == wanted.leaves.keys()
    for name in list(wanted.leaves)[::7]:
        np.testing.assert_array_equal(
            found.leaves[name].read(), wanted.leaves[name].read()
        )


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_of_edm(prefix, tmp_path):
    arrays = load_file(DATA / EDM)
    plain = edm.convert(containers.open(DATA / EDM).content, Facts())
    for inside in ("", "model."):
        path = tmp_path / "w.safetensors"
        tensors.write(path, named(arrays, prefix, inside))
        same(edm.convert(containers.open(path).content, Facts()), plain)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_of_diffusers(prefix, tmp_path):
    folder = ddpm_folder(tmp_path)
    plain = diffusers.convert(folder, Facts())
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors.write(file, named(load_file(file), prefix))
    same(diffusers.convert(folder, Facts()), plain)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_of_ddpm_torch(prefix):
    plain = ddpm_torch.convert(tree(), Facts())
    content = unwrapped({f"{prefix}{k}": v for k, v in tree().items()})
    same(ddpm_torch.convert(content, Facts()), plain)


@pytest.mark.parametrize(
    ("family", "file", "at"),
    [
        (google, "gr_dd_tiny_uncond.msgpack", "ema_params"),
        (score_sde, "jcm_tiny.msgpack", "params_ema"),
    ],
)
def test_states_of_flax_keep_their_names_and_give_their_average(family, file, at):
    content = containers.open(DATA / file).content
    assert at in content and family.matches(content)
    (line,) = [x for x in family.convert(content, Facts()).assumed if "weights=" in x]
    assert line.startswith(f"weights='{at}': the moving average, not ")


def test_a_name_with_and_without_a_wrapper_is_refused():
    array = lazy.of(np.zeros(1))
    with pytest.raises(CheckpointError, match="a.b is there twice"):
        unwrapped({"net": {"a.b": array, "module.a.b": array}})
    tree = {"module": array, "module.n": 3, "x": [{"module.y": array}]}
    assert list(unwrapped(tree)) == ["module", "module.n", "x"]
    assert list(unwrapped(tree)["x"][0]) == ["y"]


def one(value):
    return {k: lazy.of(np.full(v.shape, value, np.float32)) for k, v in tree().items()}


def under(prefix, state):
    return {f"{prefix}{k}": v for k, v in state.items()}


CONTAINERS = {
    "ema": lambda raw, ema: {"model": raw, "ema": ema, "step": 3},
    "model_ema": lambda raw, ema: {"model_ema": ema, "model": raw},
    "ema.": lambda raw, ema: {"state_dict": under("model.", raw) | under("ema.", ema)},
    "ema_model.": lambda raw, ema: {
        "ema": under("online_model.", raw)
        | under("ema_model.", ema)
        | {"initted": lazy.of(np.ones(1)), "step": lazy.of(np.ones(1))}
    },
    "both": lambda raw, ema: {
        "model": raw,
        "ema": under("online_model.", raw) | under("ema_model.", ema),
    },
    "beside": lambda raw, ema: raw | under("model_ema.", ema),
    "average": lambda raw, ema: {"net": raw, "averaged": ema},
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_averages_come_before_raw_weights_and_are_named(kind):
    source = ddpm_torch.convert(CONTAINERS[kind](one(0), one(1)), Facts())
    assert all(leaf.read().min() == 1 for leaf in source.leaves.values())
    assert "the moving average, not" in source.assumed[0]


def test_one_network_under_any_name_needs_no_word():
    for content in (
        {"state_dict": under("model.", one(1)), "epoch": 3},
        {"state_dict": under("net.denoiser.", one(1))},
        one(1) | {"n_averaged": lazy.of(np.ones((), np.int64))},
    ):
        source = ddpm_torch.convert(content, Facts())
        assert not any("weights=" in line for line in source.assumed)
        assert all(leaf.read().min() == 1 for leaf in source.leaves.values())


@pytest.mark.parametrize(
    "content",
    [
        {"generator": one(0), "guidance": one(1)},
        {"ema_0.999": one(0), "ema_0.9999": one(1)},
        under("student.", one(0)) | under("teacher.", one(1)),
    ],
)
def test_a_choice_that_nothing_tells_is_refused(content):
    assert ddpm_torch.matches(content)
    with pytest.raises(CheckpointError, match="several networks, '.*'; save the one"):
        ddpm_torch.convert(content, Facts())


def test_what_belongs_to_no_network_is_refused():
    content = under("model.", one(0)) | {"loss.logvar": lazy.of(np.zeros(1))}
    with pytest.raises(CheckpointError, match="'loss.logvar' beside the network"):
        ddpm_torch.convert(content, Facts())
