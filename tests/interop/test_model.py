"""A model as a folder: what is saved is loaded, what is damaged is refused by name."""

import hashlib
import json

import drawn
import jax
import numpy as np
import pytest
import safetensors.numpy

from kdiff_jax import interop, partition, sealed
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import convert
from kdiff_jax.interop.trees import flatten

SPEC = {
    "network": {
        "name": "song_unet",
        "channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
        "embedding": "fourier",
    },
    "precondition": {"name": "edm"},
    "process": {"name": "edm"},
    "image_shape": [8, 8, 3],
    "num_classes": 0,
    "sampler": {"name": "heun", "num_steps": 2},
}


@pytest.fixture(scope="module")
def params():
    net, _ = interop.build(SPEC)
    return drawn.params(net)


@pytest.fixture
def folder(tmp_path, params):
    return interop.save(tmp_path / "model", params=params, spec=SPEC, card="# A net")


def test_a_saved_model_is_loaded_bit_for_bit(folder, params):
    model = interop.load(folder)
    flat, saved = flatten(model.params), flatten(params)
    assert flat.keys() == saved.keys()
    for name, leaf in saved.items():
        np.testing.assert_array_equal(flat[name], leaf)
    assert model.spec.plain()["sampler"] == SPEC["sampler"]
    assert (folder / "README.md").read_text() == "# A net"


def test_a_network_alone_has_no_sampler_and_takes_one(tmp_path, params):
    spec = {name: value for name, value in SPEC.items() if name != "sampler"}
    folder = interop.save(tmp_path / "model", params=params, spec=spec)
    model = interop.load(folder)
    assert model.sampler("heun", 3).name == "heun"
    with pytest.raises(ConfigError, match="none of its own; give --sampler=NAME"):
        model.sampler()
    with pytest.raises(ConfigError, match="num_steps"):
        model.sampler("heun")
    with pytest.raises(CheckpointError, match="names no sampler"):
        convert.run(folder, tmp_path / "output", target="kdiff")


def test_frequencies_do_not_count_as_parameters(folder, params):
    total = sum(x.size for x in jax.tree.leaves(params))
    assert interop.load(folder).num_params == total - 4


def test_a_flipped_byte_is_noticed(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="sha256.*damaged"):
        interop.load(folder)


@pytest.mark.parametrize(
    "was, now", [('"edm"', '"vp"'), ('"num_steps": 2', '"num_steps": 3')]
)
def test_a_spec_that_was_changed_is_refused(folder, was, now):
    path = folder / "config.json"
    assert was in path.read_text()
    path.write_text(path.read_text().replace(was, now, 1))
    with pytest.raises(CheckpointError, match="config.json: is damaged.*not by hand"):
        interop.load(folder)


def test_a_spec_of_a_version_before_is_read(folder, caplog):
    path = folder / "config.json"
    spec = json.loads(path.read_text())
    del spec["digest"]
    path.write_text(json.dumps(spec))
    with caplog.at_level("INFO", "kdiff_jax.sealed"):
        assert interop.load(folder).spec == interop.Spec.of(spec)
    assert "has no digest; it is not verified" in caplog.text


def test_a_network_of_another_revision_is_refused(folder, monkeypatch):
    monkeypatch.setattr("kdiff_jax.networks.song_unet.REVISION", 2)
    with pytest.raises(CheckpointError, match="revision 1, and here it is 2"):
        interop.load(folder)


def test_leaves_that_do_not_fit_are_named_with_both_shapes(folder, params):
    flat = {k: np.asarray(v) for k, v in flatten(params).items()}
    flat["map_layer0/kernel"] = np.zeros((3, 5), np.float32)
    del flat["map_layer1/bias"]
    flat["more"] = np.zeros(7, np.float32)
    safetensors.numpy.save_file(flat, folder / "model.safetensors")
    spec = json.loads((folder / "config.json").read_text())
    data = (folder / "model.safetensors").read_bytes()
    spec["sha256"] = hashlib.sha256(data).hexdigest()
    sealed.write_json(folder / "config.json", spec)
    with pytest.raises(CheckpointError) as error:
        interop.load(folder)
    for part in (
        "map_layer0/kernel is (3, 5), expected (8, 32)",
        "map_layer1/bias is missing, expected (32,)",
        "more (7,) is not expected",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"network": 3, "sha256": "x"}'])
def test_a_spec_that_is_none_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError):
        interop.load(folder)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        interop.load(tmp_path / "none")


def test_a_stage_folder_is_no_pipeline(folder, params, tmp_path):
    """Its `model` is one of ours, where others call a part of theirs that."""
    stage, output = folder.parent, tmp_path / "output"
    convert.run(stage, output)
    for model in (interop.load(stage), interop.load(output)):
        jax.tree.map(np.testing.assert_array_equal, model.params, params)
    with pytest.raises(CheckpointError, match="no network known here"):
        interop.load(stage, source="diffusers")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_a_model_stands_for_its_folder(folder, name):
    assert interop.load(folder / name).spec == interop.load(folder).spec


