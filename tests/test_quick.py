"""Quick figures while a stage trains, and the best by them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import points
import pytest
from safetensors import numpy as safetensors

from configs import common, digits
from kdiff_jax import build, interop, metrics, recipe
from kdiff_jax.errors import CheckpointError, ConfigError, Interrupted, NumericsError
from kdiff_jax.interop.trees import flatten
from kdiff_jax.metrics import table
from kdiff_jax.partition import Partition
from kdiff_jax.report import curves, figures, metrics_log
from kdiff_jax.stages import compared, facts, grids, quick, training_plan
from kdiff_jax.stages.best import Best
from kdiff_jax.train import generate, label_protocols, measure, parallel, watchdog
from kdiff_jax.train.state import NetState, TrainState

NAME = "fd_pixels_n40_ema"
FIGURES = dict(figure_every=2, figure_images=40, figure_average="ema")
BEST = dict(FIGURES, result="best", best_by="fd")


def config(**train):
    """A teacher alone, with all that is to be scored of it."""
    teacher = digits.teacher(tiny=True)
    teacher["optim"] |= points.OPTIM
    teacher["train"] = dict(num_steps=6, batch_size=8) | train
    sections = points.sections()
    sections["train"] = dict(log_every=2, save_every=2, sample_every=100)
    found = common.config(
        "quick", order=("teacher",), stages=dict(teacher=teacher), **sections
    )
    return build.plain(found)


def run(workdir, found):
    recipe.run(found, workdir, devices=jax.devices()[:1])
    return workdir / "teacher"


def lines(folder, *, of_figures):
    found = metrics_log.read(folder / "metrics.jsonl")
    return [line for line in found if of_figures == ("figure_seconds" in line)]


def scores(folder):
    return {line["step"]: line[NAME] for line in lines(folder, of_figures=True)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder of a stage with figures, the programs that made its images)."""
    made, generator = [], grids.generator

    def watched(*args, **keywords):
        made.append(generator(*args, **keywords))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grids, "generator", watched)
        folder = run(tmp_path_factory.mktemp("whole"), config(**BEST))
    return folder, [one.program for one in made]


def test_what_takes_long_to_compile_has_a_name(tmp_path, monkeypatch):
    """So that a stage says what it compiles, see test_watchdog."""
    named, program = set(), watchdog.program

    def spy(name):
        named.add(name)
        return program(name)

    monkeypatch.setattr(watchdog, "program", spy)
    run(tmp_path, config(**FIGURES | dict(num_steps=2)))
    assert named == {"the initial state", "the step", "the sampler", "the features"}


def test_the_best_is_the_average_with_the_best_figure(whole):
    folder, _ = whole
    found = scores(folder)
    assert list(found) == [2, 4, 6] and np.isfinite(list(found.values())).all()
    best = facts(folder)["best"]
    step = min(found, key=found.get)
    assert (best["figure"], best["step"]) == ("fd_pixels", step)
    assert best["value"] == found[step] and best["num_images"] == 40
    leaves = safetensors.load((folder / "best.safetensors").read_bytes())
    model = flatten(interop.load(folder).params)
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, model[path])
    assert leaves.keys() == model.keys()
    (curve,) = (
        c
        for c in curves.curves(metrics_log.read(folder / "metrics.jsonl"))
        if c.name == NAME
    )
    assert curve.matters and figures.better(NAME) == "lower"
    assert "The best by fd_pixels: " in (folder / "model" / "README.md").read_text()


def test_a_figure_is_what_evaluating_the_model_gives(whole):
    folder, _ = whole
    model, best = interop.load(folder), facts(folder)["best"]
    make = generate.of_model(model, model.sampler(), mesh=one_device())
    labels = label_protocols.labels("arange", 40, 8, 1)
    pixels = metrics.make("pixels")
    seen, _ = measure.looked_at(
        make, model.students, pixels, seed=1, labels=labels, batch_size=7
    )
    job = recipe.make_job(config(), folder.parent, devices=jax.devices()[:1])
    needed = frozenset({"moments"})
    reference = compared.statistics(job, pixels, folder, needed)
    assert reference.provenance == best["compared_with"]
    found = table.measure(["fd"], pixels, seen, reference.seen)
    assert found == {"fd_pixels": pytest.approx(best["value"], rel=1e-5)}


def one_device():
    return parallel.make_mesh(jax.devices()[:1])


def test_all_figures_of_a_stage_are_one_trace(whole):
    _, programs = whole
    assert sum(program._cache_size() == 1 for program in programs) == 2  # and pictures


def test_figures_change_nothing_of_the_training(whole, tmp_path):
    folder, _ = whole
    other = run(tmp_path, config())
    watched = [lines(f, of_figures=False) for f in (folder, other)]
    for line in sum(watched, []):
        for clock in ("time", "train_seconds", "images_per_second"):
            del line[clock]
    assert watched[0] == watched[1] and not lines(other, of_figures=True)


