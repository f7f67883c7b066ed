"""What Orbax lets through, we refuse: every kind of damage raises or falls back."""

import json
import random
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from kdiff_jax import sealed
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import steps as step_folders
from kdiff_jax.train import checkpoint, parallel
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.state import NetState, TrainState, with_axis, without_axis


def make_state(step, mesh):
    key = jax.random.key(step)
    params = {"a": jax.random.normal(key, (64, 32)), "b": {"c": jnp.arange(5.0)}}
    moments = (jnp.int32(step), jax.tree.map(jnp.square, params))
    average = {"ema": jax.tree.map(jnp.sin, params)}
    net = NetState(params, moments, average)
    state = TrainState(jnp.int32(step), {"student": net}, {"p": jnp.float32(0.5)})
    return parallel.by_student(with_axis(state), mesh)


@pytest.fixture(scope="module")
def mesh():
    return parallel.make_mesh()


@pytest.fixture(scope="module")
def original(tmp_path_factory, mesh):
    """Steps 10 and 20, written once and copied by each test."""
    folder = tmp_path_factory.mktemp("original") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step in (10, 20):
        checkpoints.save(step, make_state(step, mesh))
    checkpoints.close()
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "checkpoints")


def template(mesh):
    return parallel.abstract(jax.eval_shape(lambda: make_state_shapes()), mesh)


def make_state_shapes():
    params = {"a": jnp.zeros((64, 32)), "b": {"c": jnp.zeros(5)}}
    net = NetState(params, (jnp.int32(0), params), {"ema": params})
    state = TrainState(jnp.int32(0), {"student": net}, {"p": jnp.float32(0)})
    return with_axis(state)


def restore(folder, mesh, like=None):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore_latest(like or template(mesh))
    finally:
        checkpoints.close()


def data_files(step_folder):
    """Those with the arrays in them, the largest first."""
    files = [p for p in (step_folder / "state").rglob("*") if "d" in p.parts]
    files = [p for p in step_folder.rglob("d/*") if p.is_file()] or files
    return sorted(files, key=lambda p: -p.stat().st_size)


def test_a_round_trip_is_bit_equal_and_takes_the_newest(folder, mesh):
    state, step = restore(folder, mesh)
    assert step == 20
    chex.assert_trees_all_equal(state, make_state(20, mesh))


def test_no_checkpoint_is_no_state(tmp_path, mesh):
    assert restore(tmp_path / "empty", mesh) is None


@pytest.mark.parametrize("position", [0.3, 0.5, 0.7, 0.9])
def test_one_flipped_bit_is_found_and_the_step_before_is_taken(folder, mesh, position):
    for file in data_files(folder / "20")[:1]:
        blob = bytearray(file.read_bytes())
        blob[int(position * len(blob))] ^= 1
        file.write_bytes(blob)
    state, step = restore(folder, mesh)
    if step == 20:  # the bit lies in a part of the file that nothing is read from
        chex.assert_trees_all_equal(state, make_state(20, mesh))
    else:
        assert step == 10
        chex.assert_trees_all_equal(state, make_state(10, mesh))
        assert (folder / "damaged_20_0").is_dir()


def test_some_flipped_bit_is_not_left_to_orbax(folder, mesh):
    """The four positions above include bits that only our digests see."""
    fell_back = 0
    for file in data_files(folder / "20")[:1]:
        blob = file.read_bytes()
        for place in range(len(blob) // 4, len(blob), len(blob) // 5):
            file.write_bytes(
                blob[:place] + bytes([blob[place] ^ 4]) + blob[place + 1 :]
            )
            copy = shutil.copytree(folder, folder.parent / f"copy{place}")
            fell_back += restore(copy, mesh)[1] == 10
    assert fell_back


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: [f.write_bytes(f.read_bytes()[:100]) for f in data_files(d)[:1]],
        lambda d: [f.write_bytes(b"") for f in data_files(d)[:1]],
        lambda d: [f.unlink() for f in data_files(d)],
        lambda d: shutil.rmtree(d / "state"),
        lambda d: shutil.rmtree(d / "meta"),
        lambda d: (d / "meta" / "metadata").write_text('{"step": 2'),
        lambda d: [shutil.rmtree(d), d.mkdir()],
    ],
    ids=["truncated", "empty", "no data", "no state", "no meta", "torn", "empty step"],
)
def test_a_damaged_step_gives_way_to_the_one_before(folder, mesh, damage):
    damage(folder / "20")
    state, step = restore(folder, mesh)
    assert step == 10
    chex.assert_trees_all_equal(state, make_state(10, mesh))


