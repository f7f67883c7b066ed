"""The examples of docs/add_a_*.md do what the pages say."""

import pathlib
import re

import jax
import jax.numpy as jnp
import jobs
import numpy as np
import points
import pytest
import toy
from jobs import NONE

from kdiff_jax import interop, methods, metrics, recipe, rng, samplers
from kdiff_jax.diffusion import grids
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Context
from kdiff_jax.metrics import table
from kdiff_jax.metrics.seen import Seen, of_rows
from kdiff_jax.named import Named
from kdiff_jax.report import metrics_log
from kdiff_jax.stages import rows
from kdiff_jax.train import parallel

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "add_a_method.md"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The method is in the package; the section of the config."""
    module, config = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    assert len(module.splitlines()) < 50
    (tmp_path / "consistency.py").write_text(module)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    found: dict = {}
    exec(config, found)
    return found["student"]


def loss_at(step, num_steps, levels):
    """(value, the same by hand) with parameters that are not those of the average."""
    process, net = cosine(), toy.NETS["student"]
    method = methods.make(
        "consistency", nets=toy.NETS, process=process, first_levels=2, last_levels=8
    )
    params, target = (net.init(jax.random.key(k)) for k in (1, 2))
    keys, batch = rng.example_keys(jax.random.key(0), 0, jnp.arange(8)), toy.batch(0)
    ema = {"student": {"target": target}}
    ctx = Context({}, ema, {}, {}, batch, keys, toy.SHARE, step, num_steps)
    value, aux = method.phases[0].loss({"student": params}, ctx)
    assert aux.metrics["levels"] == levels

    grid = grids.make(process, 8)[::-1][:: 8 // levels]
    i = np.asarray(rng.randint(keys, "i", levels))
    s, t = (jnp.float32(grid[i + k]) for k in (0, 1))
    eps = rng.normal(keys, "eps", toy.SHAPE)
    now, before = (
        net.apply(p, process.add_noise(batch["x0"], eps, u), u, batch["y"])
        for p, u in ((params, t), (target, s))
    )
    return value, np.mean((np.asarray(now) - before) ** 2)


@pytest.mark.parametrize(("step", "levels"), [(0, 2), (35, 4), (99, 8)])
def test_the_loss_is_that_of_neighbours_on_the_grid_of_the_step(page, step, levels):
    found, expected = loss_at(jnp.int32(step), jnp.int32(100), levels)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_it_trains_with_its_average(page, tmp_path):
    points.recipes.load("digits_student", "tiny")
    from configs import common

    page["method"] |= dict(first_levels=2, last_levels=8)
    page["train"] |= dict(num_steps=40, batch_size=16, log_every=10)
    config = common.config(
        "consistency",
        order=("student",),
        stages=dict(student=page),
        init={},
        **points.sections(),
    )
    recipe.run(config, tmp_path / "run", devices=jax.devices()[:1])
    lines = metrics_log.read(tmp_path / "run" / "student" / "metrics.jsonl")
    assert [line["consistency/levels"] for line in lines][-1] == 8
    model = interop.load(tmp_path / "run" / "student")
    assert model.sampler().nfe == 1

    config.stages.student.optim.averages = {}
    with pytest.raises(ConfigError, match="'consistency' reads the moving average"):
        recipe.run(config, tmp_path / "other", devices=jax.devices()[:1])


def test_a_report_calls_its_models_teachers_because_its_file_says_so(page, tmp_path):
    made_by = dict(base="consistency", other="denoise", fast="dmd2")
    stages = [jobs.training(k, method=Named(v, NONE)) for k, v in made_by.items()]
    job = jobs.job(stages, tmp_path, parallel.make_mesh(jax.devices()[:1]))
    called = [rows.role_of(job, name) for name in (*made_by, "folder/of/a/model")]
    assert called == ["teacher", "teacher", "student", "teacher"]


@pytest.fixture
def momentum(tmp_path, monkeypatch):
    """The sampler of the other page is in the package."""
    (module,) = re.findall(
        r"```python\n(.*?)```", (DOCS / "add_a_sampler.md").read_text(), flags=re.S
    )
    (tmp_path / "momentum.py").write_text(module)
    monkeypatch.setattr(samplers, "__path__", [*samplers.__path__, str(tmp_path)])


def test_the_sampler_of_the_page(momentum):
    process, net = cosine(), toy.NETS["student"]
    params = net.init(jax.random.key(0))
    z, y = toy.batch(0)["z"], toy.batch(0)["y"]

    def made(name, **keywords):
        sampler = samplers.make(name, process=process, num_steps=4, **keywords)
        assert len(samplers.asked_times(sampler)) == sampler.nfe == 4
        return sampler.sample(lambda *asked: net.apply(params, *asked), z, y)

    plain = made("ddim")
    np.testing.assert_allclose(made("momentum", momentum=0.0), plain, atol=1e-6)
    assert np.abs(made("momentum", momentum=0.5) - plain).max() > 1e-4
    one = samplers.make("momentum", process=process, num_steps=1, guidance=2.0)
    assert one.nfe == 2 and one.name == "momentum"
    with pytest.raises(ConfigError, match="momentum=2.0: must lie in"):
        samplers.make("momentum", process=process, num_steps=4, momentum=2.0)


def test_a_sampler_that_asks_by_itself_says_so(momentum):
    ranges = samplers.Ranges(lambda i: None, lambda times: np.zeros(len(times), int))
    with pytest.raises(ConfigError, match="outside of `scan_grid`.*add_a_sampler.md"):
        ranges(None, None, None)


def test_the_metric_of_the_page(tmp_path, monkeypatch):
    (module,) = re.findall(
        r"```python\n(.*?)```", (DOCS / "add_a_metric.md").read_text(), flags=re.S
    )
    (tmp_path / "mahalanobis.py").write_text(module)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    assert "mahalanobis" in table.names()
    draw = np.random.default_rng(0).normal
    spread = np.array([1.0, 5.0, 0.0])  # a variance of 0 does not count

    def measured(rows):
        found, pixels = Seen(None, np.float32(rows)), metrics.make("pixels")
        reference = Seen(of_rows(draw(size=(4000, 3)) * spread))
        return table.measure(["mahalanobis"], pixels, found, reference, bootstrap=9)

    found = measured(draw(size=(4000, 3)) * spread)
    (name, low, high) = found
    assert name == "mahalanobis_pixels" and low == "mahalanobis_pixels_low"
    np.testing.assert_allclose(found[name], 1, atol=0.1)
    assert found[low] < found[name] < found[high]
    away = measured(draw(size=(4000, 3)) * spread + [2.0, 0.0, 0.0])
    np.testing.assert_allclose(away[name], 1 + 4 / 2, atol=0.1)


def test_a_teacher_and_a_student_are_trained_from_python(tmp_path, monkeypatch):
    text = (DOCS / "train_from_python.md").read_text()
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        exec(block, found)
    turn = np.pi / 2 * np.asarray(found["y"])
    centres = 0.5 * np.stack([np.cos(turn), np.sin(turn)], axis=-1)[:, None, None]

    def error(points):
        return np.sqrt(np.mean((np.asarray(points) - centres) ** 2))

    assert error(found["points"]) < 0.15
    begun = found["sample"](found["teacher"], name="ddim", num_steps=1)
    assert error(found["made"]) < 0.9 * error(begun)
    np.testing.assert_allclose(found["again"], found["made"], atol=1e-5)
    assert found["model"].sampler().nfe == 1
