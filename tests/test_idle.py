"""Students of ranges of the time whom a sampler never asks are named at the start."""

import logging

import jax
import pytest
import recipes
from points import config

from kdiff_jax import build, partition, recipe, samplers
from kdiff_jax.diffusion import process
from kdiff_jax.stages import idle, students

COSINE = process.make("cosine")


def ranges(num, spacing="even"):
    return partition.make(
        process=COSINE, num_classes=0, num_ranges=num, spacing=spacing
    )


@pytest.mark.parametrize(
    ("name", "num_steps", "expected"),
    [
        ("ddim", 8, [2, 2, 2, 2]),  # at 1/8, 2/8, ... 1
        ("ddim", 2, [0, 1, 0, 1]),
        ("ddim", 1, [0, 0, 0, 1]),
        ("ancestral", 4, [1, 1, 1, 1]),
    ],
)
def test_evaluations_are_counted(name, num_steps, expected):
    sampler = samplers.make(name, process=COSINE, num_steps=num_steps)
    assert idle.evaluations(sampler, ranges(4)) == expected


@pytest.mark.parametrize("name", ["heun", "dpm_solver"])
def test_every_evaluation_is_one_of_somebody(name):
    sampler = samplers.make(name, process=COSINE, num_steps=5)
    for spacing in ("even", "logsnr"):
        found = idle.evaluations(sampler, ranges(3, spacing))
        assert sum(found) == sampler.nfe


def test_the_papers_grid_of_cifar10_has_nothing_for_the_last_of_eight():
    """Quadratic steps end at index 800 of 1000, and the eighth range begins at 875."""
    found = build.plain(recipes.load("cifar10_o2mkd"))
    of = process.make(**found["model"]["process"])
    sampler = samplers.make(process=of, **found["stages"]["student"]["sampler"])
    for num, last in ((4, 4), (8, 0)):
        owners = partition.make(process=of, num_classes=0, num_ranges=num)
        asked = idle.evaluations(sampler, owners)
        assert asked[-1] == last and sum(asked) == 100
        assert bool(idle.line(sampler, owners)) == (last == 0)


def test_a_recipe_warns_before_it_runs(tmp_path, caplog):
    two = config(num_ranges=4)
    two.stages.student.sampler = dict(name="ddim", num_steps=2)
    job = recipe.make_job(two, tmp_path, devices=jax.devices()[:1])
    with caplog.at_level(logging.WARNING):
        students.check(job)
    assert "student: ranges 0, 2 of 4 are never asked by ddim with 2" in caplog.text
