"""A step of a run as a model: what is damaged is passed over, or refused by name."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import one_student
import pytest

from kdiff_jax import interop, partition, sealed
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import convert
from kdiff_jax.train import parallel
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.state import NetState, TrainState

SPEC = {
    "network": {
        "name": "ddpm_unet",
        "channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
    },
    "precondition": {"name": "v"},
    "process": {"name": "cosine"},
    "image_shape": [8, 8, 1],
    "num_classes": 0,
    "sampler": {"name": "ddim", "num_steps": 2},
}
PREFIX = "nets/student/ema/ema/"


def average(step):
    """The moving average of a step: every leaf is a count from the step on."""
    net, _ = interop.build(SPEC)
    shapes = jax.eval_shape(net.init, jax.random.key(0))

    def count(x):
        return step + np.arange(x.size, dtype=np.float32).reshape(x.shape)

    return jax.tree.map(count, shapes)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Steps 10 and 20 of a stage, written once and copied by each test."""
    stage = tmp_path_factory.mktemp("run") / "teacher"
    checkpoints = Checkpoints(stage / "checkpoints")
    mesh = parallel.make_mesh(jax.devices()[:1])
    for step in (10, 20):
        ema = average(step)
        net = NetState(jax.tree.map(np.negative, ema), (), {"ema": ema})
        state = TrainState(jnp.int32(step), {"student": net}, {})
        checkpoints.save(step, parallel.by_student(one_student.stacked(state), mesh))
    checkpoints.close()
    about = {"spec": SPEC, "role": "student", "result": "ema"}
    (stage / "model.json").write_text(json.dumps(about))
    return stage


@pytest.fixture
def stage(original, tmp_path):
    return shutil.copytree(original, tmp_path / "teacher")


def step_of(model):
    """Which step a model is of, if every leaf is that step's."""
    step = int(min(x.min() for x in jax.tree.leaves(model.params)))
    jax.tree.map(np.testing.assert_array_equal, model.params, average(step))
    return step


def edit_digest(folder, **change):
    """Another digest of one leaf of the average, as if its bytes had changed."""
    path = folder / "meta" / "metadata"
    meta = json.loads(path.read_text())
    leaf = next(k for k in meta["leaves"] if k.startswith(PREFIX))
    meta["leaves"][leaf] |= change
    path.write_text(json.dumps(sealed.seal(meta)))


def cut_data(folder):
    # All of them: which one holds the leaves that are read is Orbax' own affair.
    for path in [p for p in (folder / "state").rglob("d/*") if p.is_file()]:
        path.write_bytes(path.read_bytes()[:100])


DAMAGES = {
    "another crc": lambda d: edit_digest(d, rows=[1]),
    "another dtype": lambda d: edit_digest(d, dtype="bfloat16"),
    "truncated data": cut_data,
    "no state": lambda d: shutil.rmtree(d / "state"),
    "no meta": lambda d: shutil.rmtree(d / "meta"),
    "torn meta": lambda d: (d / "meta" / "metadata").write_text('{"step": 2'),
    "another step": lambda d: [
        shutil.rmtree(d),
        shutil.copytree(d.parent / "10", d),
    ],
    "empty step": lambda d: [shutil.rmtree(d), d.mkdir()],
}
every_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def test_a_stage_is_its_newest_step_and_a_step_is_itself(stage):
    assert step_of(interop.load(stage)) == 20
    assert step_of(interop.load(stage / "checkpoints" / "10")) == 10


def test_a_stage_and_a_step_are_converted(stage, tmp_path):
    """Also where a model's weights are gone, which the stage can give."""
    (stage / "model").mkdir()
    sealed.write_json(stage / "model" / "config.json", SPEC)
    for source, step in ((stage, 20), (stage / "checkpoints" / "10", 10)):
        convert.run(source, tmp_path / str(step))
        assert step_of(interop.load(tmp_path / str(step))) == step


def test_an_unfinished_step_does_not_count(stage):
    (stage / "checkpoints" / "30.orbax-checkpoint-tmp").mkdir()
    assert step_of(interop.load(stage)) == 20


@every_damage
def test_a_stage_passes_over_a_damaged_step_and_says_so(stage, damage, caplog):
    damage(stage / "checkpoints" / "20")
    with caplog.at_level(logging.ERROR, "kdiff_jax.interop.training"):
        assert step_of(interop.load(stage)) == 10
    (record,) = [r for r in caplog.records if r.name == "kdiff_jax.interop.training"]
    assert str(stage / "checkpoints" / "20") in record.getMessage()


@every_damage
def test_a_damaged_step_asked_for_by_name_is_refused_in_one_line(stage, damage):
    folder = stage / "checkpoints" / "20"
    damage(folder)
    with pytest.raises(CheckpointError, match="take another step") as error:
        interop.load(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_the_leaf_that_differs_is_named(stage):
    edit_digest(stage / "checkpoints" / "20", rows=[1])
    with pytest.raises(CheckpointError, match=f"{PREFIX}.* differs from its checksum"):
        interop.load(stage / "checkpoints" / "20")


def test_a_stage_of_damaged_steps_is_refused(stage):
    for step in ("10", "20"):
        shutil.rmtree(stage / "checkpoints" / step / "state")
    with pytest.raises(CheckpointError, match=r"no valid .* steps \[20, 10\]"):
        interop.load(stage)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_damaged_description_is_refused(stage, text):
    (stage / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match="model.json: is (damaged|no descr).*:"):
        interop.load(stage)


def test_what_is_no_step_among_the_steps_is_left_alone(stage):
    steps = stage / "checkpoints"
    for name in ("012", "²", "5x", "030", "9" * 30):
        (steps / name).mkdir()
        with pytest.raises(CheckpointError, match="holds no model"):
            interop.load(steps / name)
    (steps / "40").write_text("")
    assert step_of(interop.load(stage)) == 20


def test_a_role_that_damaged_names_hide_is_looked_for_in_the_step_before(stage):
    """Of a version before nothing verifies the names of the leaves."""
    path = stage / "checkpoints" / "20" / "meta" / "metadata"
    path.write_text(sealed_away(path.read_text()).replace("/ema/", "/emb/"))
    assert step_of(interop.load(stage)) == 10


def sealed_away(text):
    return json.dumps({k: v for k, v in json.loads(text).items() if k != "digest"})


def test_a_stage_without_a_step_holds_no_model(stage):
    shutil.rmtree(stage / "checkpoints")
    with pytest.raises(CheckpointError, match="holds no model"):
        interop.load(stage)


def test_a_step_of_many_students_is_a_model_of_them(tmp_path):
    _, process = interop.build(SPEC)
    owners = partition.make(process=process, num_classes=0, num_ranges=2)
    stage = tmp_path / "students"
    checkpoints = Checkpoints(stage / "checkpoints")
    mesh = parallel.make_mesh(jax.devices()[:1])
    ema = jax.tree.map(lambda *x: np.stack(x), average(1), average(2))
    net = NetState(jax.tree.map(np.negative, ema), (), {"ema": ema})
    state = TrainState(np.int32([7, 7]), {"student": net}, {})
    checkpoints.save(7, parallel.by_student(state, mesh))
    checkpoints.close()
    spec = SPEC | {"partition": owners.to_spec()}
    about = {"spec": spec, "role": "student", "result": "ema"}
    (stage / "model.json").write_text(json.dumps(about))
    model = interop.load(stage)
    assert model.partition == owners
    for k in range(2):
        assert step_of(model.student(k)) == k + 1