@pytest.mark.parametrize("at", [2, 3])
def test_a_run_that_is_stopped_in_a_figure_has_the_same_best(
    whole, at, tmp_path, monkeypatch
):
    """At the last step, too, after which nothing is trained any more."""
    calls, looked_at = [], measure.looked_at

    def stops(*args, **keywords):
        calls.append(args)
        if len(calls) == at:
            raise Interrupted("stopped while sampling")
        return looked_at(*args, **keywords)

    monkeypatch.setattr(measure, "looked_at", stops)
    with pytest.raises(Interrupted):
        run(tmp_path, config(**BEST))
    folder = run(tmp_path, config(**BEST))
    assert len(calls) == 4 and scores(folder) == scores(whole[0])
    blobs = [(f / "best.safetensors").read_bytes() for f in (folder, whole[0])]
    assert blobs[0] == blobs[1]


def test_figures_of_students_are_of_all_on_any_devices(tmp_path, monkeypatch, caplog):
    """Each makes what it owns. An image that is not finite makes figures NaN."""
    values = []
    for num in (1, 8):
        job = recipe.make_job(config(**FIGURES), tmp_path, devices=jax.devices()[:num])
        (stage,) = job.stages
        plan = training_plan.prepare(job, stage)
        several = plan.students._replace(
            partition=Partition(tuple((y, y + 1) for y in (0, 2, 4, 6))),
            ids=(0, 1, 2, 3),
        )
        net = plan.roles.nets["student"]
        params = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 4))
        params = jax.tree.map(np.asarray, params)
        other = jax.tree.map(lambda x: x + 1, params)
        net = NetState(other, (), {"ema": params})
        state = TrainState(jnp.int32(0), {"student": net}, {})
        measured = quick.of_stage(job, stage, plan.roles, several)
        values.append(measured(state)["fd_pixels"])
    raw = measured._replace(average=None)(state)["fd_pixels"]
    assert abs(raw - values[0]) > 1e-3

    def fails(*args, **keywords):
        raise NumericsError("image 3 is NaN or infinite")

    monkeypatch.setattr(measure, "looked_at", fails)
    assert np.isnan(measured(state)["fd_pixels"]) and "image 3 is NaN" in caplog.text
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def state(*values):
    """A state of as many students, whose average is a number."""
    params = {"w": jnp.float32(values).reshape(-1, 1)}
    net = NetState(params, (), {"ema": jax.tree.map(lambda x: -x, params)})
    return types.SimpleNamespace(nets={"student": net})


@pytest.mark.parametrize(("higher", "step"), [(False, 4), (True, 6)])
def test_the_first_of_the_best_is_kept_and_nan_is_never_one(tmp_path, higher, step):
    keywords = dict(average="ema", higher=higher)
    best = Best(tmp_path, {"figure": "x"}, first_step=0, **keywords)
    offers = {2: float("nan"), 4: 1.0, 6: 3.0, 8: 1.0, 10: 3.0, 12: float("nan")}
    for at, value in offers.items():
        best.offer(at, state(at), value)
    params, about = best.params(state(0).nets["student"].params)
    assert about == {"step": step, "value": offers[step], "figure": "x"}
    np.testing.assert_array_equal(params["w"], [[-step]])

    again = Best(tmp_path, {"figure": "x"}, first_step=step, **keywords)
    again.offer(step + 2, state(1), offers[step])
    assert again.params(params)[1]["step"] == step


def test_the_best_of_several_students_is_that_of_a_step(tmp_path, caplog):
    best = Best(tmp_path, {"figure": "x"}, average=None, first_step=0)
    best.offer(2, state(1, 2), 1.0)
    params, _ = best.params(state(3, 4).nets["student"].params)
    found = parallel.to_host(params)  # as a stage that ends does
    np.testing.assert_array_equal(found["w"], [[1], [2]])
    # By something else it is none.
    other = Best(tmp_path, {"figure": "y"}, average=None, first_step=2)
    assert "is the best by something else" in caplog.text
    assert other.params(params) == (params, {}) and "last average" in caplog.text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(figure_images=5, figure_metrics=("fd", "prdc")), "needs 6 or more"),
        (
            dict(figure_metrics=("inception_score",)),
            "reads logits, and features=pixels",
        ),
    ],
)
def test_figures_that_cannot_be_are_one_line_before_anything_runs(
    changes, text, tmp_path
):
    job = recipe.make_job(config(**FIGURES | changes), tmp_path)
    with pytest.raises(ConfigError, match=f"figure_every=2: cannot measure, .*{text}"):
        recipe.missing(job)


def test_features_without_their_weights_are_left_out_or_no_best(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path))
    found = config(**FIGURES)
    found["evaluate"]["features"] = "resnet56"
    found["evaluate"]["weights"] = ""
    monkeypatch.setattr(compared, "missing", lambda options: "its weights are missing")
    recipe.missing(recipe.make_job(found, tmp_path))
    assert "figure_every=2: is left out: its weights are missing" in caplog.text
    found["stages"]["teacher"]["train"] |= BEST
    with pytest.raises(CheckpointError, match="'best': goes by a figure, and its"):
        recipe.missing(recipe.make_job(found, tmp_path))


@pytest.mark.parametrize("name", table.names())
def test_a_report_ranks_figures_the_way_their_metrics_say(name):
    for figure, way in table.better([name], "pixels").items():
        assert figures.better(figure) == way
