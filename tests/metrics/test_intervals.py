"""Intervals of a bootstrap: as wide as the spread of new samples, or none."""

import logging

import numpy as np
import pytest

from kdiff_jax import metrics
from kdiff_jax.errors import ConfigError
from kdiff_jax.metrics import kd, table
from kdiff_jax.metrics.seen import Seen, of_rows

PIXELS = metrics.make("pixels")
NUM, NUM_REF, DIM, RUNS, DRAWS = 150, 400, 3, 60, 60
# Of a normal distribution the 5th and 95th percentile are so many deviations apart.
DEVIATIONS = 2 * 1.645
TOLD = {
    "fd": ["fd"],
    "fd_inf": ["fd_inf"],
    "kd": ["kd"],
    "kd_full": ["kd_full"],
    "memorisation": ["memorised", "nearest"],
    "prdc": ["precision", "density"],
}


def seen(num, shift, seed):
    rows = np.random.default_rng(seed).normal(shift, 1, (num, DIM))
    return Seen(of_rows(rows := rows.astype(np.float32)), rows)


@pytest.mark.parametrize("name", TOLD)
def test_an_interval_is_as_wide_as_new_samples_spread(name, monkeypatch):
    """The reference stays: an interval is of the samples alone."""
    monkeypatch.setattr(kd, "SUBSET", 50)
    reference = seen(NUM_REF, 0.0, seed=10**6)
    values, widths = {}, {}
    for seed in range(RUNS):
        found = table.measure(
            [name],
            PIXELS,
            seen(NUM, 0.4, seed),
            reference,
            bootstrap=DRAWS if seed < 20 else 0,
        )
        for figure in TOLD[name]:
            own = metrics.figure_name("pixels", figure)
            values.setdefault(figure, []).append(found[own])
            if seed < 20:
                low, high = (found[f"{own}_{end}"] for end in ("low", "high"))
                assert low < found[own] < high
                widths.setdefault(figure, []).append(high - low)
    for figure in TOLD[name]:
        told = np.mean(widths[figure]) / DEVIATIONS
        assert 0.7 < told / np.std(values[figure]) < 1.4, figure


def test_a_bootstrap_changes_no_figure():
    ours, theirs = seen(60, 0.3, seed=1), seen(50, 0.0, seed=2)
    names = list(TOLD)
    plain = table.measure(names, PIXELS, ours, theirs)
    found = table.measure(names, PIXELS, ours, theirs, bootstrap=5)
    assert plain == {name: pytest.approx(found[name], rel=1e-9) for name in plain}
    ends = {name.rpartition("_")[0] for name in found.keys() - plain.keys()}
    told = [figure for figures in TOLD.values() for figure in figures]
    assert ends == {metrics.figure_name("pixels", figure) for figure in told}


def test_what_has_no_interval_is_said_with_its_reason(caplog):
    with caplog.at_level(logging.INFO):
        table.warn_of_bootstrap([*TOLD, "sfd"], 9)
        table.warn_of_bootstrap([*TOLD, "sfd"], 0)
        table.warn_of_bootstrap(["fd", "kd"], 9)
    assert caplog.messages == [
        "bootstrap=9: no interval of recall (a sample that is drawn twice is its own"
        " nearest neighbour); coverage (of as many draws a third fewer samples are"
        " different ones); sfd (of spatial features moments alone are kept)"
    ]


@pytest.mark.parametrize("name", table.names())
def test_every_metric_tells_its_spread_or_why_it_does_not(name):
    (module,) = table.modules([name])
    told = getattr(module, "RESAMPLED", False) or hasattr(module, "drawn")
    assert told or getattr(module, "NO_INTERVAL", {})
    assert not (getattr(module, "RESAMPLED", False) and hasattr(module, "drawn"))
    with pytest.raises(ConfigError, match="name each once"):
        table.without_interval([name, name])


def test_two_images_have_intervals_where_draws_have_both():
    """A draw of one image twice has no pairs."""
    ours, theirs = seen(2, 0.3, seed=1), seen(50, 0.0, seed=2)
    found = table.measure(["kd_full"], PIXELS, ours, theirs, bootstrap=40)
    assert list(found) == ["kd_full_pixels"] and np.isfinite(list(found.values()))
