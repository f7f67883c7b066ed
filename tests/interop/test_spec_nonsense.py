"""A spec of nonsense is one line of a CheckpointError; what is built can be used."""

import copy
import json
import math
import random

import jax
import numpy as np
import pytest

from kdiff_jax import interop, partition
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import Spec, built, training
from kdiff_jax.interop.trees import flatten

MLP = {
    "network": {"name": "mlp", "channels": 4, "channel_mult": [1], "num_blocks": 1},
    "precondition": {"name": "edm", "sigma_data": 0.5},
    "process": {"name": "edm", "sigma_min": 0.002, "sigma_max": 80.0},
    "image_shape": [1, 1, 2],
    "num_classes": 4,
    "augment_dim": 0,
    "revision": 1,
    "sampler": {"name": "heun", "num_steps": 3, "spacing": "karras", "S_churn": 0.0},
}
DISCRETE = MLP | {
    "precondition": {"name": "eps"},
    "process": {"name": "discrete", "schedule": "linear", "num_timesteps": 10},
    "sampler": {"name": "ddim", "num_steps": 3, "clip": True, "eta": 0.5},
}
PROCESS = processes.make("edm")
OWNERS = partition.make(process=PROCESS, num_classes=4, num_groups=2, num_ranges=2)
MANY = MLP | {"partition": OWNERS.to_spec()}
ODD = (
    *(None, True, False, 0, 1, -1, 2, 3.7, 1e-300, 1e300, -0.5, 10**7, 10**30),
    *(math.nan, math.inf, "", "nan", "4", "eps", "both", "..", "x" * 10**4, "é\n²"),
    *([], [1], [[1, 1, 2]], [1, 1, "2"], [None], [10**9] * 3, [1] * 10**4, [[]]),
    *({}, {"name": "edm"}, {"name": None}, {"name": []}, {"a": {"b": [1]}}),
)


def leaves_of(spec):
    net, _ = interop.build(spec)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    own = (4,) if "partition" in spec else ()
    return {
        name: jax.ShapeDtypeStruct((*own, *leaf.shape), leaf.dtype)
        for name, leaf in flatten(shapes).items()
    }


def places(tree, path=()):
    """The path of every value, lists and dicts too."""
    yield path
    if isinstance(tree, (dict, list)):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from places(tree[key], (*path, key))


def mutated(spec, chance):
    spec = copy.deepcopy(spec)
    path = chance.choice([p for p in places(spec) if p])
    parent = spec
    for key in path[:-1]:
        parent = parent[key]
    kind = chance.randrange(6)
    if kind == 0:
        del parent[path[-1]]
    elif kind == 1 and isinstance(parent, dict):
        parent[chance.choice(["name", "extra", "self", "return", "", "process"])] = (
            chance.choice(ODD)
        )
    else:
        parent[path[-1]] = chance.choice(ODD)
    return spec


@pytest.mark.parametrize("spec", [MLP, DISCRETE, MANY], ids=["mlp", "discrete", "many"])
def test_a_mutated_spec_is_refused_in_one_line_or_can_be_used(spec):
    leaves, chance, refused = leaves_of(spec), random.Random(0), 0
    assert built.built(Spec.of(spec), leaves, "it")
    x_t, t = np.zeros((1, 1, 1, 2), np.float32), np.ones(1, np.float32)
    for _ in range(100):
        found = mutated(spec, chance)
        try:
            read = built.read(found, "it")
            net, process = built.built(read, leaves, "it")
            built.check_sampler(read, process, "it")
        except CheckpointError as error:
            assert "\n" not in str(error) and len(str(error)) < 400, found
            refused += 1
            continue
        like = jax.eval_shape(net.init, jax.random.key(0))
        text = json.dumps(read.plain())
        assert json.dumps(Spec.of(json.loads(text)).plain()) == text and hash(read)
        if read.image_shape == (1, 1, 2):
            x0_hat = jax.eval_shape(net.apply, like, x_t, t, np.zeros(1, np.int32))
            assert x0_hat.shape == (1, 1, 1, 2)
    assert 50 < refused < 100


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:12])
def test_whatever_stands_for_a_whole_spec_in_a_file_is_refused(value, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(value))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        interop.load(tmp_path)
    assert "\n" not in str(error.value)
    about = {"spec": value, "role": "student", "result": "ema"}
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="model.json: is (damaged|no descr)"):
        training.description(tmp_path)


def test_a_value_is_named_with_what_it_must_be():
    spec = MLP | {"network": MLP["network"] | {"channels": "4"}}
    with pytest.raises(ValueError, match="network.channels=4: must be a whole number"):
        Spec.of(spec)
    spec = MLP | {"sampler": {"name": "heun", "num_steps": 3, "steps": 4}}
    with pytest.raises(ValueError, match="sampler.steps=4: .* has no keyword 'steps'"):
        Spec.of(spec)