def test_a_save_that_is_under_way_is_waited_for(tmp_path, mesh):
    checkpoints = Checkpoints(tmp_path)
    for step in (10, 20, 30):
        checkpoints.save(step, make_state(step, mesh))
        assert checkpoints.restore_latest(template(mesh))[1] == step
    checkpoints.close()


def test_the_number_of_a_damaged_step_can_be_saved_again(folder, mesh):
    shutil.rmtree(folder / "20" / "state")
    checkpoints = Checkpoints(folder)
    assert checkpoints.restore_latest(template(mesh))[1] == 10
    checkpoints.save(20, make_state(21, mesh))
    checkpoints.close()
    state, step = restore(folder, mesh)
    assert step == 20
    chex.assert_trees_all_equal(state, make_state(21, mesh))


def edit_meta(step, change, *, is_sealed=True):
    """Other metadata of a step: as this version writes it, or without a digest."""
    path = step / "meta" / "metadata"
    meta = sealed.parse(path.read_bytes())
    change(meta)
    path.write_text(json.dumps(sealed.seal(meta) if is_sealed else meta))


def test_no_flipped_bit_of_the_metadata_is_another_model(folder, mesh):
    checkpoints, chance = Checkpoints(folder), random.Random(0)
    path = folder / "20" / "meta" / "metadata"
    blob, expected, found = path.read_bytes(), make_state(20, mesh), 0
    for _ in range(40):
        flipped = bytearray(blob)
        flipped[chance.randrange(len(blob))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            state = checkpoints.restore(20, template(mesh))
            chex.assert_trees_all_equal(state, expected)
        except checkpoint._Damaged:
            found += 1
    checkpoints.close()
    assert found > 35


LEAF = "nets/student/params/a"
ODD_META = {
    "no leaves": lambda m: m.pop("leaves"),
    "no step": lambda m: m.pop("step"),
    "a text for leaves": lambda m: m.update(leaves="a"),
    "a number for a digest": lambda m: m["leaves"].update({LEAF: 3}),
    "no crc": lambda m: m["leaves"][LEAF].pop("rows"),
    "a text for a crc": lambda m: m["leaves"][LEAF].update(rows=["7"]),
    "rows": lambda m: m["leaves"].update({LEAF: m["leaves"][LEAF] | {"rows": [None]}}),
    "a shape of texts": lambda m: m["leaves"][LEAF].update(shape=[1, "64", 32]),
    "a dtype of null": lambda m: m["leaves"][LEAF].update(dtype=None),
    "another step": lambda m: m.update(step=10),
    "a step of text": lambda m: m.update(step="20"),
    "another shape": lambda m: m["leaves"][LEAF].update(shape=[1, 64, 33]),
    "another name": lambda m: m["leaves"].update(b=m["leaves"].pop(LEAF)),
}


@pytest.mark.parametrize("change", ODD_META.values(), ids=ODD_META)
def test_odd_metadata_of_a_version_before_gives_way_to_the_step_before(
    folder, mesh, change
):
    edit_meta(folder / "10", lambda meta: None, is_sealed=False)
    edit_meta(folder / "20", change, is_sealed=False)
    state, step = restore(folder, mesh)
    assert step == 10 and (folder / "damaged_20_0").is_dir()
    chex.assert_trees_all_equal(state, make_state(10, mesh))


def test_sealed_metadata_of_another_model_is_another_model(folder, mesh):
    for name in ("another shape", "another name"):
        edit_meta(folder / "20", ODD_META[name])
        with pytest.raises(CheckpointError, match="20 is of another model"):
            restore(folder, mesh)
    assert (folder / "20").is_dir()  # nothing is set aside


def test_what_is_no_step_among_the_steps_is_left_alone(folder, mesh):
    odd = ("012", "050", "5x", "²", "٣", "-3", "20 (copy)")
    for name in odd:
        (folder / name).mkdir()
    for name in ("notes", "x5"):
        (folder / name).write_text("")
    (folder / "25").write_text("a file, where a step would be")
    checkpoints = Checkpoints(folder)
    assert checkpoints.restore_latest(template(mesh))[1] == 20
    checkpoints.save(30, make_state(30, mesh))
    checkpoints.close()
    assert restore(folder, mesh)[1] == 30
    left = {path.name for path in folder.iterdir()}
    assert {*odd, "notes", "x5", "10", "20", "30", "damaged_25_0"} == left


def test_nothing_valid_is_not_a_fresh_start(folder, mesh):
    for step in (10, 20):
        shutil.rmtree(folder / str(step) / "state")
    with pytest.raises(CheckpointError, match="refusing to start from scratch"):
        restore(folder, mesh)


def test_another_dtype_is_refused_not_cast(folder, mesh):
    like = template(mesh)
    wrong = jax.tree.map(
        lambda x: (
            jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding)
            if x.shape == (1, 64, 32)
            else x
        ),
        like,
    )
    with pytest.raises(CheckpointError, match="'float32'.*expected.*'bfloat16'"):
        restore(folder, mesh, wrong)


