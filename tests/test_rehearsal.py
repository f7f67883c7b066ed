"""What a later stage would be refused for is refused before the first one starts."""

import logging

import drawn
import jax
import numpy as np
import points
import pytest
import recipes

from kdiff_jax import build, interop, methods, recipe
from kdiff_jax.errors import CheckpointError, ConfigError, DataError, UserError
from kdiff_jax.features import lpips, resnet56
from kdiff_jax.stages import rehearsal

PAIRS = dict(kind="pairs", num_pairs=32, num_held_out=8, shard_size=8, batch_size=8)


def config(method, **stage):
    """A teacher of points, and a student by a method."""
    recipes.load("digits_student", "tiny")
    from configs import common, digits

    sections = points.sections()
    sections["evaluate"] |= stage.pop("evaluate", {})
    sections["data"] |= stage.pop("data", {})
    sections["model"] |= stage.pop("model", {})
    student = dict(
        method=method,
        optim=dict(lr=1e-2),
        sampler=None,
        train=dict(num_steps=4, batch_size=12),
    )
    stages = dict(
        teacher=digits.teacher(tiny=True),
        pairs=PAIRS,
        student={k: v for k, v in (student | stage).items() if v is not None},
        evaluate=dict(kind="evaluate", models=("student",)),
    )
    return build.plain(
        common.config("late", order=tuple(stages), stages=stages, **sections)
    )


def refused(found, workdir, kind=ConfigError) -> str:
    """The one line of a run and of a dry run; nothing is left of either."""
    lines = []
    for act in (recipe.check_inputs, recipe.missing):
        with pytest.raises(UserError) as caught:
            act(recipe.make_job(found, workdir, devices=jax.devices()[:1]))
        assert type(caught.value) is kind, caught.value
        lines.append(str(caught.value))
    assert lines[0] == lines[1] and "\n" not in lines[0]
    assert not workdir.exists()
    return lines[0]


@pytest.mark.parametrize(
    ("method", "stage", "start"),
    [
        (
            dict(name="tsm", features="relational", relation_group=5),
            {},
            ".method.relation_group=5: must be at least 2 and divide the 12 images",
        ),
        (
            dict(name="tsm", features="relational"),
            dict(train=dict(num_steps=4, batch_size=12, num_microbatches=2)),
            ".method.relation_group=4: must be at least 2 and divide the 6 images",
        ),
        (
            dict(name="gdd", virtual_local_batch=5, noise_levels=(1.0,), width=4),
            {},
            ".method.virtual_local_batch=5: does not divide the 12 images of one",
        ),
        (dict(name="tsm", weight="nonsense"), {}, ".method.weight='nonsense': unkn"),
        (dict(name="tsm", times="never"), {}, ".method"),
        (dict(name="dmd2"), {}, ".method.name=dmd2: features of 1x1: the discrim"),
        (dict(name="dmd2", f_divergence="x"), {}, ".method.f_divergence='x': unk"),
        (
            dict(name="dmd", distance="lpips"),
            dict(pairs="pairs"),
            ".method.lpips_weights=None: LPIPS needs its file; give",
        ),
        (dict(name="tsm"), dict(roles=dict(adapter=dict(lr=1.0))), ".roles.adapter: "),
        (dict(name="dmd2"), dict(roles=dict(fake=dict(lr=1.0))), ".roles.fake: the me"),
        (dict(name="tsm"), dict(init=dict(studnet="teacher")), ".init.studnet: the m"),
    ],
)
def test_what_a_method_cannot_do(method, stage, start, tmp_path):
    found = config(method, **stage)
    if ".roles" in start or ".init" in start:  # seen without the method
        with pytest.raises(ConfigError) as caught:
            recipe.make_job(found, tmp_path / "w", devices=jax.devices()[:1])
        line = str(caught.value)
        assert "has no such role; name one of student, " in line
    else:
        line = refused(found, tmp_path / "w")
    assert line.startswith(f"--config.stages.student{start}")


def test_what_is_right_is_traced_once(tmp_path, monkeypatch, caplog):
    """Of rounds and of runs that differ in nothing, one; nothing is said of it."""
    method = dict(name="tsm", features="relational", relation_group=3)
    job = recipe.make_job(config(method), tmp_path / "w", devices=jax.devices()[:1])
    traced, trace = [], rehearsal._trace
    monkeypatch.setattr(rehearsal, "_passed", set())
    monkeypatch.setattr(
        rehearsal, "_trace", lambda *given: traced.append(1) or trace(*given)
    )
    with caplog.at_level(logging.DEBUG, logger="kdiff_jax.stages"):
        for _ in range(2):
            recipe.check_inputs(job)
    assert len(traced) == 2 and "cannot be traced" not in caplog.text  # two stages


@pytest.mark.parametrize("damage", ["absent", "cut", "another"])
def test_files_of_a_loss(damage, tmp_path):
    file = tmp_path / "vgg.pth"
    if damage != "absent":
        np.savez(tmp_path / "x.npz", a=np.zeros(2))
        content = (tmp_path / "x.npz").read_bytes()
        file.write_bytes(content[:-40] if damage == "cut" else content)
    method = dict(name="dmd", distance="lpips", lpips_weights=str(file))
    found = config(method | dict(lpips_heads=str(file)), pairs="pairs")
    line = refused(found, tmp_path / "w", CheckpointError)
    assert line.startswith(f"--config.stages.student.method.lpips_weights={file}: ")
    assert lpips.backbone("vgg").wanted in line