def test_no_label_is_not_class_0(tmp_path):
    spec = SPEC | {"num_classes": 3}
    net, _ = interop.build(spec)
    folder = interop.save(tmp_path / "m", params=drawn.params(net), spec=spec)
    model = interop.load(folder)
    x = np.ones((2, 8, 8, 3), np.float32)
    none, minus = model.apply(x, 1.0), model.apply(x, 1.0, np.full(2, -1))
    np.testing.assert_array_equal(none, minus)
    assert np.abs(none - model.apply(x, 1.0, np.zeros(2, np.int32))).max() > 1e-3
    for y in (np.array([0, 3]), np.eye(2, 3), np.array([0])):
        with pytest.raises(ConfigError, match="y="):
            model.apply(x, 1.0, y)


@pytest.mark.parametrize(
    "part", [{"num_blocks": 10**8}, {"channel_mult": [0]}, {"channels": -8}]
)
def test_a_network_of_nonsense_is_refused_at_once(folder, part):
    spec = json.loads((folder / "config.json").read_text())
    spec["network"] |= part
    sealed.write_json(folder / "config.json", spec)
    with pytest.raises(CheckpointError, match="spec that is no model"):
        interop.load(folder)


def test_a_name_that_no_file_can_have(tmp_path):
    with pytest.raises(CheckpointError):
        interop.load("x" * 5000)
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(CheckpointError):
        interop.load(tmp_path / "a")


PROCESS = interop.build(SPEC)[1]
BOTH = partition.make(
    process=PROCESS, num_classes=4, num_groups=2, rule="random", num_ranges=2
)
MANY = SPEC | {"num_classes": 4, "partition": BOTH.to_spec()}


@pytest.fixture(scope="module")
def students():
    """Four students, each with a bias of its own at the end."""
    net, _ = interop.build(MANY)
    return jax.tree.map(
        lambda x: np.stack([x * np.float32(1 + 0.2 * k) for k in range(4)]),
        drawn.params(net),
    )


@pytest.fixture
def many(tmp_path, students):
    return interop.save(tmp_path / "many", params=students, spec=MANY)


def test_many_students_are_loaded_bit_for_bit(many, students):
    model = interop.load(many)
    jax.tree.map(np.testing.assert_array_equal, model.params, students)
    assert model.partition == BOTH and model.num_students == 4
    alone = model.student(3)
    assert alone.partition == partition.ONE and alone.num_students == 1
    assert alone.num_params == model.num_params
    assert alone.spec.sha256 != model.spec.sha256
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x, y[3]), alone.params, students
    )


def test_many_students_answer_each_for_what_it_owns(many):
    model = interop.load(many)
    border = BOTH.borders[1]
    t = np.array([border, border * 1.01, 80.0, 0.002, border, 1.0], np.float32)
    y = np.array([0, 1, 2, 3, 3, 0])
    x_t = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)
    got = model.apply(x_t, t, y)
    alone = [model.student(k).apply(x_t, t, y) for k in range(4)]
    for i, k in enumerate(BOTH.owner(t, y)):
        np.testing.assert_array_equal(got[i], alone[k][i])
        assert np.abs(got[i] - alone[(k + 1) % 4][i]).max() > 1e-4
    traced = jax.jit(model.apply)(x_t, t, y)
    np.testing.assert_allclose(traced, got, rtol=2e-5, atol=2e-5)
    with pytest.raises(ConfigError, match="y=None: .* own classes"):
        model.apply(x_t, t)


def test_a_student_that_is_none_is_refused(many, folder):
    for k in (-1, 4):
        with pytest.raises(ConfigError, match=f"student={k}: .* 4 students, 0 to 3"):
            interop.load(many).student(k)
    with pytest.raises(ConfigError, match="student=0: .* single"):
        interop.load(folder).student(0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"partition": {"groups": [[0, 1], [1, 3]], "borders": []}}, "not as it was"),
        ({"partition": {"groups": 3, "borders": []}}, "not as it was written"),
        ({"partition": {}}, "not as it was written"),
        ({"num_classes": 6}, "a partition of 4 classes and a model of 6"),
        (
            {"process": {"name": "edm", "sigma_max": 40.0}},
            "times 0.002 to 80, and its process goes from 0.002 to 40",
        ),
        (
            {"partition": {"groups": [[0, 1], [2, 3]], "borders": []}},
            r"aux_conv/bias is \(4, 3\), expected \(2, 3\)",
        ),
        ({"partition": None}, r"aux_conv/bias is \(4, 3\), expected \(3,\)"),
    ],
)
def test_owners_that_contradict_the_model_are_refused(many, change, text):
    spec = json.loads((many / "config.json").read_text()) | change
    sealed.write_json(many / "config.json", spec)
    with pytest.raises(CheckpointError, match=text) as error:
        interop.load(many)
    assert "\n" not in str(error.value)


def test_one_of_many_students_is_written_where_only_one_fits(many, tmp_path):
    for target in ("diffusers", "safetensors"):
        with pytest.raises(CheckpointError, match="4 students; .* --student=0 to 3"):
            convert.run(many, tmp_path / target, target)
        assert not (tmp_path / target).exists()
    convert.run(many, tmp_path / "one", "safetensors", student=2)
    expected = interop.load(many).student(2).params
    one = interop.load(tmp_path / "one")
    jax.tree.map(np.testing.assert_array_equal, one.params, expected)
    assert one.partition == partition.ONE
    convert.run(many, tmp_path / "again")
    assert interop.load(tmp_path / "again").partition == BOTH
    assert "student 3: 2 classes" in (tmp_path / "again" / "README.md").read_text()
