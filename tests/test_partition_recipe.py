"""Recipes with several students: together, apart in jobs of a queue, and resumed."""

import collections
import json
import logging
import shutil

import chex
import jax
import jax.numpy as jnp
import jobs
import numpy as np
import orbax.checkpoint as ocp
import pytest
import recipes
import toy
from points import Features2x2, config, with_discriminators, with_rounds

from kdiff_jax import domain, interop, methods, plan, recipe
from kdiff_jax import partition as partitions
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import training, trees
from kdiff_jax.method import Numbers
from kdiff_jax.metrics import groups
from kdiff_jax.networks import channels, mlp
from kdiff_jax.partition import Partition
from kdiff_jax.report import metrics_log
from kdiff_jax.stages import rows as report_rows
from kdiff_jax.stages import students, training_plan
from kdiff_jax.stages.students import Students
from kdiff_jax.train import generate, loop, parallel

NUM_STEPS = 4


def run(workdir, *, only=None, **partition):
    """`only`: of the partition; a stage is named by the key `stage`."""
    stage = partition.pop("stage", None)
    partition |= {} if only is None else {"only": only}
    start(config(**partition), workdir, only=stage)


def start(config, workdir, **keywords):
    recipe.run(config, workdir, devices=jax.devices()[:1], **keywords)


def last_step(stage):
    return stage / "checkpoints" / str(NUM_STEPS)


def leaves(workdir):
    meta = last_step(workdir / "student") / "meta" / "metadata"
    return json.loads(meta.read_text())["leaves"]


def last_state(stage):
    """path -> array, of everything in the stage's last checkpoint."""
    meta = json.loads((last_step(stage) / "meta" / "metadata").read_text())
    array = ocp.RestoreArgs(restore_type=np.ndarray)
    wanted = ocp.args.PyTreeRestore(restore_args=dict.fromkeys(meta["leaves"], array))
    with ocp.PyTreeCheckpointer() as reader:
        return reader.restore((last_step(stage) / "state").absolute(), args=wanted)


def assert_same_students(found, expected):
    """Every leaf of every student, to 2e-5 of the largest number of its kind.

    A kind are a role's parameters, its averages, or its first or second moments. Of the
    parameters, whose size is about one, it is 2e-5; the squares of gradients are below
    that, all of them. One leaf alone may have come back to zero, but for rounding.
    """
    assert found.keys() == expected.keys()

    def kind(path):
        parts = path.split("/")
        return tuple(parts[: 5 if "opt_state" in parts else 3])

    largest = collections.defaultdict(float)
    for path, rows in expected.items():
        largest[kind(path)] = max(largest[kind(path)], np.abs(rows).max())
    for path, rows in expected.items():
        assert (found[path].shape, found[path].dtype) == (rows.shape, rows.dtype), path
        atol = 2e-5 * largest[kind(path)] if rows.dtype.kind == "f" else 0
        np.testing.assert_allclose(found[path], rows, rtol=0, atol=atol, err_msg=path)


def metrics(workdir):
    return metrics_log.read(workdir / "student" / "metrics.jsonl")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("together")
    run(workdir)
    return workdir


@pytest.fixture(scope="module")
def apart(together, tmp_path_factory):
    """Both students trained alone, not yet joined."""
    workdir = tmp_path_factory.mktemp("apart")
    shutil.copytree(together / "teacher", workdir / "teacher")
    for k in (1, 0):
        run(workdir, only=k)
    return workdir


def test_jobs_of_one_student_are_joined_by_the_same_command(
    together, apart, tmp_path, caplog
):
    workdir = shutil.copytree(apart, tmp_path / "joined")
    assert not (workdir / "student" / "model").exists()
    with caplog.at_level(logging.INFO, "kdiff_jax"):
        run(workdir)
    assert {
        *("student: student 0: 0 <= t <= 0.5", "student: student 1: 0.5 < t <= 1"),
        "student: joined 2 students",
    } <= {record.getMessage() for record in caplog.records}
    one, other = (interop.load(w / "student") for w in (workdir, together))
    assert one.partition == other.partition and one.num_students == 2
    joint = last_state(together / "student")
    assert_same_students(last_state(workdir / "student"), joint)
    # Each of them has learned: more than the beginning is the same.
    teacher = interop.load(together / "teacher").params
    begun = channels.select(teacher, other.student(0).params, "even")
    for path, value in trees.flatten(begun).items():
        for row in joint[f"nets/student/params/{path}"]:
            assert np.abs(row - value).max() > 1e-3, path
    report = json.loads((workdir / "report.json").read_text())
    assert [row["num_students"] for row in report["rows"]] == [1, 2]
    assert report["rows"][1]["train_seconds"] > 0
    logs = [metrics(w)[-1] for w in (workdir, together)]
    assert logs[0].keys() - {"images_per_second"} == logs[1].keys() - {
        "images_per_second"
    }
    assert logs[0]["tsm/loss"] == pytest.approx(logs[1]["tsm/loss"], rel=1e-4)
    # What it joined is what the jobs left, bit for bit.
    for k in range(2):
        alone = interop.load(apart / "student" / f"only_{k}").params
        jax.tree.map(np.testing.assert_array_equal, one.student(k).params, alone)


