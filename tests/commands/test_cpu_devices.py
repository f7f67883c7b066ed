"""How many devices a CPU is taken for, and who has the last word."""

import os

import jax
import pytest
import recipes

from kdiff_jax import start
from kdiff_jax.errors import ConfigError


@pytest.fixture
def asked(monkeypatch):
    """What JAX is asked for, on a machine of four cores."""
    found = {}
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False
    )
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    return found


@pytest.mark.parametrize(("wanted", "given"), [(1, 1), (2, 2), (8, 4)])
def test_no_more_devices_than_cores(asked, wanted, given):
    start.split_cpu(wanted)
    assert asked == {"jax_num_cpu_devices": given}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_NUM_CPU_DEVICES", "1"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=8"),
    ],
)
def test_the_environment_has_the_last_word(asked, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    start.split_cpu(2)
    assert not asked


def test_none_is_refused():
    with pytest.raises(ConfigError, match="cpu_devices=0: must be 1 or more"):
        start.split_cpu(0)


def test_small_images_take_two_and_others_one():
    assert recipes.load("digits_student").cpu_devices == 2
    assert recipes.load("cifar10_student").cpu_devices == 1
