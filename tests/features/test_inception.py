"""FID's Inception-v3 against torch-fidelity, pytorch-fid and clean-fid; its files.

Data: `inception` and `inception_more` have what torch-fidelity 0.4 ("torch-fidelity"),
pytorch-fid 0.3 ("pytorch-fid") and clean-fid 0.1.35 ("clean-fid", "legacy-pytorch")
give for their images, with weights that are functions of their names (torch 2.13,
float32, CPU).
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import streams
from flax import traverse_util
from named_weights import tensor

from kdiff_jax import features as networks
from kdiff_jax import metrics
from kdiff_jax.errors import CheckpointError, ConfigError, DataError
from kdiff_jax.features import frozen, inception, inception_names
from kdiff_jax.features.resize import resize
from kdiff_jax.metrics import stats, table
from kdiff_jax.metrics.collect import Collector
from kdiff_jax.metrics.seen import Seen, of_rows
from kdiff_jax.train import parallel

DATA = pathlib.Path(__file__).parents[1] / "parity/data"
FEATURES = dict(rtol=0, atol=1e-4)  # the fixtures' tolerance; their own noise is 4e-6
SIZES = ("32", "64", "200x400", "299", "340x420")
CASES = [  # image, preprocessing; one compiled program for all
    *((size, "torch-fidelity") for size in SIZES),
    ("32", "pytorch-fid"),
    ("32", "clean-fid"),
    ("200x400", "clean-fid"),
    ("32", "legacy-pytorch"),
]


@pytest.fixture(scope="module")
def data():
    found = {}
    for name in ("inception.npz", "inception_more.npz"):
        with np.load(DATA / name) as file:
            found |= dict(file)
    return found


@pytest.fixture(scope="module")
def state_dict():
    leaves = traverse_util.flatten_dict(frozen.shapes(inception.Inception()))
    names = {leaf: frozen.torch_name(leaf) for leaf in leaves}
    return {name: tensor(name, _torch(leaves[leaf])) for leaf, name in names.items()}


def _torch(x):
    if len(x.shape) == 4:
        return x.shape[3], x.shape[2], *x.shape[:2]
    return x.shape[::-1]


@pytest.fixture(scope="module")
def features(state_dict, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "w.npz"
    np.savez(path, **state_dict, **{"Mixed_5b.branch1x1.bn.num_batches_tracked": 0})
    return metrics.make("inception", weights=path)


def prepared(data, size, name):
    how = inception.PREPROCESSINGS[name]
    images = jnp.asarray(data[f"{size}/image"], jnp.float32)
    return how.scale(resize(images, (299, 299), how.resize))


def test_features_are_those_of_the_accepted_implementations(data, features):
    cases = [(size, name) for size, name in CASES for _ in data[f"{size}/image"]]
    first = dict.fromkeys(CASES, 0)
    x = jnp.concatenate([prepared(data, size, name) for size, name in CASES])
    found = jax.jit(lambda p, x: inception.Inception().apply({"params": p}, x))(
        features.params, x
    )
    found = jax.tree.map(np.asarray, found)
    compared = 0
    for row, case in enumerate(cases):
        for name, features in found.items():
            if (key := "/".join((*case, name))) in data:
                wanted = data[key][first[case]]
                np.testing.assert_allclose(features[row], wanted, **FEATURES)
                compared += 1
        first[case] += 1
    assert compared == 6 * 6 + 2 * 4 + 2 + 1 + 2
    assert {k: v.shape[1] for k, v in found.items()} == inception.DIMS


@pytest.mark.slow  # a program for each mesh; five minutes of one core
def test_neither_devices_nor_batches_change_a_figure(features):
    """On 1, 4 and 8 devices, in batches of 7, 64 and 500: within 1e-5."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)
    reference = Seen(of_rows(rng.normal(size=(99, 2048)).astype("f4")))
    wanted = None
    for num_devices in (1, 4, 8):
        mesh = parallel.make_mesh(jax.devices()[:num_devices])
        split = dataclasses.replace(features, mesh=mesh, batch_size=8)
        for batch in (7, 64, 500):
            needs = ("rows", "logits", "spatial")
            collector = Collector(split, needs, len(images), images.shape[1:])
            for start in range(0, len(images), batch):
                part = images[start : start + batch]
                collector.add(np.arange(start, start + len(part)), part)
            found = collector.seen()
            names = ("fd", "inception_score")
            figures = table.measure(names, features, found, reference)
            rows = found.rows, found.spatial.mu
            wanted = wanted or (figures, rows)
            for name, value in figures.items():
                # A deviation is as exact as what deviates, of which it is a small part.
                part = 1e-5 * wanted[0][name.removesuffix("_std")]
                np.testing.assert_allclose(value, wanted[0][name], rtol=0, atol=part)
            for ours, theirs in zip(rows, wanted[1], strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_extract_prepares_as_the_preprocessing_says(data, monkeypatch):
    seen = {}

    class Seen:
        def apply(self, variables, x):
            seen["x"] = x
            return {}

    monkeypatch.setattr(inception, "Inception", Seen)
    for name in inception.PREPROCESSINGS:
        inception.extract({}, jnp.asarray(data["32/image"]), name)
        np.testing.assert_array_equal(seen["x"], prepared(data, "32", name))


@pytest.mark.parametrize("size", SIZES)
def test_resize_is_tensorflows_first(size, data):
    images = jnp.asarray(data[f"{size}/image"], jnp.float32)
    found = resize(images, (299, 299), "tf1")[:, ::7, ::7]
    # Of 255; float32.
    wanted = data[f"{size}/torch-fidelity/resized"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_what_metrics_read(features):
    assert features.main == "2048" and features.preprocessing == "torch-fidelity"
    assert len(features.sha256) == 64
    for figure, name in (("fd", "fid"), ("kd", "kid"), ("sfd", "sfid")):
        assert metrics.figure_name("inception", figure) == name


@pytest.mark.parametrize("layer", ["64", "192", "768", "logits"])
def test_each_layer_is_features_of_its_own(layer, monkeypatch):
    every = {
        k: jnp.full((2, n), 1.0 * i) for i, (k, n) in enumerate(inception.DIMS.items())
    }
    monkeypatch.setattr(inception, "extract", lambda *_: every)
    name = f"inception_{layer}"
    module = networks.network(name)
    assert (module.FILE, module.load) == (inception.FILE, inception.load)
    found = module.EXTRACTOR.extract({}, jnp.zeros((2, 4, 4, 3)), "nvidia")
    np.testing.assert_array_equal(found.pop(module.EXTRACTOR.main), every[layer])
    assert not found and module.EXTRACTOR.dims == {layer: inception.DIMS[layer]}
    assert module.EXTRACTOR.preprocessings == inception.EXTRACTOR.preprocessings
    assert metrics.figure_name(name, "fd") == f"fd_{name}"


def test_the_first_layer_alone(data, features, state_dict, tmp_path):
    """It costs no more than itself, and a reference says of which layer it is."""
    path = tmp_path / "w.npz"
    np.savez(path, **state_dict)
    first = metrics.make("inception_64", weights=path)
    images = data["32/image"]
    values = first.apply(images)
    np.testing.assert_allclose(values, data["32/torch-fidelity/64"], **FEATURES)
    program = jax.jit(lambda p, x: first.extractor.extract(p, x, first.preprocessing))
    cost = program.lower(first.params, images).compile().cost_analysis()
    assert cost["flops"] / len(images) < 2.5e9  # of 11e9 in all

    made = stats.of_seen(Seen(of_rows(values)), first)
    stats.save(tmp_path / "ref.npz", made)
    assert stats.load_stats(tmp_path / "ref.npz", features=first).num == len(images)
    words = "made with features='inception_64', not 'inception'"
    with pytest.raises(DataError, match=words):
        stats.load_stats(tmp_path / "ref.npz", features=features)
    with pytest.raises(ConfigError, match="reads logits, and features=inception_64 ha"):
        table.check(["inception_score"], first)


def nvidias(state_dict):
    """The same network under NVIDIA's names, without the scales of its norms."""
    modules = {name: k for k, name in inception_names._modules().items()}
    leaves = {name: k for k, name in inception_names.LEAVES.items()}
    found = {}
    for name, array in state_dict.items():
        module, _, rest = name.rpartition(".")
        if module == "fc":
            found[f"output.{rest}"] = array
        elif not name.endswith("bn.weight"):
            module, kind, leaf = name.rsplit(".", 2)
            found[f"layers.{modules[module]}.{leaves[f'{kind}.{leaf}']}"] = array
    return found


def test_nvidias_names_are_the_same_network(state_dict, tmp_path):
    ones = {k: v * 0 + 1 if "bn.weight" in k else v for k, v in state_dict.items()}
    np.savez(tmp_path / "torch.npz", **ones)
    theirs = nvidias(state_dict)
    assert "layers.mixed_9.tower_1_mixed_conv.beta" in theirs  # TensorFlow's graph
    np.savez(tmp_path / "nvidia.npz", **theirs)
    for found, wanted in zip(
        jax.tree.leaves(inception.load(tmp_path / "nvidia.npz")),
        jax.tree.leaves(inception.load(tmp_path / "torch.npz")),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted)


def persistent(arrays, kind="InceptionV3") -> streams.Code:
    """A module of NVIDIA's `torch_utils.persistence` with what is below it."""
    state = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    below = {}
    for key, array in arrays.items():
        name, _, rest = key.partition(".")
        if rest:
            below.setdefault(name, {})[rest] = array
        else:
            where = "_buffers" if name in ("mean", "var") else "_parameters"
            state[where][name] = streams.parameter(array)
    for name, inner in below.items():
        state["_modules"][name] = persistent(inner, "Module")
    return streams.persistent(kind, state)


def test_nvidias_pickle_is_read_and_not_run(state_dict, tmp_path, caplog):
    """In the form of inception-v3-2015-12-05.pkl; its source raises where it is run."""
    theirs = nvidias(state_dict)
    np.savez(tmp_path / "nvidia.npz", **theirs)
    path = tmp_path / "inception-v3-2015-12-05.pkl"
    path.write_bytes(streams.stream(persistent(theirs)))
    found = metrics.make("inception", weights=path)
    for ours, wanted in zip(
        jax.tree.leaves(found.params),
        jax.tree.leaves(inception.load(tmp_path / "nvidia.npz")),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, wanted)
    (line,) = caplog.messages  # of random weights, and so of another digest
    assert f"weights={path}: none of the public files that are known" in line

    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"2015-12-05.pkl: .*; give pt_incep"):
        metrics.make("inception", weights=path)


def test_files_of_other_networks_are_refused(state_dict, tmp_path):
    def refused(words, **arrays):
        np.savez(tmp_path / "w.npz", **arrays)
        with pytest.raises(CheckpointError, match=words) as caught:
            inception.load(tmp_path / "w.npz")
        text = str(caught.value)
        assert "\n" not in text and "95,628,359 bytes, sha256 6726825d0af5" in text

    name = "Mixed_7c.branch1x1.bn.bias"
    refused(f"{name} missing", **{k: v for k, v in state_dict.items() if k != name})
    refused(
        r"fc.bias has shape \(1000,\)", **state_dict | {"fc.bias": np.zeros(1000, "f4")}
    )
    theirs = nvidias(state_dict)
    last = "layers.mixed_10.conv.beta"
    refused(
        r"Mixed_7c.branch1x1.bn.bias missing, layers.mixed_10.conv.bias unknown",
        **{k: v for k, v in theirs.items() if k != last},
        **{"layers.mixed_10.conv.bias": theirs[last]},
    )
    with pytest.raises(CheckpointError, match="95,628,359 bytes, sha256 6726825d0af5"):
        metrics.make("inception")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.complex64, "is complex64, no floating point"),
        (np.str_, "is <U.*, no floating point"),
        (np.int32, "is int32, no floating point"),
        (np.float64, None),
    ],
)
@pytest.mark.filterwarnings("error")  # of numpy's, that an imaginary part is dropped
def test_weights_that_are_no_numbers_of_a_network_are_refused(
    wrong, words, state_dict, tmp_path
):
    name, path = "Mixed_7c.branch1x1.bn.bias", tmp_path / "w.npz"
    np.savez(path, **state_dict | {name: state_dict[name].astype(wrong)})
    if words is None:
        inception.load(path)
        return
    with pytest.raises(CheckpointError, match=f"{name} {words}; give") as caught:
        inception.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value, state_dict, tmp_path):
    name = "Mixed_7c.branch1x1.bn.bias"
    wrong = state_dict[name].copy()
    wrong[3] = value
    np.savez(tmp_path / "w.npz", **state_dict | {name: wrong})
    with pytest.raises(CheckpointError, match=f"{name} has NaN or infinity; give pt_"):
        inception.load(tmp_path / "w.npz")