# By default jobs of one stage are joined, above, and later rounds begin with what a job
# left, in test_students_of_ranges_halve_their_own_steps.
@pytest.mark.slow
def test_jobs_of_several_stages_are_joined_by_the_same_command(tmp_path, monkeypatch):
    """Each job goes on from the stage before as its own student left it."""
    monkeypatch.setattr(mlp, "make", Features2x2)
    begun, run_loop = [], loop.run

    def watched(programs, state, **keywords):
        begun.append(jax.device_get(state.nets))
        return run_loop(programs, state, **keywords)

    monkeypatch.setattr(loop, "run", watched)
    together, apart = tmp_path / "together", tmp_path / "apart"
    start(with_discriminators(), together)
    for stage in ("teacher", "pairs"):
        shutil.copytree(together / stage, apart / stage)
    for k in (1, 0):
        start(with_discriminators(only=k), apart)
    start(with_discriminators(), apart)
    _, dm, adm, _, adm_1, _, adm_0, *_ = begun
    adms = jax.tree.map(lambda *rows: np.concatenate(rows), adm_0, adm_1)
    for stage, nets, roles in (
        ("dm", dm, {"student", "fake_score"}),
        ("adm", adm, {"student", "fake_score", "disc"}),
    ):
        joint = last_state(together / stage)
        assert_same_students(last_state(apart / stage), joint)
        assert nets.keys() == roles
        for role, net in nets.items():
            for path, rows in trees.flatten(net.params).items():
                moved = np.abs(joint[f"nets/{role}/params/{path}"] - rows)
                assert (moved.reshape(2, -1).max(axis=1) > 1e-3).all(), path
    assert "carry/mean_h" in joint
    # The second stage begins with the first's average, and its fake score as it was.
    for workdir, nets in ((together, adm), (apart, adms)):
        left = last_state(workdir / "dm")
        for role, kind in (("student", "ema/ema"), ("fake_score", "params")):
            for path, rows in trees.flatten(nets[role].params).items():
                same = left[f"nets/{role}/{kind}/{path}"]
                np.testing.assert_array_equal(rows, same, err_msg=path)


def test_a_student_alone_is_a_model_of_its_own(apart):
    found = interop.load(apart / "student" / "only_1")
    assert found.partition == partitions.ONE and found.num_students == 1
    in_progress = apart / "student" / "only_1" / "checkpoints" / str(NUM_STEPS)
    step = interop.load(in_progress)
    jax.tree.map(np.testing.assert_array_equal, step.params, found.params)


def test_students_differ_and_the_teacher_is_not_theirs(together):
    found = interop.load(together / "student")
    first, second = (jax.tree.leaves(found.student(k).params) for k in range(2))
    assert any((a != b).any() for a, b in zip(first, second, strict=True))


