"""Values of a config: what is refused before anything starts, and in which words."""

import copy
import inspect
import json
import math
import random

import jax
import pytest
import recipes
from absl import flags
from ml_collections import config_flags

from kdiff_jax import build, main, plan, recipe
from kdiff_jax.build import plain, sections, stage_sections
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop import Spec
from kdiff_jax.stages import rehearsal

RECIPES = ("toy2d_msd", "digits_student", "digits_gdd", "digits_progressive")
VALUES = (
    *(-1, 0, 1, 3, 2**40, -0.5, 0.5, 1e30, math.nan, math.inf, -math.inf),
    *("", "nonsense", None, True, False, (), (0,), (1, 2), {}, {"nonsense": 1}),
)


def test_a_stage_that_evaluates_takes_what_the_section_takes():
    stage, section = (
        inspect.signature(kind).parameters
        for kind in (stage_sections.EvaluateStage, sections.Evaluate)
    )
    assert {name: stage[name] for name in section} == dict(section)


def job_of(config, workdir):
    return recipe.make_job(config, workdir, devices=jax.devices()[:1])


def leaves(tree, path=()):
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


def changed(config, path, value):
    config = copy.deepcopy(config)
    section = config
    for key in path[:-1]:
        section = section[key]
    old = section.get(path[-1])
    if isinstance(old, float) and type(value) is int:
        value = float(value)  # as the command line does
    section[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("stages.student.optim.lr", -1.0, "must be above 0"),
        ("stages.student.optim.lr", math.nan, "must be above 0"),
        ("stages.student.optim.lr", math.inf, "must be above 0, and finite"),
        ("stages.student.optim.b1", 1.0, "must lie in [0, 1); the default is 0.9"),
        ("stages.student.roles", {"student": {"lr": 0.0}}, ""),
        ("stages.student.train.num_steps", 0, "must be 1 or more"),
        ("train.num_microbatches", 0, "must be 1 or more; the default is 1"),
        ("train.save_every", -5, "must be 1 or more; the default is 5000"),
        ("train.save_every", 2.5, "must be a whole number; the default is 5000"),
        ("train.keep", True, "must be a whole number; the default is 2"),
        ("stages.pairs.shard_size", -16, "must be 1 or more"),
        ("stages.pairs.sampler.num_steps", 0, "must be 1 or more"),
        ("stages.student.method.loss", 1, "must be text; the default is 'l2'"),
        ("evaluate.num_images", 0, "must be 1 or more; the default is 10000"),
        ("data.augment_prob", 2.0, "must lie in [0, 1]; the default is 0.0"),
        ("model.network.dropout", 1.0, "must lie in [0, 1); the default is 0.0"),
        ("model.network.channel_mult", [1, 0], "each entry must be 1 or more"),
        ("model.image_shape", [8, 8], "must have 3 entries"),
        ("seed", 2**32, "must lie in [0, 4294967295]; the default is 0"),
        ("cpu_devices", None, "must be a whole number; the default is 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(path, value, rule, tmp_path):
    config = plain(recipes.load("digits_student", "tiny"))
    config["stages"]["pairs"]["sampler"] = {"name": "ddim", "num_steps": 4}
    with pytest.raises(ConfigError) as error:
        job_of(changed(config, path.split("."), value), tmp_path)
    if rule:
        assert f"--config.{path}={value}: {rule}" in str(error.value)
    else:
        assert "--config.stages.student.roles.student.lr=0.0: must" in str(error.value)


@pytest.mark.parametrize(
    ("path", "has"),
    [
        ("stages.student.method.weigth", "'denoising_student' has no keyword 'weigth'"),
        ("stages.student.optim.momentum", "an optimizer has no keyword 'momentum'"),
        ("stages.student.patrition", "a stage of kind 'train' has no keyword"),
        ("stages.student.sampler.steps", "'ddim' has no keyword 'steps'"),
        ("model.network.width", "'iddpm_unet' has no keyword 'width'"),
        ("model.precondition.sigma", "'v' has no keyword 'sigma'"),
        ("model.process.beta", "'cosine' has no keyword 'beta'"),
        ("data.resample", "data 'digits' has no keyword 'resample'"),
        ("evalaute", "a config has no keyword 'evalaute'"),
    ],
)
def test_a_keyword_that_nothing_takes_is_refused(path, has, tmp_path):
    config = plain(recipes.load("digits_student", "tiny"))
    config["data"] = {"name": "digits"}
    with pytest.raises(ConfigError) as error:
        job_of(changed(config, path.split("."), 1), tmp_path)
    assert f"--config.{path}=1: {has}" in str(error.value)
    assert "; it has: " in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (
            "stages.student.pairs",
            "teacher",
            "is no stage of pairs; the config has pairs",
        ),
        ("stages.student.init", {"student": "evaluate"}, "those are teacher"),
        ("stages.evaluate.models", ["studnet"], "has 'studnet'; stages are"),
        ("evaluate.features", "inceptoin", "unknown; choose one of .*pixels"),
        ("stages.student.train.num_microbatches", 3, "does not split over 1 devices"),
        ("model.image_shape", [7, 7, 1], "a network of 2 levels needs multiples of 2"),
        ("model.network.channels", 3, "these fields make no network"),
    ],
)
def test_what_does_not_fit_together_is_refused(path, value, text, tmp_path):
    config = plain(recipes.load("digits_student"))
    with pytest.raises(ConfigError, match=text):
        job_of(changed(config, path.split("."), value), tmp_path)


