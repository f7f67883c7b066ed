"""A config holds every default, and refuses what does not fit together."""

import pytest
import recipes
import toy

from kdiff_jax import build, recipe
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import ConfigError, DataError


def test_every_default_can_be_seen_and_changed():
    config = recipes.load("digits_student")
    assert config.train.hang_minutes == 60.0
    assert config.train.num_microbatches == 1
    assert config.stages.student.optim.eps == 1e-8
    assert config.model.network.remat is False
    config.stages.teacher.optim.ema_decay = 0.9  # None by default: a placeholder
    config.data.path = "somewhere"
    assert build.plain(config)["stages"]["teacher"]["optim"]["ema_decay"] == 0.9
    with pytest.raises(AttributeError):
        config.train.hang_minuets = 5


def test_what_stages_say_goes_before_what_the_config_says():
    config = build.plain(recipes.load("digits_student"))
    config["train"]["num_microbatches"] = 4
    teacher, _, student, _ = build.expand(config)
    assert teacher.train.num_microbatches == 4
    assert teacher.train.result == "ema"
    assert student.train.result == "best"


def test_lists_of_a_config_become_values_that_do_not_change():
    config = build.plain(recipes.load("digits_student"))
    config["evaluate"]["metrics"] = ["fd", "kd"]
    figures = build.expand(config)[-1]
    assert figures.options.metrics == ("fd", "kd")
    assert all(isinstance(hash(stage), int) for stage in build.expand(config))


def test_an_imported_teacher_replaces_its_stage(tmp_path):
    config = build.plain(recipes.load("digits_student"))
    config["init"]["teacher"] = str(tmp_path)
    stages = build.expand(config)
    assert [s.name for s in stages] == ["pairs", "student", "evaluate"]
    assert stages[1].init == build.Init(teacher=str(tmp_path))


def test_unlabelled_data_does_not_train_a_model_of_classes():
    config = build.plain(recipes.load("digits_student"))
    config["data"]["use_labels"] = False
    with pytest.raises(ConfigError, match="has 0 classes, model.num_classes is 10"):
        build.load_images(build.resolve(config))


def test_a_teacher_of_other_classes_is_refused():
    config = build.plain(recipes.load("digits_student"))
    recipe = build.resolve(config)
    with pytest.raises(ConfigError, match="num_classes=0, the config has .*=10"):
        build.check_fits(recipe, "teacher", recipe.spec.replace(num_classes=0))


@pytest.mark.parametrize(
    ("rounds", "text"),
    [
        (dict(start_steps=48, end_steps=1), "start_steps=48, end_steps=1"),
        (dict(start_steps=4, end_steps=4), "at least twice end_steps"),
    ],
)
def test_rounds_halve_a_power_of_two(rounds, text):
    config = build.plain(recipes.load("digits_progressive"))
    config["stages"]["progressive"]["rounds"] = rounds
    with pytest.raises(ConfigError, match=text):
        build.expand(config)


def test_a_sampler_that_contradicts_the_method_is_refused():
    config = build.plain(recipes.load("digits_sid"))
    assert "sampler" not in config["stages"]["student"]

    def method(**sampler):
        config["stages"]["student"]["sampler"] = sampler
        stage = next(s for s in build.expand(config) if s.name == "student")
        return build.make_method(stage, toy.NETS, processes.cosine(), 8)[0]

    assert method(sigma_init=2.5).sampler["sigma_init"] == 2.5
    for sampler, text in (
        (dict(sigma_init=1.0), "sampler.sigma_init=1.0: .*'sid' .* sigma_init=2.5;"),
        (dict(name="ddim"), "sampler.name='ddim': .* for name='renoise'; leave out"),
    ):
        with pytest.raises(ConfigError, match=f"stages.student.{text}"):
            method(**sampler)


def test_students_of_a_few_steps_are_sampled_as_they_were_trained():
    config = build.plain(recipes.load("imagenet64_dmd2", "tiny_four_steps"))
    config["stages"]["student"]["sampler"]["num_steps"] = 2
    stage = next(s for s in build.expand(config) if s.name == "student")
    with pytest.raises(ConfigError, match="num_steps=2: .*'dmd2' .* num_steps=4"):
        build.make_method(stage, toy.NETS, processes.cosine(), 8)


def test_data_and_teacher_that_miss_are_named_in_one_line(tmp_path):
    job = recipe.make_job(recipes.load("lsun256_student", "church"), tmp_path)
    with pytest.raises(
        DataError, match="lsun/church_outdoor.*google/ddpm-ema-church-256"
    ):
        recipe.check_inputs(job)
