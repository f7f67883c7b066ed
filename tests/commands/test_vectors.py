"""Conditions that are vectors, from the file of the table to evaluated students."""

import dataclasses
import json
import re
import shutil

import child
import jax
import numpy as np
import pytest
import vectors

from kdiff_jax import build, domain, interop, metrics, partition, plan, recipe
from kdiff_jax.data import pairs
from kdiff_jax.errors import CheckpointError, ConfigError, DataError
from kdiff_jax.interop import convert
from kdiff_jax.metrics import stats
from kdiff_jax.stages import same_data
from kdiff_jax.train import generate, parallel, reference

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two students of near vectors, by distribution matching and pairs."""
    folder = tmp_path_factory.mktemp("run")
    config = vectors.config(folder / "table.npy", num_groups=2, rule="pca")
    recipe.run(config, folder, devices=ONE)
    return folder


@pytest.fixture(scope="module")
def by_kmeans(workdir, tmp_path_factory):
    """The same teacher and pairs, and students of the clusters of k-means."""
    folder = tmp_path_factory.mktemp("kmeans")
    for stage in ("teacher", "pairs"):
        shutil.copytree(workdir / stage, folder / stage)
    config = vectors.config(folder / "table.npy", num_groups=2, rule="kmeans")
    recipe.run(config, folder, devices=ONE)
    return folder


@pytest.fixture(scope="module", params=["pca", "kmeans"])
def split(request):
    """(rule, the run of two students of near vectors by it)."""
    name = {"pca": "workdir", "kmeans": "by_kmeans"}[request.param]
    return request.param, request.getfixturevalue(name)


def test_every_stage_leaves_what_it_leaves_of_labels(split):
    rule, folder = split
    found = pairs.open_pairs(folder / "pairs/train")
    np.testing.assert_array_equal(found.labels, np.arange(24) % 8)  # numbers
    report = json.loads((folder / "report.json").read_text())
    assert [row["stage"] for row in report["rows"]] == ["teacher", "student"]
    assert all(np.isfinite(list(row["metrics"].values())) for row in report["rows"])
    model = interop.load(folder / "student")
    about = dict(process=model.process, num_classes=8, num_groups=2)
    expected = partition.make(**about, rule=rule, embeddings=vectors.table())
    assert model.num_students == 2 and model.partition == expected


def test_the_command_gives_the_figures_of_the_stage(split, tmp_path):
    """Of both students, each asked for the vectors that it owns."""
    _, folder = split
    config = vectors.config(tmp_path / "table.npy")
    data = build.load_images(recipe.make_job(config, tmp_path, devices=ONE).recipe)
    seen = reference.of_images("mixture", data, metrics.make("pixels"), ())
    stats.save(tmp_path / "data.npz", seen)
    words = f"--reference={tmp_path / 'data.npz'}", "--num_images=16"
    code, text = child.run("evaluate", f"--checkpoint={folder / 'student'}", *words)
    assert code == 0, text
    row = json.loads(next(x for x in text.splitlines() if x.startswith("{")))
    (report,) = (
        row
        for row in json.loads((folder / "report.json").read_text())["rows"]
        if row["stage"] == "student"
    )
    assert row["metrics"] == pytest.approx(report["metrics"], rel=1e-4)
    assert row["num_students"] == 2 and row["nfe"] == report["nfe"] == 1


def test_a_number_is_the_row_of_the_table(workdir):
    model = interop.load(workdir / "teacher")
    x_t, t = np.ones((4, 1, 1, 2), np.float32), 0.5
    numbers = np.array([0, 3, 7, -1])
    rows = np.append(vectors.table(), np.zeros((1, vectors.DIM)), axis=0)[numbers]
    by_number, by_row = model.apply(x_t, t, numbers), model.apply(x_t, t, rows)
    np.testing.assert_array_equal(by_number, by_row)
    assert len(np.unique(np.asarray(by_number)[:, 0, 0, 0])) == 4
    np.testing.assert_array_equal(model.apply(x_t, t)[3], by_number[3])  # no condition
    with pytest.raises(ConfigError, match="y=float32.4, 2.: .*vectors have 3 entries"):
        model.apply(x_t, t, np.zeros((4, 2), np.float32))


def test_images_of_a_number_are_those_of_its_vector(workdir):
    model = interop.load(workdir / "teacher")
    mesh, labels = parallel.make_mesh(ONE), np.array([5, 2, 5, 0], np.int32)
    make = generate.of_model(model, model.sampler(num_steps=2), mesh=mesh, leave=_same)
    (made,) = make.batches(model.students, seed=3, labels=labels, batch_size=4)

    def denoise(x_t, t, y):
        return model.net.apply(model.params, x_t, t, y)

    sample = jax.jit(lambda z, y: make.sampler.sample(denoise, z, y))
    expected = sample(made.z, vectors.table()[labels])
    np.testing.assert_allclose(made.x0, expected, atol=1e-5)


def _same(x0):
    return x0


def test_a_step_of_a_stage_and_the_command_take_numbers(workdir, tmp_path):
    step, output = workdir / "student/checkpoints/2", tmp_path / "some.npz"
    arguments = f"--checkpoint={step}", f"--output={output}", "--num_images=6"
    code, text = child.run("sample", *arguments, "--labels=3,5-6")
    assert code == 0, text
    assert np.load(output)["labels"].tolist() == [3, 5, 6, 3, 5, 6]


@pytest.fixture(scope="module")
def new(split, tmp_path_factory):
    """(file of vectors that the table has not, the vectors), one near each group."""
    groups = interop.load(split[1] / "student/model").partition.groups
    rows = np.stack([vectors.table()[list(own)].mean(0) for own in groups])
    path = tmp_path_factory.mktemp("new") / "rows.npy"
    np.save(path, rows)
    return path, rows.astype(np.float32)


BAD = {  # why a file is refused -> what is in it, of the vectors that are asked for
    "rows of 2 entries": lambda rows: rows[:, :2],
    "no rows": lambda rows: rows[:0],
    "row 0 is not": lambda rows: rows * np.nan,
    r"float32\[3\]": lambda rows: rows[0],
    "<U": lambda rows: rows.astype(str),
    "missing": lambda rows: None,
}


@pytest.fixture(scope="module")
def sampled(split, new, tmp_path_factory):
    """(folder, answers of `sample`: to all students, to each alone, to bad files)."""
    (_, workdir), (path, rows) = split, new
    folder = tmp_path_factory.mktemp("sampled")
    words = f"--checkpoint={workdir / 'student'}", "--num_images=6"
    lines = [
        [*words, f"--conditions={path}", f"--output={folder}/{name}.npz", *more]
        for name, more in (("all", ()), (0, ["--student=0"]), (1, ["--student=1"]))
    ]
    for i, make in enumerate(BAD.values()):
        file, array = folder / f"bad_{i}.npy", make(rows)
        if array is not None:
            np.save(file, array)
        lines.append([*words, f"--conditions={file}", f"--output={folder / 'bad.npz'}"])
    both = f"--conditions={path}", "--labels=1", f"--output={folder / 'bad.npz'}"
    return folder, child.run_lines("sample", [*lines, [*words, *both]])


def test_sample_takes_vectors_and_each_goes_to_its_student(sampled, new):
    folder, answers = sampled
    assert [code for code, _, _ in answers[:3]] == [0, 0, 0], answers[:3]
    every, *alone = [np.load(folder / f"{name}.npz") for name in ("all", 0, 1)]
    assert set(every) == {"images", "conditions"}
    np.testing.assert_array_equal(every["conditions"], np.resize(new[1], (6, 3)))
    owner = np.arange(6) % 2
    for k, one in enumerate(alone):
        mine = owner == k
        np.testing.assert_array_equal(every["images"][mine], one["images"][mine])
        assert (every["images"][~mine] != one["images"][~mine]).any()


def test_vectors_that_are_none_are_refused_in_a_line(sampled):
    folder, answers = sampled
    *found, both = answers[3:]
    for (code, _, error), why in zip(found, BAD, strict=True):
        assert code == 3, error
        line = error.strip().splitlines()[-1]
        assert re.search(rf"--conditions='.*{why}.*give an .npy of f32\[N, 3\]", line)
    assert both[0] == 2 and "--labels and --conditions: give one" in both[2]
    assert not (folder / "bad.npz").exists()


def test_images_of_vectors_in_python_are_those_of_their_numbers(workdir):
    model, numbers = interop.load(workdir / "student"), np.array([7, 0, 3], np.int32)
    make = generate.of_model(model, model.sampler(), mesh=parallel.make_mesh(ONE))
    options = dict(seed=1, batch_size=4)
    by_number = make.images(model.students, labels=numbers, **options)
    rows = vectors.table()[numbers]
    by_row = make.images(model.students, labels=rows, **options)
    np.testing.assert_array_equal(by_row, by_number)


def test_a_vector_that_no_condition_has_is_routed(split):
    """The student that owns near vectors answers for it."""
    model = interop.load(split[1] / "student/model")
    x_t = np.ones((1, 1, 1, 2), np.float32)
    for owner, own in enumerate(model.partition.groups):
        new = vectors.table()[list(own)].mean(0, keepdims=True)
        assert not (new == vectors.table()).all(1).any()
        found = model.apply(x_t, 1.0, new)
        np.testing.assert_array_equal(found, model.student(owner).apply(x_t, 1.0, new))
        other = model.student(1 - owner).apply(x_t, 1.0, new)
        assert np.abs(found - other).max() > 0


def test_vectors_are_routed_to_the_nearest_centre_of_kmeans(workdir):
    model, table = interop.load(workdir / "student/model"), vectors.table()

    def owned(**rule):
        about = dict(process=model.process, num_classes=8, num_groups=2)
        return partition.make(**about, **rule)

    def routed(owners, rows):
        spec = model.spec.replace(partition=read_again(owners))
        return dataclasses.replace(model, spec=spec).group_of_vectors(rows).tolist()

    def read_again(owners):
        return partition.Partition.from_spec(json.loads(json.dumps(owners.to_spec())))

    owners = owned(rule="kmeans", embeddings=table)
    groups = owners.group_of(np.arange(8))
    assert routed(owners, table + 0.01) == groups.tolist()
    means = np.stack([table[groups == k].mean(0) for k in range(2)])
    assert routed(owners, means) == [0, 1]
    # Of the table itself the owner counts, though another centre may be nearer.
    swapped = owned(rule="table", table=tuple((1 - groups).tolist()))
    both = swapped._replace(splits=owners.splits)
    assert routed(both, table) == (1 - groups).tolist()
    assert routed(both, means) == [0, 1]
    assert routed(swapped, table) == (1 - groups).tolist()
    with pytest.raises(ConfigError, match="routes labels alone"):
        routed(swapped, means)


@pytest.mark.parametrize("damage", ["bit", "gone", "other"])
def test_the_table_of_a_model_is_verified(damage, workdir, tmp_path):
    folder = shutil.copytree(workdir / "teacher/model", tmp_path / "model")
    file = folder / interop.CONDITIONS
    if damage == "bit":
        blob = bytearray(file.read_bytes())
        blob[-1] ^= 1
        file.write_bytes(blob)
    elif damage == "gone":
        file.unlink()
    else:
        np.save(file, vectors.table()[:7])
    with pytest.raises(CheckpointError, match="conditions.npy: is (damaged|missing)"):
        interop.load(folder)


def test_another_table_is_refused(workdir, tmp_path):
    config = vectors.config(tmp_path / "table.npy", num_groups=2, rule="pca")
    np.save(tmp_path / "table.npy", vectors.table()[::-1])
    job = recipe.make_job(config, workdir, devices=ONE)
    with pytest.raises(ConfigError, match="teacher: was trained with another table"):
        job.model("teacher", "float32")
    data = build.load_images(job.recipe)
    with pytest.raises(DataError, match="conditions was sha256:"):
        same_data.check(job, data, force=False)


def test_a_converted_model_keeps_its_table(workdir, tmp_path):
    convert.run(workdir / "student/model", tmp_path / "one", student=1)
    model = interop.load(tmp_path / "one")
    np.testing.assert_array_equal(model.frozen[domain.TABLE], vectors.table())
    with pytest.raises(CheckpointError, match="target=diffusers: holds no table"):
        convert.run(workdir / "teacher/model", tmp_path / "other", "diffusers")
    assert not (tmp_path / "other").exists()


TABLE = vectors.table()


@pytest.mark.parametrize(
    "table, why",
    [
        (np.where(np.arange(8)[:, None] == 5, np.nan, TABLE), "row 5 is not finite"),
        (TABLE[:, 0], r"holds float32\[8\], not numbers"),
        (TABLE.astype(str), "holds <U"),
        (TABLE[:7], "has 7 rows, and the model 8 conditions"),
        (TABLE[:, :2], "has rows of 2 entries, and the model reads 3"),
        (np.float64(TABLE) * 1e300, "beyond float32"),
        (None, "cannot be read"),
    ],
)
def test_a_table_that_is_none_is_refused_before_anything(table, why, tmp_path):
    path = tmp_path / "table.npy"
    config = vectors.config(path)
    path.write_bytes(b"no array") if table is None else np.save(path, table)
    with pytest.raises(DataError, match=f"data.conditions=.*{why}.*give an .npy of"):
        recipe.make_job(config, tmp_path / "run", devices=ONE)  # also of a dry run


def test_a_table_that_is_missing_is_named(tmp_path):
    config = vectors.config(tmp_path / "table.npy")
    (tmp_path / "table.npy").unlink()
    job = recipe.make_job(config, tmp_path / "run", devices=ONE)
    assert "table.npy': is missing" in recipe.missing(job)
    config.data.conditions = ""
    with pytest.raises(ConfigError, match="model.cond_dim=3, data.conditions=''"):
        recipe.check_inputs(recipe.make_job(config, tmp_path / "run", devices=ONE))


@pytest.mark.parametrize(
    "model, why",
    [
        (dict(cond_dim=2), "cond_dim=2: the model has cond_dim=3"),
        (dict(num_classes=4), "num_classes=4: the model has num_classes=8"),
        (dict(image_shape=(1, 1, 3)), r"image_shape=\(1, 1, 3\): the model has"),
    ],
)
def test_a_student_of_other_conditions_than_its_teacher_is_refused(
    model, why, tmp_path
):
    config = vectors.config(tmp_path / "table.npy")
    config.stages.student.model = model
    with pytest.raises(ConfigError, match=f"--config.stages.student.model.{why}"):
        recipe.make_job(config, tmp_path / "run", devices=ONE)  # also of a dry run


def test_a_dry_run_tells_of_the_vectors(tmp_path):
    path = tmp_path / "table.npy"
    job = recipe.make_job(vectors.config(path), tmp_path / "run", devices=ONE)
    lines = plan.text(job).splitlines()
    assert f"conditions: 8 vectors of 3 entries, 96 B, from {path}" in lines


@pytest.mark.parametrize(
    "method",
    [
        dict(name="tsm", null_prob=0.5),
        dict(name="progressive", guidance=2.0),
        dict(name="sid", guidance=2.0),
        dict(name="dmd2", gan_weight=0.0, guidance=2.0),
        dict(name="gdd", features=("teacher",), noise_levels=(0.5,), width=4),
        dict(name="denoising_student"),
    ],
    ids=lambda method: method["name"],
)
def test_every_method_takes_vectors(method, tmp_path):
    """Its losses and gradients on shapes, as a dry run counts them."""
    config = vectors.config(tmp_path / "table.npy")
    config.stages.student.method = method
    if method["name"] == "sid":
        del config.stages.student.sampler
    if method["name"] != "denoising_student":
        config.stages.student.pairs = ""
    job = recipe.make_job(config, tmp_path / "run", devices=ONE)
    (stage,) = (s for s in job.stages if s.name == "student")
    needed = plan.needs(job, stage)
    assert needed.cost.macs(10) > 0
