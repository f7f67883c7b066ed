"""The loss of Denoising Student by hand: summed over pixels, at the noise end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kdiff_jax import denoiser, methods, rng
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Context, Net

Z = np.array([[1.0, -2.0], [0.5, 3.0]]).reshape(2, 1, 2, 1)
X0 = np.array([[0.0, 1.0], [-1.0, 1.0]]).reshape(2, 1, 2, 1)
KEYS = rng.example_keys(jax.random.key(0), 0, jnp.arange(2))


def batch():
    arrays = {"z": Z, "x0": X0}
    return {k: jnp.asarray(v, jnp.float32) for k, v in arrays.items()} | {
        "y": jnp.zeros(2, jnp.int32)
    }


def value(net, process, loss):
    method = methods.make(
        "denoising_student", nets={"student": net}, process=process, loss=loss
    )
    context = Context({}, {}, {}, {}, batch(), KEYS, toy.SHARE)
    return method.phases[0].loss({"student": {"w": jnp.float32(0.5)}}, context)[0]


def times_w(params, x_t, t, y, **unused):
    del t, y, unused
    return params["w"] * x_t


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_distances_are_summed_over_pixels_and_averaged_over_the_batch(loss):
    # 0.5 z - x0 = [0.5, -2], [1.25, 0.5]: |.| sums 2.5, 1.75; squares 4.25, 1.8125.
    sums = {"l1": (2.5 + 1.75) / 2, "l2": (4.25 + 1.8125) / 2}
    found = value(Net(lambda k: {}, times_w), processes.cosine(), loss)
    np.testing.assert_allclose(found, sums[loss], rtol=1e-6)


def test_the_student_is_its_input_minus_the_networks_output_at_the_last_index():
    """F(x_T) = x_T - eps(x_T, 999), the authors' form."""
    seen = []

    class Module:
        def apply(self, variables, x, c_noise, y, **unused):
            del unused, y
            jax.debug.callback(seen.append, c_noise)
            return variables["params"]["w"] * x

    process = processes.discrete()
    net = denoiser.make(
        Module(), process, precondition="residual", image_shape=(1, 2, 1)
    )
    found = value(net, process, "l1")
    jax.effects_barrier()
    # x_T - 0.5 x_T = 0.5 x_T, as above.
    np.testing.assert_allclose(found, (2.5 + 1.75) / 2, rtol=1e-6)
    np.testing.assert_array_equal(seen[0], [999.0, 999.0])


def test_edm_students_see_noise_of_sigma_max():
    found = value(Net(lambda k: {}, times_w), processes.edm(sigma_max=2.0), "l1")
    # 0.5 * 2 z - x0 = [1, -3], [1.5, 2]
    np.testing.assert_allclose(found, (4.0 + 3.5) / 2, rtol=1e-6)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ConfigError, match="loss='l3': unknown; choose one of l1, l2"):
        methods.make(
            "denoising_student",
            nets=toy.NETS,
            process=processes.edm(),
            loss="l3",
        )
