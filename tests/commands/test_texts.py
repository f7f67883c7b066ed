"""Conditions that are texts, from the table of their states to many students."""

import dataclasses
import json

import child
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import texts
import vectors

from kdiff_jax import domain, interop, plan, recipe
from kdiff_jax.diffusion import guidance
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.train import generate, parallel

ONE = jax.devices()[:1]
# Prompts, whose table is encoded, are told apart, routed and sampled in test_prompts.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two students of near texts, by guided distribution matching and guided pairs."""
    folder = tmp_path_factory.mktemp("run")
    config = texts.config(folder / "table.npy", num_groups=2, rule="pca")
    config.model.sampler.guidance = 2.0
    recipe.run(config, folder, devices=ONE)
    return folder


def stirred(folder):
    """The model of a stage with other weights: so few steps left the text unread."""
    model, rng = interop.load(folder), np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(model.params)
    leaves = [x + rng.normal(0, 0.3, x.shape).astype("f4") for x in leaves]
    return dataclasses.replace(model, params=tree.unflatten(leaves))


@pytest.fixture(scope="module")
def teacher(workdir):
    return stirred(workdir / "teacher")


def test_every_stage_leaves_what_it_leaves_of_labels(workdir):
    report = json.loads((workdir / "report.json").read_text())
    assert [row["stage"] for row in report["rows"]] == ["teacher", "student"]
    assert all(np.isfinite(list(row["metrics"].values())) for row in report["rows"])
    student = interop.load(workdir / "student")
    assert student.num_students == 2 and student.spec.cond_length == texts.LENGTH
    np.testing.assert_array_equal(student.frozen[domain.TABLE], texts.table())


def test_a_number_is_the_row_of_the_table_and_none_is_the_last(teacher):
    x_t, numbers = np.ones((4, 1, 1, 2), np.float32), np.array([0, 3, 7, -1])
    by_number = teacher.apply(x_t, 0.5, numbers)
    by_row = teacher.apply(x_t, 0.5, texts.table()[numbers])
    np.testing.assert_array_equal(by_number, by_row)
    assert len(np.unique(np.asarray(by_number)[:, 0, 0, 0])) == 4
    np.testing.assert_array_equal(teacher.apply(x_t, 0.5)[3], by_number[3])
    with pytest.raises(ConfigError, match="y=float32.4, 2.: labels are integers"):
        teacher.apply(x_t, 0.5, np.zeros((4, 2), np.float32))


def test_guidance_goes_away_from_the_empty_text_or_a_negative_one(teacher):
    """By hand: x0_hat(none) + w (x0_hat(text) - x0_hat(none))."""
    x_t, t = np.ones((3, 1, 1, 2), np.float32), np.full(3, 0.5, np.float32)
    numbers, negative = np.array([0, 3, 7]), np.array([5, 5, 1])
    prompt = teacher.net.conditions.take(teacher.frozen, jnp.asarray(numbers))

    def guided(prompt):
        def denoise(x_t, t, y):
            return teacher.net.apply(teacher.params, x_t, t, y)

        return guidance.guide(denoise, 2.0)(x_t, t, prompt)

    own = teacher.apply(x_t, t, numbers)
    for none, asked in (
        (np.full(3, -1), prompt),
        (negative, prompt._replace(null=texts.table()[negative])),
    ):
        free = teacher.apply(x_t, t, none)
        np.testing.assert_allclose(guided(asked), free + 2 * (own - free), atol=1e-6)
    kept = guidance.drop(jax.random.split(jax.random.key(0), 3), prompt, 1.0)
    np.testing.assert_array_equal(kept.cond, np.stack([texts.table()[-1]] * 3))


def test_a_text_that_the_table_has_not_goes_to_the_students_of_near_ones(workdir):
    student = stirred(workdir / "student")
    x_t, made = np.ones((1, 1, 1, 2), np.float32), []
    mesh = parallel.make_mesh(ONE)
    make = generate.of_model(student, student.sampler(), mesh=mesh)
    for owner, own in enumerate(student.partition.groups):
        new = texts.table()[list(own)].mean(0, keepdims=True)
        found = student.apply(x_t, 1.0, new)
        alone = student.student(owner).apply(x_t, 1.0, new)
        np.testing.assert_array_equal(found, alone)
        made.append(make.images(student.students, labels=new, seed=1, batch_size=1))
    assert (made[0] != made[1]).any()
    by_number = make.images(
        student.students, labels=np.array([6, 0]), seed=1, batch_size=2
    )
    by_row = make.images(
        student.students, labels=texts.table()[[6, 0]], seed=1, batch_size=2
    )
    np.testing.assert_array_equal(by_row, by_number)


def test_sample_takes_texts(workdir, tmp_path):
    np.save(tmp_path / "rows.npy", texts.table()[:3])
    np.save(tmp_path / "bad.npy", vectors.table())
    words = f"--checkpoint={workdir / 'student'}", "--num_images=4"
    lines = [
        [
            *words,
            f"--conditions={tmp_path / name}.npy",
            f"--output={tmp_path}/{name}.npz",
        ]
        for name in ("rows", "bad")
    ]
    (good, _, error), (bad, _, line) = child.run_lines("sample", lines)
    assert good == 0, error
    assert np.load(tmp_path / "rows.npz")["conditions"].shape == (4, 2, 3)
    assert bad == 3 and "give an .npy of f32[N, 2, 3], a row for each image" in line


@pytest.mark.parametrize(
    "method",
    [
        dict(name="progressive", guidance=2.0),
        dict(name="sid", guidance=2.0),
        dict(name="dmd2", gan_weight=0.0, guidance=2.0),
        dict(name="gdd", features=("teacher",), noise_levels=(0.5,), width=4),
    ],
    ids=lambda method: method["name"],
)
def test_other_methods_take_texts(method, tmp_path):
    """Losses and gradients on shapes, as a dry run counts them."""
    config = texts.config(tmp_path / "table.npy")
    config.stages.student.method = method
    config.stages.student.pairs = ""
    if method["name"] == "sid":
        del config.stages.student.sampler
    job = recipe.make_job(config, tmp_path / "run", devices=ONE)
    (stage,) = (s for s in job.stages if s.name == "student")
    needed = plan.needs(job, stage)
    assert needed.cost.macs(10) > 0


def test_a_table_without_the_empty_text_is_refused(tmp_path):
    config = texts.config(tmp_path / "table.npy")
    assert "8 texts of 2 vectors of 3 entries, 216 B, from" in plan.text(
        recipe.make_job(config, tmp_path / "run", devices=ONE)
    )
    np.save(tmp_path / "table.npy", texts.table()[:8])
    with pytest.raises(
        DataError, match=r"give an .npy of f32\[9, 2, 3\], last the empty"
    ):
        recipe.make_job(config, tmp_path / "run", devices=ONE)