def test_a_resumed_run_ends_with_the_same_bits(together, tmp_path):
    """Everything after the checkpoint in the middle is gone, as after a kill."""
    workdir = shutil.copytree(together, tmp_path / "killed")
    stage = workdir / "student"
    shutil.rmtree(stage / "checkpoints" / str(NUM_STEPS))
    shutil.rmtree(stage / "model")
    (stage / "done.json").unlink()
    run(workdir)
    assert leaves(workdir) == leaves(together)
    paths = [w / "student" / "model" / "model.safetensors" for w in (workdir, together)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_role_of_one_student_has_the_shapes_of_its_network(together):
    job = recipe.make_job(config(), together, devices=jax.devices()[:1])
    model = interop.load(together / "teacher").params
    begun, each = job.role("teacher/student"), job.role("student/student")
    chex.assert_trees_all_equal_shapes(begun, model)
    assert {len(leaf) for leaf in jax.tree.leaves(each)} == {2}


def test_metrics_name_each_student(together):
    last = metrics(together)[-1]
    each = [last[f"tsm/loss/{k}"] for k in range(2)]
    assert last["tsm/loss"] == pytest.approx(np.mean(each))
    assert each[0] != each[1]


def test_a_student_that_is_missing_is_named(apart, tmp_path):
    workdir = shutil.copytree(apart, tmp_path / "missing")
    shutil.rmtree(workdir / "student" / "only_0")
    with pytest.raises(CheckpointError, match="students 0 of 2 are not done"):
        run(workdir)


def test_parts_are_joined_by_what_they_own(apart, tmp_path):
    """Other borders are refused."""

    def say(part, **partition):
        said = training.description(part)
        owners = Partition.from_spec(said.partition.to_spec() | partition)
        training.describe(part, said._replace(partition=owners))

    workdir = shutil.copytree(apart, tmp_path / "owned")
    part = workdir / "student" / "only_0"
    say(part, borders=[0.0, 0.4, 1.0])
    shutil.rmtree(workdir / "student" / "only_1")
    with pytest.raises(CheckpointError, match="only_0: is a student of another part"):
        run(workdir, only=1)
    assert not (workdir / "student" / "only_1").exists()
    shutil.copytree(apart / "student" / "only_1", workdir / "student" / "only_1")
    with pytest.raises(CheckpointError, match="only_0: is a student of another part"):
        run(workdir)
    say(part, borders=[0.0, 0.5, 1.0])
    # One job logged more often than the other.
    log = workdir / "student" / "only_1" / "metrics.jsonl"
    rows = metrics_log.read(log)
    metrics_log.write(log, [rows[0] | {"step": 1}, *rows])
    run(workdir)
    assert interop.load(workdir / "student").num_students == 2
    joined, other = metrics(workdir), metrics_log.read(part / "metrics.jsonl")
    assert [row["step"] for row in joined] == [row["step"] for row in rows]
    for mine, one, two in zip(joined, rows, other, strict=True):
        mean = (one["tsm/loss"] + two["tsm/loss"]) / 2
        assert mine["tsm/loss"] == pytest.approx(mean)
    card = (workdir / "student" / "model" / "README.md").read_text()
    assert "* student 1: 0.5 < t <= 1" in card


def test_students_begin_with_the_adapters_of_their_common_student(
    tmp_path, monkeypatch
):
    """`cifar10_o2mkd:cpu`: from random ones, features would undo what it knows."""
    two = config()
    two.stages.student.method.features = "fitnet"  # 4 channels of the teacher's 8
    two.stages.common = two.stages.student.copy_and_resolve_references()
    two.stages.common.partition = False
    two.stages.student.channels = ""
    two.stages.student.init = dict(student="common", adapters="common/adapters")
    two.order = ("teacher", "common", "student")
    begun, run_loop = [], loop.run

    def watched(programs, state, **keywords):
        begun.append(jax.device_get(state.nets))
        return run_loop(programs, state, **keywords)

    monkeypatch.setattr(loop, "run", watched)
    start(two, tmp_path)
    _, before, after = begun
    last = training.role(tmp_path / "common", "adapters")
    same = np.testing.assert_array_equal
    for k in range(2):
        mine = jax.tree.map(lambda x, k=k: x[k : k + 1], after["adapters"].params)
        jax.tree.map(same, mine, last)
    assert any(
        (a != b).any()
        for a, b in zip(
            jax.tree.leaves(before["adapters"].params),
            jax.tree.leaves(last),
            strict=True,
        )
    )


def test_roles_that_other_options_have_are_not_asked_for(tmp_path, caplog):
    """`:common` hands adapters on, and only features of "fitnet" have some."""
    two = config()
    two.stages.student.method.features = "relational"
    two.stages.common = two.stages.student.copy_and_resolve_references()
    two.stages.common.partition = False
    two.stages.student.channels = ""
    two.stages.student.init = dict(student="common", adapters="common/adapters")
    two.order = ("teacher", "common", "student")
    start(two, tmp_path)
    assert "student: init.adapters is not used, method 'tsm'" in caplog.text
    shutil.rmtree(tmp_path / "student")
    two.stages.student.method.features = "fitnet"
    with pytest.raises(CheckpointError, match="its roles are student; or set init.ada"):
        start(two, tmp_path, force=True)


def test_what_all_students_need_comes_first(tmp_path):
    with pytest.raises(ConfigError, match="'teacher' is not done.*--stage=teacher"):
        run(tmp_path, only=0)


def test_there_is_no_such_student(apart, tmp_path):
    workdir = shutil.copytree(apart, tmp_path / "none")
    with pytest.raises(ConfigError, match="only=2: there are 2 students, 0 to 1"):
        run(workdir, only=2)


def test_another_partition_in_the_same_folder_is_refused(together, tmp_path):
    workdir = shutil.copytree(together, tmp_path / "another")
    (workdir / "student" / "done.json").unlink()
    (workdir / "config.json").unlink()
    with pytest.raises(CheckpointError, match="another partition"):
        run(workdir, spacing="logsnr")


def test_a_stage_begun_on_another_machine_goes_on(tmp_path):
    """Thresholds of PCA differ there in their last bits, and once were not kept."""
    embeddings = np.arange(4.0)[:, None]
    found = partitions.make(
        process=processes.make("cosine"),
        num_classes=4,
        num_groups=2,
        rule="pca",
        embeddings=embeddings,
    )
    splits = found.splits._replace(thresholds=(float(np.nextafter(0.0, 1)),))
    other = found._replace(groups=((0, 2), (1, 3)))
    about = training.Description(jobs.SPEC, "student", "ema", found)
    for before in (found._replace(splits=splits), found._replace(splits=None)):
        training.describe(tmp_path, about._replace(partition=before))
        training_plan._check_begun(tmp_path, about)
        with pytest.raises(CheckpointError, match="another partition"):
            training_plan._check_begun(tmp_path, about._replace(partition=other))


def test_a_method_of_one_time_has_no_ranges(together, tmp_path):
    shutil.copytree(together / "teacher", tmp_path / "teacher")
    found = config()
    found.stages.student.method = dict(name="dmd2", gan_weight=0.0)
    with pytest.raises(ConfigError, match="num_ranges=2.*num_groups"):
        start(found, tmp_path, force=True)


def test_students_begin_with_channels_of_a_teacher_that_is_brought(together, tmp_path):
    found = config()
    found.init.teacher = str(together / "teacher")
    start(found, tmp_path)
    assert not (tmp_path / "teacher").exists()
    assert interop.load(tmp_path / "student").num_students == 2


def test_a_stage_that_needs_all_students_is_refused_to_one(apart, tmp_path):
    workdir = shutil.copytree(apart, tmp_path / "one")
    with pytest.raises(ConfigError, match="--stage=evaluate: needs all students"):
        run(workdir, only=0, stage="evaluate")
    assert not (workdir / "evaluate").exists()


def test_a_partition_that_is_none_is_refused_first(tmp_path):
    found = recipes.load("digits_msd", "tiny").unlock()
    found.partition.num_groups = 3
    with pytest.raises(ConfigError, match="num_groups=3"):
        start(found, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="num_groups=3"):
        plan.text(recipe.make_job(found, tmp_path))
    # What needs the teacher's rows is refused as far as it can be without them.
    for rule, num, ranges, text in (
        ("kmeans", 3, 1, "num_groups=3: must divide num_classes=10"),
        ("pca", 5, 1, "num_groups=5: median splits make a power of two"),
        ("pca", 2, 0, "num_ranges=0: must be 1 or more"),
    ):
        found.partition.update(rule=rule, num_groups=num, num_ranges=ranges)
        with pytest.raises(ConfigError, match=text):
            start(found, tmp_path)
    assert not list(tmp_path.iterdir())


def test_students_of_ranges_halve_their_own_steps(together, apart, tmp_path):
    workdir = shutil.copytree(together, tmp_path / "together")
    shutil.rmtree(workdir / "evaluate")
    start(with_rounds(), workdir, force=True)
    model = interop.load(workdir / "progressive_2")
    assert model.num_students == 2 and model.sampler().nfe == 2
    before = interop.load(workdir / "student")
    for k in range(2):
        leaves = [jax.tree.leaves(m.student(k).params) for m in (before, model)]
        change = max(float(abs(a - b).max()) for a, b in zip(*leaves, strict=True))
        assert 0 < change < 0.1  # it began with itself, and moved
    # Alone, from itself alone, a student becomes the same.
    jobs = shutil.copytree(apart, tmp_path / "apart")
    start(with_rounds(only=1), jobs, force=True)
    alone = interop.load(jobs / "progressive_2" / "only_1").params
    chex.assert_trees_all_close(alone, model.student(1).params, rtol=2e-5, atol=2e-5)


def test_the_steps_of_a_range_are_whole_ones(together, tmp_path):
    found = with_rounds()
    found.stages.progressive.rounds.end_steps = 1
    with pytest.raises(ConfigError, match="num_ranges=2.*progressive_1.*a power of"):
        start(found, tmp_path)
    # Rounds are of 4 and 8 steps, whatever their end is called.
    found = with_rounds(num_ranges=3)
    found.stages.progressive.rounds = dict(start_steps=16, end_steps=3)
    with pytest.raises(ConfigError, match="num_ranges=3.*8 steps of.*progressive_8"):
        start(found, tmp_path)
    with pytest.raises(ConfigError, match="spacing='logsnr'.*take spacing='even'"):
        start(with_rounds(spacing="logsnr"), tmp_path)
    # One round that is written by hand.
    found = with_rounds()
    del found.stages.progressive["rounds"]
    found.stages.progressive.settings = dict(num_steps=1)
    found.stages.progressive.sampler.num_steps = 1
    workdir = shutil.copytree(together, tmp_path / "by_hand")
    shutil.rmtree(workdir / "evaluate")  # its models are other ones now
    with pytest.raises(ConfigError, match="not of whole steps.*num_steps=1"):
        start(found, workdir, force=True)


@pytest.mark.parametrize(
    ("num_groups", "ranges", "labels"),
    [
        (1, [[0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1]], [[0, 1, 2, 3]] * 4),
        (2, [[0, 0.5], [0.5, 1]] * 2, [[0, 1], [0, 1], [2, 3], [2, 3]]),
    ],
)
def test_each_student_is_given_its_own_labels_and_range_of_the_times(
    num_groups, ranges, labels
):
    process = processes.cosine()
    split = partitions.make(
        process=process,
        num_classes=4,
        num_groups=num_groups,
        num_ranges=4 // num_groups,
    )
    method = methods.make("progressive", nets=toy.NETS, process=process)
    share = domain.whole(4, (0.0, 1.0))
    common = Numbers(share, jnp.int32(3), {"num_steps": np.int32(8)})
    mesh = parallel.make_mesh(jax.devices()[:1])
    for ids in ((0, 1, 2, 3), (2,)):
        found = Students(split, ids, mesh).numbers(process, method, common)
        assert found.share.t_range.tolist() == [ranges[k] for k in ids]
        assert found.share.conditions.tolist() == [labels[k] for k in ids]
        assert found.settings["num_steps"].tolist() == [8] * len(ids)
        assert found.num_steps.tolist() == [3] * len(ids)


def test_students_of_classes_and_times_are_one_model(together, tmp_path):
    """Student 2 group + range: of even or odd labels, of early or late times."""
    shutil.copytree(together / "teacher", tmp_path / "teacher")
    found = config(num_groups=2, rule="table", table=(0, 1) * 4)
    found.order = ("teacher", "student")
    start(found, tmp_path)
    model = interop.load(tmp_path / "student")
    assert model.num_students == 4
    y, t = (grid.ravel() for grid in np.meshgrid(np.arange(8), [0.2, 0.5, 0.8]))
    x_t = np.random.default_rng(0).standard_normal((len(y), 1, 1, 2))
    each = np.stack([model.student(k).apply(x_t, t, y) for k in range(4)])
    owner = 2 * (y % 2) + (t > 0.5)
    owned = each[owner, np.arange(len(y))]
    np.testing.assert_array_equal(model.apply(x_t, t, y), owned)
    apart = np.abs(each - owned[None]).max(axis=(2, 3, 4))
    assert (np.sort(apart, axis=0)[1:] > 1e-4).all()  # another's answer is another


@pytest.mark.slow  # by default: that rounds halve their own steps
def test_rounds_are_grouped_like_the_first_of_them(together, monkeypatch, tmp_path):
    """By k-means: the rows are the first teacher's, though a round's is the one before.

    That is not the recipe's teacher here, but a student of it.
    """
    asked = []

    def rows(params, num_classes):
        asked.append(params["dense_0"]["kernel"])
        return np.random.default_rng(0).standard_normal((num_classes, 4))

    monkeypatch.setattr(students, "class_rows", rows)
    found = with_rounds(num_ranges=1, num_groups=2, rule="kmeans")
    found.stages.student.partition = False
    found.stages.progressive.rounds.end_steps = 1
    workdir = tmp_path / "run"
    shutil.copytree(together / "teacher", workdir / "teacher")
    start(found, workdir, force=True)
    first = interop.load(workdir / "student").params["dense_0"]["kernel"]
    assert len(asked) == 2
    for kernel in asked:
        np.testing.assert_array_equal(kernel, first)
    assert interop.load(workdir / "progressive_1").num_students == 2


@pytest.mark.parametrize(
    ("only", "expected"), [(None, [0, 4, 1, 5]), (1, [4, 5, 6, 7])]
)
def test_pictures_in_a_run_are_of_what_its_students_own(
    together, tmp_path, monkeypatch, only, expected
):
    shutil.copytree(together / "teacher", tmp_path / "teacher")
    asked, images = [], generate.Generator.images

    def watched(self, params, *, labels, **keywords):
        asked.append(labels[:4].tolist())
        return images(self, params, labels=labels, **keywords)

    monkeypatch.setattr(generate.Generator, "images", watched)
    run(tmp_path, only=only, stage="student", num_ranges=1, num_groups=2)
    assert asked == [expected] * 2  # student and teacher


def test_the_report_shows_images_of_every_group(tmp_path):
    """Of 100 classes the first twenty would all be those of one student."""
    many = config(num_groups=2)
    many.model.num_classes = 100
    job = recipe.make_job(many, tmp_path, devices=jax.devices()[:1])

    def shown(names, num):
        labels = generate.cycled_labels(num, job.recipe.num_classes)
        return report_rows.shown_places(job, names, labels, num)

    assert shown(["teacher", "student"], 300).tolist() == list(range(20))  # not there
    owners = partitions.make(
        process=processes.make("cosine"), num_classes=100, num_groups=2
    )
    (tmp_path / "student").mkdir()
    about = training.Description(job.recipe.spec, "student", "ema", owners)
    training.describe(tmp_path / "student", about)
    assert shown(["teacher", "student@2"], 300)[:4].tolist() == [0, 50, 1, 51]
    assert shown(["teacher"], 300).tolist() == list(range(20))
    # Few classes come again, as other images.
    many.model.num_classes = 4
    job = recipe.make_job(many, tmp_path, devices=jax.devices()[:1])
    few = partitions.make(process=processes.make("cosine"), num_classes=4, num_groups=2)
    training.describe(tmp_path / "student", about._replace(partition=few))
    # Figures of parts are those of the students' classes, the teacher's too.
    parts = groups.of(
        "student", 4, report_rows.students_of(job, ["teacher", "student"])
    )
    assert {k: own.tolist() for k, own in parts.items()} == {"0": [0, 1], "1": [2, 3]}
    assert shown(["student"], 300)[:6].tolist() == [0, 2, 1, 3, 4, 6]
    assert sorted(shown(["student"], 300)) == list(range(20))
    assert sorted(shown(["student"], 7)) == list(range(7))


def test_a_damaged_part_is_named(apart, tmp_path):
    workdir = shutil.copytree(apart, tmp_path / "damaged")
    part = workdir / "student" / "only_0" / "checkpoints" / str(NUM_STEPS)
    (part / "meta" / "metadata").write_text("{")
    with pytest.raises(CheckpointError, match="only_0.*delete the folder"):
        run(workdir)


def test_many_students_are_no_teacher_and_no_single_student(together, tmp_path):
    for role in ("student", "teacher"):
        found = config()
        found.stages.student.partition, found.stages.student.channels = False, ""
        init = {"teacher": str(together / "teacher"), "student": "random"}
        found.stages.student.init = init | {role: str(together / "student")}
        with pytest.raises(CheckpointError, match=f"init.{role}.*holds 2 students"):
            workdir = shutil.copytree(together / "teacher", tmp_path / role / "teacher")
            start(found, workdir.parent)


@pytest.mark.slow
def test_a_student_begins_from_random_numbers_where_it_says_so(together, tmp_path):
    shutil.copytree(together / "teacher", tmp_path / "teacher")
    found = config()
    found.stages.student.init.student = "random"
    start(found, tmp_path)


def test_one_student_takes_what_the_run_of_all_has_left(together, tmp_path):
    workdir = shutil.copytree(together, tmp_path / "whole")
    run(workdir, only=1)
    assert not (workdir / "student" / "only_1").exists()
