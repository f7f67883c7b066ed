"""Schedules, averages and updates against hand arithmetic."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax.errors import ConfigError
from kdiff_jax.train import layout, optim, updates


def make(**keywords):
    return optim.make(**{"lr": 0.1, "batch_size": 8, **keywords})


def test_luhmans_warm_up_starts_at_zero_and_is_linear():
    rate = make(warmup_steps=4).lr
    rates = [float(rate(jnp.int32(i), 100)) for i in range(6)]
    np.testing.assert_allclose(rates, [0, 0.025, 0.05, 0.075, 0.1, 0.1], rtol=1e-6)


def test_linear_decay_of_a_round_reaches_zero_after_the_last_step():
    rate = make(schedule="linear").lr
    # Step i of N uses lr (1 - i / N): the last step, N - 1, still moves.
    rates = [float(rate(jnp.int32(i), jnp.int32(4))) for i in range(4)]
    np.testing.assert_allclose(rates, [0.1, 0.075, 0.05, 0.025], rtol=1e-6)


def test_cosine_decay_is_half_in_the_middle():
    rate = make(schedule="cosine").lr
    np.testing.assert_allclose(float(rate(jnp.int32(50), 100)), 0.05, rtol=1e-6)


def test_half_life_counts_images_and_ramps_up():
    decay = make(ema_half_life=1000.0, ema_ramp_up=0.5).emas["ema"]
    # Update 0 has seen nothing: the average is the parameters themselves.
    assert float(decay(jnp.int32(0))) == 0.0
    # Update 10 has seen 80 images: half-life 0.5 * 80 = 40, decay 0.5^(8/40).
    np.testing.assert_allclose(float(decay(jnp.int32(10))), 0.5**0.2, rtol=1e-6)
    # Update 1000 has seen 8000: the half-life is 1000, decay 0.5^(8/1000).
    np.testing.assert_allclose(float(decay(jnp.int32(1000))), 0.5**0.008, rtol=1e-6)


def test_only_a_half_life_needs_the_images_of_an_update():
    assert optim.make(lr=0.1, ema_decay=0.9, averages={"a": {"power": 0.1}}).emas
    for half_life in (
        dict(ema_half_life=9.0),
        dict(averages={"a": {"half_life": 9.0}}),
    ):
        with pytest.raises(ConfigError, match="half_life=9.0: .* give batch_size"):
            optim.make(lr=0.1, **half_life)
        assert optim.make(lr=0.1, batch_size=8, **half_life).emas


def test_a_constant_decay_is_that_of_an_update():
    decay = make(ema_decay=0.9).emas["ema"]
    np.testing.assert_allclose(float(decay(jnp.int32(7))), 0.9, rtol=1e-6)


def test_without_decay_and_half_life_there_is_no_average():
    assert make().emas == {}


def test_the_first_adam_update_is_the_sign_of_the_gradient():
    tx = make(b1=0.5, b2=0.98).tx
    params = {"w": jnp.array([1.0, -2.0])}
    update, _ = tx.update({"w": jnp.array([3.0, -0.5])}, tx.init(params), params)
    np.testing.assert_allclose(update["w"], [1.0, -1.0], rtol=1e-5)


def test_weight_decay_is_decoupled_and_spares_buffers():
    tx = make(weight_decay=0.1).tx
    params = {"w": jnp.array([[2.0]]), "fourier": {"freqs": jnp.array([5.0])}}
    zero = {"w": jnp.array([[0.0]]), "fourier": {"freqs": jnp.array([0.0])}}
    update, _ = tx.update(zero, tx.init(params), params)
    np.testing.assert_allclose(update["w"], [[0.2]], rtol=1e-6)
    assert update["fourier"]["freqs"] == 0


def test_clipping_is_by_the_norm_of_all_parameters_together():
    """Before the update, and not by it: an update may see a part of the leaves."""
    assert (
        make(clip_norm=1.0).clip_norm == 1.0 and make(clip_norm=0.0).clip_norm is None
    )
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    norm = layout.norm(grads, None)
    clipped = updates.clipped(grads, 1.0, norm)
    found = [clipped["a"][0], clipped["b"][0]]
    np.testing.assert_allclose(found, [0.6, 0.8], rtol=1e-6)
    assert updates.clipped(grads, 6.0, norm) == grads


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"schedule": "linar"}, "choose one of constant, linear, cosine"),
        ({"name": "adma"}, "choose one of adam, sgd"),
        (
            {"ema_decay": 0.9, "ema_half_life": 5.0},
            "decay=0.9 and half_life=5.0",
        ),
        ({"averages": {"a": {}}}, "a moving average has no decay; give one of"),
        ({"averages": {"best": {"decay": 0.9}}}, "averages.best: cannot be the name"),
        ({"averages": {"a": {"decay": 1.5}}}, "decay=1.5: must lie in"),
        ({"ema_power": 0.4}, "sigma_rel=0.4: must be above 0 and below 0.288"),
    ],
)
def test_errors_name_the_way_out(keywords, text):
    with pytest.raises(ConfigError, match=text):
        make(**keywords)