def test_files_of_a_discriminator(tmp_path):
    found = recipes.load("cifar10_gdd", "tiny")
    method = found.stages.student.method
    method.features, method.feature_files = ("resnet56",), ("/no/r.npz",)
    line = refused(found, tmp_path / "w", CheckpointError)
    start = "--config.stages.student.method.feature_files=/no/r.npz: no such file; give"
    assert line.startswith(start)


@pytest.mark.parametrize(
    ("evaluate", "words", "kind"),
    [
        (
            dict(features="resnet56", weights="/no/file.npz"),
            "weights=/no/file.npz: no such file; give",
            CheckpointError,
        ),
        (dict(weights="/no/file.npz"), "weights=/no/file.npz: pixels", ConfigError),
        (
            dict(preprocessing="clean"),
            "preprocessing='clean': unknown; choose one of default",
            ConfigError,
        ),
        (
            dict(metrics=("fd", "inception_score")),
            "metrics=inception_score: reads logits, and features=pixels has none",
            ConfigError,
        ),
        (
            dict(metrics=("prdc",), num_images=5),
            "num_images=5: metrics=prdc needs 6 or more",
            ConfigError,
        ),
        (dict(metrics=("fd", "fid")), "metrics='fid': unknown; choose", ConfigError),
        (dict(metrics=("fd", "fd")), "metrics=fd,fd: name each once, of", ConfigError),
        (dict(per="student"), "per=student: one student owns all", ConfigError),
        (dict(seed=2**32 - 1, seeds=2), "seeds=2: from seed 4294967295", ConfigError),
    ],
)
def test_files_of_an_evaluation(evaluate, words, kind, tmp_path):
    line = refused(config(dict(name="tsm"), evaluate=evaluate), tmp_path / "w", kind)
    assert line.startswith(f"--config.evaluate.{words}")


def test_features_of_other_images(monkeypatch, tmp_path):
    monkeypatch.setattr(resnet56, "load", lambda path: {})
    (tmp_path / "file").touch()
    evaluate = dict(features="resnet56", weights=str(tmp_path / "file"))
    found = config(dict(name="tsm"), evaluate=evaluate)
    line = refused(found, tmp_path / "w")
    assert line.startswith("--config.evaluate.features=resnet56: reads images of 3 ")


def test_a_single_image_has_no_covariance(tmp_path):
    found = config(
        dict(name="tsm"),
        data=dict(num_images=1, num_classes=1),
        model=dict(num_classes=0),
    )
    line = refused(found, tmp_path / "w", DataError)
    assert "has no covariance; give two, or set --config.evaluate.features=''" in line


def test_no_labels_are_drawn_for_a_model_without_classes(tmp_path):
    found = config(
        dict(name="tsm"),
        evaluate=dict(features="", labels="random"),
        model=dict(num_classes=0),
    )
    line = refused(found, tmp_path / "w")
    assert line.startswith("--config.evaluate.labels=random: the model knows no")


def test_a_teacher_that_is_brought_is_what_its_file_says(tmp_path):
    found = config(dict(name="tsm", features="fitnet"))
    spec = points.sections()["model"] | dict(num_classes=3)
    net, _ = interop.build(spec)
    folder = interop.save(tmp_path / "t", params=drawn.params(net), spec=spec)
    found["init"]["teacher"] = str(folder)
    line = refused(found, tmp_path / "w")
    assert "init.teacher is a model with num_classes=3, the config has" in line
    (folder / "config.json").write_text("{}")
    refused(found, tmp_path / "w", CheckpointError)


def test_a_section_of_a_role_that_is_switched_off_is_named(tmp_path, caplog):
    method = dict(name="dmd2", gan_weight=0.0)
    found = config(method, roles=dict(disc=dict(lr=1.0)))
    job = recipe.make_job(found, tmp_path / "w", devices=jax.devices()[:1])
    recipe.check_inputs(job)
    assert "roles.disc is not used, method 'dmd2' with these options" in caplog.text


def test_methods_name_their_roles():
    known = {name: methods.roles(name) for name in methods.names()}
    assert known["dmd2"] == ("student", "fake_score", "disc")
    assert known["tsm"] == ("student", "adapters")
    assert known["denoise"] == ("student", "text_encoder")


def test_held_out_pairs_that_never_count_are_said(tmp_path, caplog):
    found = config(
        dict(name="denoising_student"),
        pairs="pairs",
        optim=dict(lr=1e-2, ema_decay=0.5),
        sampler=dict(name="ddim", num_steps=1),
        train=dict(num_steps=4, batch_size=6, result="best"),
    )
    recipe.check_inputs(
        recipe.make_job(found, tmp_path / "w", devices=jax.devices()[:1])
    )
    assert (
        "num_held_out=8: 2 of them fill no batch of 6, and never count" in caplog.text
    )
