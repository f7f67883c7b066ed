"""What a stage holds on a device, against arithmetic by hand."""

import jax
import numpy as np
import pytest
import recipes
import torch_resnet
import vectors

from kdiff_jax import build, interop, methods, plan, recipe
from kdiff_jax.networks.freeze import trains_with_frozen_convolutions
from kdiff_jax.stages import before
from kdiff_jax.train import measure


def make_job(config, folder):
    return recipe.make_job(config, folder, devices=jax.devices()[:1])


def stage_of(job, name="student"):
    (stage,) = (s for s in job.stages if s.name == name)
    return stage


def sizes(tree):
    """path -> number of its numbers."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def parameters(spec):
    net, _ = interop.build(spec)
    return sizes(jax.eval_shape(net.init, jax.random.key(0)))


def test_dmd2_holds_student_fake_score_head_and_teacher(tmp_path):
    job = make_job(recipes.load("digits_dmd2", "tiny"), tmp_path)
    n = sum(parameters(job.recipe.spec).values())
    # The head on 8 channels of 8x8 pixels: a convolution, a norm, a convolution over
    # the 4x4 that remain, a norm, a linear layer.
    head = (16 * 8 * 8 + 8) + 2 * 8 + (16 * 8 * 8 + 8) + 2 * 8 + (8 + 1)
    found = plan.held(job, stage_of(job))
    # Parameters and two moments, the student's average; a count of each Adam, and the
    # step.
    assert found.state == 4 * 3 * (n + n + head) + 4 * n + 4 * 3 + 4
    assert found.gradients == 4 * (n + head)  # of the phase "guidance"
    assert found.frozen == 4 * n
    # The teacher itself is learned from scratch, and nothing beside it.
    alone = plan.held(job, stage_of(job, "teacher"))
    assert alone == (4 * 4 * n + 4 + 4, 4 * n, 0, 0)


def test_frozen_leaves_have_no_moments_and_no_gradients(tmp_path):
    config = recipes.load("digits_gdd", "tiny")
    config.stages.student.method.freeze = True
    job = make_job(config, tmp_path)
    model = parameters(job.recipe.spec)
    n = sum(model.values())
    moving = sum(v for k, v in model.items() if trains_with_frozen_convolutions(k))
    assert 0 < moving < n
    stage = stage_of(job)
    net, process = interop.build(job.recipe.spec)
    keywords = dict(stage.method.keywords)
    nets = {"student": net, "teacher": net}
    method = methods.make("gdd", nets=nets, process=process, **keywords)
    disc = sizes(jax.eval_shape(method.nets["disc"].init, jax.random.key(0)))
    d = sum(disc.values())
    heads = sum(v for k, v in disc.items() if "/head_" in k)
    assert 0 < heads < d
    state = sum(sizes(method.carry).values())
    found = plan.held(job, stage)
    assert found.state == 4 * (2 * n + 2 * moving + d + 2 * heads + state + 2 + 1)
    assert found.gradients == 4 * max(moving, heads)
    assert found.frozen == 4 * n


def test_networks_of_files_count_with_and_without_the_file(tmp_path):
    config = recipes.load("cifar10_gdd", "tiny")
    method = config.stages.student.method
    method.features, method.feature_files = ("resnet56",), (str(tmp_path / "w.npz"),)
    job = make_job(config, tmp_path)
    weights = torch_resnet.random_weights(np.random.default_rng(0), num_blocks=9)
    # The teacher gives its weights, and nothing reads it afterwards.
    found = plan.held(job, stage_of(job))
    assert found.frozen == 4 * sum(array.size for array in weights.values())


def test_the_plan_says_what_is_held(tmp_path):
    config = recipes.load("digits_dmd2", "tiny")
    job = make_job(config, tmp_path)
    kept = config.train.keep + 3  # one that is good, the next, one being written
    training = [s for s in job.stages if s.kind == "train"]
    teacher, student = (plan.held(job, stage) for stage in training)
    disk = kept * (teacher.state + student.state)
    models = 2 * 4 * sum(parameters(job.recipe.spec).values())
    lines = plan.text(job).splitlines()
    assert (
        f"disk: {(disk + models) / 1e6:.3g} MB at most: checkpoints"
        f" {disk / 1e6:.3g} MB, models {models / 1e3:.3g} KB"
    ) in lines
    for stage in training:
        (line,) = (x for x in lines if x.startswith(f"  {stage.name}: "))
        needs, micro = plan.needs(job, stage), 8  # images of the one device
        memory = sum(needs.held) + micro * needs.cost.kept
        assert f" about {memory / 1e6:.3g} MB a device" in line


def test_conditional_gdd_on_cifar10_begins_from_the_conditional_teacher():
    config = build.plain(recipes.load("cifar10_gddi", "cond"))
    assert config["name"] == "cifar10_gddi_cond"
    assert config["init"]["teacher"].endswith("edm-cifar10-32x32-cond-ve.pkl")
    assert config["model"]["num_classes"] == 10 and config["data"]["use_labels"]
    plain = build.plain(recipes.load("cifar10_gddi"))
    assert plain["init"]["teacher"].endswith("edm-cifar10-32x32-uncond-ve.pkl")
    assert plain["model"]["num_classes"] == 0 and not plain["data"]["use_labels"]
    assert config["stages"] == plain["stages"]


def test_students_of_a_device_are_all_there_and_one_is_at_work(tmp_path):
    """Five of them: all states; gradients, teacher and activations once."""
    job = make_job(recipes.load("digits_msd", "tiny"), tmp_path)
    (line,) = (x for x in plan.text(job).splitlines() if x.startswith("  dm: "))
    n = sum(parameters(job.recipe.spec).values())
    assert f"5 students of {n / 1e6:.2f} M parameters (5 on a device in turn)" in line
    one = recipes.load("digits_msd", "tiny").unlock()
    one.partition.num_groups = 1
    (alone,) = (
        x
        for x in plan.text(make_job(one, tmp_path)).splitlines()
        if x.startswith("  dm: ")
    )
    state = plan.held(job, stage_of(job, "dm")).state
    megabytes = [float(x.split("about ")[1].split(" MB")[0]) for x in (line, alone)]
    assert megabytes[0] - megabytes[1] == pytest.approx(4 * state / 1e6, rel=0.02)


def test_evaluation_counts(tmp_path):
    """20 images: 35 evaluations of the teacher, by Heun's method; one of a student."""
    job = make_job(recipes.load("toy2d_msd", "tiny"), tmp_path)
    (line,) = (x for x in plan.text(job).splitlines() if x.startswith("  evaluate: "))
    specs = [before.spec(job, stage_of(job, name)) for name in ("teacher", "student")]
    teacher, student = (measure.macs(interop.build(spec)[0]) for spec in specs)
    flops = 2 * 20 * (35 * teacher + student)
    assert line.endswith(f"teacher, student, {flops:.2e} FLOP")