def test_another_shape_names_the_leaves(folder, mesh):
    like = template(mesh)
    wider = jax.ShapeDtypeStruct((1, 64, 33), jnp.float32, sharding=like.step.sharding)
    like.nets["student"].params["a"] = wider
    with pytest.raises(
        CheckpointError, match="params/a is .*64, 32.*expected .*64, 33"
    ):
        restore(folder, mesh, like)


@pytest.mark.parametrize("num_devices", [1, 4])
def test_restores_on_another_number_of_devices(folder, num_devices):
    smaller = parallel.make_mesh(jax.devices()[:num_devices])
    state, _ = restore(folder, smaller, template(smaller))
    assert len(state.step.sharding.device_set) == num_devices
    expected = make_state(20, smaller)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_digests_are_in_the_step(folder):
    meta = json.loads((folder / "20" / "meta" / "metadata").read_text())
    assert meta["step"] == 20
    assert set(meta["leaves"]["nets/student/params/a"]) == {"shape", "dtype", "rows"}


def test_averages_of_roles_that_keep_none_are_dropped(tmp_path, mesh):
    """The first checkpoints held one of every role."""

    def state(fake_score_has_one):
        student = make_state(10, mesh).nets["student"]
        fake = student if fake_score_has_one else student.replace(ema={})
        nets = {"student": student, "fake_score": fake}
        return make_state(10, mesh).replace(nets=nets)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, state(True))
    checkpoints.close()
    like = parallel.abstract(state(False), mesh)
    found, step = restore(tmp_path, mesh, like)
    assert step == 10
    chex.assert_trees_all_equal(found, state(False))
    # Nothing else is dropped, and an average that is wanted must be there.
    without = Checkpoints(tmp_path / "without")
    without.save(10, state(False))
    without.close()
    like = parallel.abstract(state(True), mesh)
    with pytest.raises(CheckpointError, match="fake_score/ema/ema/a is missing"):
        restore(tmp_path / "without", mesh, like)


def test_the_good_step_moves_on_where_the_newest_go_before_they_are_known(
    tmp_path, mesh
):
    """Saves at every line of the log, each known to be good three lines later."""
    checkpoints = Checkpoints(tmp_path, keep=1, asynchronous=False)
    for step in range(1, 11):
        good = max(step - 3, 0)
        checkpoints.save(step, make_state(step, mesh), good=good)
        there = checkpoints.steps()
        assert there[-1] == step and len(there) <= 3
        assert not good or max(s for s in there if s <= good) >= good - 2
    checkpoints.close()
    folders = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())
    assert folders == there


def old_meta(step, digests):
    return sealed.seal({"step": step, "leaves": digests})


def as_of_old(folder, step, state):
    """Writes a step of one student as the first version did.

    Without an axis of students, and with one average, which has no name.
    """
    leaves = checkpoint._leaves(without_axis(state))
    leaves = {step_folders.stored_name(path, 1): leaf for path, leaf in leaves}
    assert "nets/student/ema/a" in leaves
    digests = {path: step_folders.digest(np.asarray(x)) for path, x in leaves.items()}
    with ocp.CheckpointManager(folder) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(leaves),
                meta=ocp.args.JsonSave(old_meta(step, digests)),
            ),
        )


def test_a_step_without_an_axis_of_students_gets_one(tmp_path, mesh):
    as_of_old(tmp_path, 10, make_state(10, mesh))
    state, step = restore(tmp_path, mesh)
    assert step == 10
    chex.assert_trees_all_equal(state, make_state(10, mesh))
    places = jax.tree.map(lambda a, b: a.sharding == b.sharding, state, template(mesh))
    assert all(jax.tree.leaves(places))
    # It goes on as any other, and its damage is found.
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(20, state)
    checkpoints.close()
    edit_meta(tmp_path / "10", lambda meta: meta["leaves"][LEAF].update(crc32=7))
    shutil.rmtree(tmp_path / "20")
    with pytest.raises(CheckpointError, match=f"{LEAF} differs from its checksum"):
        restore(tmp_path, mesh)


def test_one_student_of_old_is_not_several(tmp_path):
    mesh = parallel.make_mesh(jax.devices()[:2], num_students=2)
    as_of_old(tmp_path, 10, make_state(10, parallel.make_mesh()))
    two = jax.tree.map(lambda x: jnp.concatenate([x, x]), make_state_shapes())
    with pytest.raises(CheckpointError, match="step is .*expected .*2,"):
        restore(tmp_path, mesh, parallel.abstract(two, mesh))