def parsed(recipe_name, *words):
    """The config of a command line, as `kdiff_jax.main` reads it."""
    values = flags.FlagValues()
    path = recipes.ROOT / "configs" / f"{recipe_name}.py"
    argv = ["main", f"--config={path}:tiny", *words]
    config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=argv, **main.OPEN
    )
    values(argv)
    return values.config


def test_every_keyword_of_a_sampler_is_an_option_of_the_command_line(tmp_path):
    config = parsed(
        "digits_student",
        "--config.model.sampler.eta=0.5",  # of the teacher; the recipe names none
        "--config.model.sampler.clip=1.5",  # a number, where False is the default
        "--config.stages.pairs.sampler.name=heun",
        "--config.stages.pairs.sampler.num_steps=2",
        "--config.stages.pairs.sampler.S_churn=3",
        "--config.stages.student.sampler.spacing=karras",
    )
    stages = {stage.name: stage for stage in job_of(config, tmp_path).stages}
    pairs = {"name": "heun", "num_steps": 2, "S_churn": 3}
    student = {"name": "ddim", "num_steps": 1, "spacing": "karras"}
    assert stages["pairs"].sampler == pairs
    assert stages["student"].sampler == student
    base = Spec.of(plain(config)["model"])
    teacher = build.spec_of(stages["teacher"], base).sampler.plain()
    assert teacher == {"name": "ddim", "num_steps": 4, "eta": 0.5, "clip": 1.5}


def test_a_sampler_section_without_a_name_changes_the_teachers(tmp_path):
    config = parsed(
        "digits_teacher",
        "--config.stages.teacher.sampler.eta=0.5",
    )
    (teacher, _) = job_of(config, tmp_path).stages
    spec = build.spec_of(teacher, Spec.of(plain(config)["model"]))
    assert spec.sampler.plain() == {"name": "ddim", "num_steps": 4, "eta": 0.5}


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ("stages.teacher.sampler.etta=1", "'ddim' has no keyword 'etta'; it has: num"),
        ("stages.teacher.sampler.eta=2", "must lie in [0, 1]; the default is 0.0"),
        ("stages.teacher.sampler.S_churn=2", "'ddim' has no keyword 'S_churn'; it has"),
        ("model.sampler.num_steps=many", "must be a whole number"),
        ("model.sampler.clip=some", "must be True or False, or must be a number"),
        ("model.sampler.spacing=quad", "does not fit this process; leave it out"),
        ("model.sampler.even=True", "is for a discrete process; leave it out"),
    ],
)
def test_an_option_that_a_sampler_does_not_have_is_refused(option, rule, tmp_path):
    with pytest.raises(ConfigError) as error:
        job = job_of(parsed("digits_teacher", f"--config.{option}"), tmp_path)
        rehearsal.check(job)
    assert f"--config.{option}: {rule}" in str(error.value).replace("'quad'", "quad")


# GDD's networks take as long to trace as those of the other three together.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "digits_gdd" else ())
        for name in RECIPES
    ],
)
def test_what_is_changed_at_random_is_refused_or_planned(name, tmp_path):
    """Never another exception than a ConfigError, whatever a value becomes."""
    config = plain(recipes.load(name, "tiny"))
    paths, rng = list(leaves(config)), random.Random(name)
    refused = planned = 0
    while refused < 75:
        path, value = rng.choice(paths), rng.choice(VALUES)
        mutant = changed(config, path, json.loads(json.dumps(value)))
        try:
            job = job_of(mutant, tmp_path)
            if planned < 3:
                plan.text(job)
                planned += 1
        except ConfigError as error:
            assert "\n" not in str(error)
            refused += 1
        except Exception as error:
            raise AssertionError(f"{'.'.join(path)} = {value!r}") from error
    assert planned