def test_training_counts_what_its_phases_do(tmp_path):
    """DMD2 in the plane: scores and gradients, the student every second step."""
    job = make_job(recipes.load("toy2d_msd", "tiny"), tmp_path)
    (line,) = (x for x in plan.text(job).splitlines() if x.startswith("  student: "))
    specs = [before.spec(job, stage_of(job, name)) for name in ("teacher", "student")]
    nets = [interop.build(spec)[0] for spec in specs]
    teacher, student = (measure.macs(net) for net in nets)
    teacher_grad, student_grad = (macs_of_gradient(net) for net in nets)
    steps, images, students = 4, 8, 4
    macs = steps * (student + teacher_grad)  # its images, the fake score
    macs += steps // 2 * (2 * teacher + student_grad)  # both scores, the student
    assert f" {2 * macs * images * students:.2e} FLOP, about " in line
    assert "at least" not in line


def macs_of_gradient(net):
    """Of a forward pass of one image, and of the backward pass to the parameters."""

    def gradient(params, x, t, y):
        return jax.grad(lambda params: net.apply(params, x, t, y).sum())(params)

    inputs = measure.forward(net)[1]
    return measure.macs_of(jax.make_jaxpr(gradient)(*inputs).jaxpr)


def test_both_layouts_are_told_of_also_where_there_is_one_device(tmp_path):
    job = make_job(recipes.load("toy2d_msd", "tiny"), tmp_path)
    stage = stage_of(job)
    found = plan.needs(job, stage)
    assert found.num_devices == 8
    replicated, parts = (found.layouts[name] for name in ("replicated", "zero1"))
    assert replicated == found.held
    # What is split is gathered for the losses; what is small is not split.
    assert parts.state < replicated.state and parts.gathered > replicated.gathered
    lines = plan.text(job).splitlines()
    place = next(i for i, x in enumerate(lines) if x.startswith("  student: "))
    students = 4  # their states lie on the device, and one is at work
    images = 8 / 8
    sizes = [
        sum(h) + (students - 1) * h.state + images * found.cost.kept
        for h in (replicated, parts)
    ]
    own = [f"{size / 1e6:.3g} MB" for size in sizes]
    assert lines[place + 1] == (
        f"    on 8 devices: {own[0]} each, with layout='zero1' {own[1]}"
    )


def test_copies_of_tables_take_disk(tmp_path):
    """One beside the checkpoints, one in the model folder, of each training stage."""
    config = vectors.config(tmp_path / "table.npy")
    job = make_job(config, tmp_path / "run")
    trained = [stage for stage in job.stages if stage.kind == "train"]
    size = 2 * len(trained) * np.load(tmp_path / "table.npy").nbytes
    disk = plan.text(job).splitlines()[-1]
    assert f"encoders and tables of conditions {size:.3g} B" in disk


def test_what_is_missing_is_a_line_each_with_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path))
    config = vectors.config(tmp_path / "table.npy", num_groups=2, rule="pca")
    job = make_job(config, tmp_path / "run")
    assert recipe.missing(job) == ""
    (tmp_path / "table.npy").unlink()
    del config.data["num_images"]
    config.data.name, config.data.path = "npz", str(tmp_path / "images.npz")
    config.init.teacher, config.teacher_hint = str(tmp_path / "teacher"), ": from there"
    config.hints = dict(path=": by asking", conditions=": by measuring")
    config.evaluate.features = "inception"
    job = make_job(config, tmp_path / "run")
    assert "student: dmd, 2 students" in plan.text(job)
    found = recipe.missing(job).splitlines()
    starts = "teacher: init.teacher=", "images.npz", "table.npy", "evaluate.features="
    ends = "from there", "by asking", "by measuring", ""
    assert len(found) == len(starts)
    for line, start, end in zip(found, starts, ends, strict=True):
        assert start in line and line.endswith(end), line
    assert "pytorch-fid" in found[-1] and "Apache-2.0" in found[-1]

    config.data.path = ""
    named, *others = recipe.missing(make_job(config, tmp_path / "run")).splitlines()[1:]
    assert named.startswith("data.path=None: npz needs a file")
    assert others == found[2:]
