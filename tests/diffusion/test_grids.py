"""Time grids: published values, duplicates, ends."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax.diffusion import grids, process


def test_karras_by_hand():
    # rho = 2: sqrt levels 10, 5.5, 1
    grid = grids.karras(3, sigma_min=1.0, sigma_max=100.0, rho=2.0)
    np.testing.assert_allclose(grid, [100, 30.25, 1, 0])
    assert grid.dtype == np.float64
    one = grids.karras(1, sigma_min=0.1, sigma_max=80.0)
    np.testing.assert_allclose(one, [80, 0], rtol=1e-12)


def test_edm_grid_of_18_steps():
    # ends exact to double precision; the ninth level by the formula
    grid = grids.make(process.edm(), 18)
    np.testing.assert_allclose(grid[[0, 17, 18]], [80, 0.002, 0], rtol=1e-12)
    level = (80 ** (1 / 7) + 9 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(grid[9], level, rtol=1e-12)


def test_uniform_contains_both_ends():
    np.testing.assert_array_equal(
        grids.make(process.cosine(), 4), [1, 0.75, 0.5, 0.25, 0]
    )


def test_uniform_logsnr_has_equal_ratios():
    grid = grids.uniform_logsnr(5, logsnr_min=-8.0, logsnr_max=8.0)
    np.testing.assert_allclose(grid[:2], [np.exp(4), np.exp(2)])
    np.testing.assert_allclose(grid[1:5] / grid[:4], np.exp(-2))
    assert grid[-1] == 0


def test_linear_is_the_authors_range():
    for num in (1000, 100, 50, 20, 8, 2):
        authors = list(range(0, 1000, 1000 // num))
        assert grids.subsequence(num)[:-1].tolist() == authors[::-1]
        assert grids.subsequence(num)[-1] == -1


def test_a_length_that_does_not_divide_still_has_that_many_steps():
    assert grids.subsequence(7)[:-1].tolist() == [852, 710, 568, 426, 284, 142, 0]


def test_quadratic_keeps_its_duplicates():
    grid = grids.subsequence(100, "quadratic")
    assert grid[0] == 800 and len(grid) == 101
    assert grid[::-1][:10].tolist() == [-1, 0, 0, 0, 0, 1, 2, 2, 3, 5]
    assert grids.subsequence(4, "quadratic").tolist() == [800, 355, 88, 0, -1]


@pytest.mark.parametrize("spacing", ["linear", "quadratic", "trailing", "linspace"])
def test_one_step_is_the_one_step_student(spacing):
    grid = grids.subsequence(1, spacing)
    assert grid.tolist() == [0 if spacing == "linspace" else 999, -1]


def test_spacings_by_hand():
    # T = 10, three steps
    for spacing, expected in dict(
        leading=[6, 3, 0], trailing=[9, 6, 2], linspace=[9, 4, 0], dpm=[9, 6, 3]
    ).items():
        grid = grids.subsequence(3, spacing, num_timesteps=10)
        assert grid.tolist() == [*expected, -1], spacing
    assert grids.subsequence(3, "fractional", num_timesteps=10).tolist() == [
        9,
        4.5,
        0,
        -1,
    ]


@pytest.mark.parametrize("p", [process.cosine(), process.discrete()])
@pytest.mark.parametrize("spacing", ["karras", "uniform_logsnr"])
def test_grids_in_the_level_span_the_process(p, spacing):
    grid = grids.make(p, 5, spacing=spacing)
    np.testing.assert_allclose(grid[[0, -2]], [p.t_max, p.t_min], atol=1e-4)
    levels = np.asarray(grids.levels(p, grid))
    assert levels[-1] == 0
    if spacing == "karras":
        np.testing.assert_allclose(np.diff(levels[:-1] ** (1 / 7), 2), 0, atol=1e-4)
    else:
        np.testing.assert_allclose(np.diff(np.log(levels[:-1]), 2), 0, atol=1e-3)


def test_levels_end_at_zero_where_the_schedule_does_not():
    p = process.cosine()
    levels = grids.levels(p, grids.make(p, 2))
    np.testing.assert_allclose(levels, [np.exp(10.00054865), 1, 0], rtol=1e-5)
    assert p.sigma(jnp.array(0.0)) > 0


def test_mistakes():
    for call, text in (
        (lambda: grids.uniform(0), "num_steps=0: must be at least 1"),
        (
            lambda: grids.subsequence(2000),
            "num_steps=2000: a discrete process has 1000",
        ),
        (lambda: grids.subsequence(10, "cubic"), "spacing='cubic': unknown"),
        (lambda: grids.make(process.cosine(), 3, spacing="linear"), "does not fit"),
        (lambda: grids.make(process.edm(), 3, spacing="uniform"), "does not fit"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
