"""What a network costs, against arithmetic by hand."""

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import interop, partition, samplers
from kdiff_jax.data.images import load
from kdiff_jax.features import Extractor
from kdiff_jax.method import Net
from kdiff_jax.metrics import features
from kdiff_jax.train import generate, measure, parallel, watchdog

SPEC = {
    "network": {"name": "mlp", "channels": 8, "num_blocks": 2},
    "precondition": {"name": "v"},
    "process": {"name": "cosine"},
    "image_shape": [1, 1, 2],
    "num_classes": 4,
    "sampler": {"name": "ddim", "num_steps": 2},
}


class Layers(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(5, (3, 3), strides=2)(x)  # 4 x 4 x 5, of 3 x 3 x 2 each
        x = nn.ConvTranspose(3, (2, 2), strides=(2, 2))(x)  # of 4 x 4 x 5, 2 x 2 x 3
        for _ in range(2):
            x = nn.Dense(3)(x)
        return x


def net_of(module):
    def apply(params, x_t, t, y=None):
        def body(x, _):
            return jnp.tanh(x @ x.swapaxes(-1, -2) @ x), None

        x = jax.jit(module.apply)(params, x_t)
        return jax.lax.scan(body, x[0, ..., 0], None, length=7)[0]

    shape = (8, 8, 2)
    return Net(lambda key: module.init(key, jnp.zeros((1, *shape))), apply, None, shape)


def test_macs_by_hand():
    conv, transposed, dense = 16 * 5 * 9 * 2, 16 * 5 * 4 * 3, 2 * 64 * 3 * 3
    products = 7 * 2 * 8 * 8 * 8  # in a scan of 7, inside a program of its own
    assert measure.macs(net_of(Layers())) == conv + transposed + dense + products


def test_macs_of_ddpm():
    """Its CIFAR-10 network takes 6.22 G, counted elsewhere without this code."""
    network = {"name": "ddpm_unet", "channels": 128, "channel_mult": [1, 2, 2, 2]}
    network |= {"num_blocks": 2, "attn_resolutions": [16]}
    spec = SPEC | {"network": network, "image_shape": [32, 32, 3], "num_classes": 0}
    net, _ = interop.build(spec)
    np.testing.assert_allclose(measure.macs(net) / 1e9, 6.22, atol=0.005)


def test_students_are_measured_as_one_model():
    net, process = interop.build(SPEC)
    owners = partition.make(process=process, num_classes=4, num_groups=2)
    params = drawn.params(net)
    single = interop.Model(net, params, process, interop.Spec.of(SPEC))
    copies = jax.tree.map(lambda x: np.stack([x, x]), params)
    spec = interop.Spec.of(SPEC | {"partition": owners.to_spec()})
    many = interop.Model(net, copies, process, spec)
    found = [
        measure.generated(
            model,
            samplers.make(process=process, **SPEC["sampler"]),
            None,
            mesh=parallel.make_mesh(jax.devices()[:1]),
            num_images=22,
            seed=1,
            batch_size=8,
            labels=np.arange(22) % 4,
            places=places,
        )
        for model, places in ((single, None), (many, None), (many, np.array([9, 3])))
    ]
    assert found[0].shown.shape == (20, 1, 1, 2)
    np.testing.assert_array_equal(found[1].shown, found[0].shown)
    np.testing.assert_array_equal(found[2].shown, found[0].shown[[9, 3]])
    for one in found:
        assert 0 < one.latency_ms < 1e4 and one.images_per_second > 0
        for name in ("images_per_second", "latency_ms"):
            spread = one.timing[name]
            assert spread["low"] <= getattr(one, name) <= spread["high"]
            assert spread["num_rounds"] >= 3
        assert one.timing["batch_size"] == 8


def doubled(params, images, preprocessing):
    """Features that depend on a weight and go through a compiled program."""
    del preprocessing
    x = images.reshape(len(images), -1).astype(jnp.float32) / 255
    return {"twice": params["two"] * x, "spatial": x**2}


def test_devices_and_batches_change_no_figure(monkeypatch):
    """Not more than the last bits of a sampler's images, which uint8 hides."""
    monkeypatch.setattr(measure, "SECONDS", 0.001)
    net, process = interop.build(SPEC)
    params = net.init(jax.random.key(0))
    model = interop.Model(net, params, process, interop.Spec.of(SPEC))
    dims = {"twice": None, "spatial": None}
    extractor = Extractor(dims, "twice", doubled, spatial="spatial", channels=2)
    weights = {"two": np.float32(2)}

    def seen(num_devices, batch_size):
        mesh = parallel.make_mesh(jax.devices()[:num_devices])
        about = dict(batch_size=batch_size, mesh=mesh)
        found = measure.generated(
            model,
            samplers.make(process=process, **SPEC["sampler"]),
            features.Features("x", extractor, weights, "default", **about),
            mesh=mesh,
            num_images=50,
            seed=1,
            batch_size=batch_size,
            labels=np.arange(50) % 4,
            needs={"moments", "rows", "spatial"},
        )
        return found.seen

    one = seen(1, 50)
    assert one.rows.shape == (50, 2) and one.rows.max() <= 2
    for other in (seen(4, 7), seen(8, 24)):
        np.testing.assert_allclose(other.rows, one.rows, rtol=1e-5)
        for ours, theirs in ((other.main, one.main), (other.spatial, one.spatial)):
            np.testing.assert_allclose(ours.mu, theirs.mu, rtol=1e-5)
            np.testing.assert_allclose(ours.sigma, theirs.sigma, rtol=1e-5)


def test_the_clock_of_the_first_host_says_how_often_all_call_the_program(monkeypatch):
    """One call more on one host, and all wait for each other for ever."""
    calls = []
    monkeypatch.setattr(measure, "_calls", lambda *_: (lambda: calls.append(1), 8))
    monkeypatch.setattr(measure, "SECONDS", 2.0)
    # What this host measures counts nothing: a call takes the first 0.1 s.
    monkeypatch.setattr(parallel, "from_first_host", lambda own: 0.1)
    make = object.__new__(generate.Generator)  # of which only the type is asked
    speed = measure.images_per_second(make, None, np.zeros(8), batch_size=8)
    assert len(calls) == 1 + 1 + 20 * 5  # warm, one, and rounds of 5 up to 2 s
    assert speed == measure.Speed(400.0, 400.0, 400.0, 20)


def test_a_speed_is_a_median_with_its_quartiles():
    """One slow round moves neither far."""
    values = [10.0, 11.0, 12.0, 13.0, 0.1]
    assert measure.Speed.of(values) == measure.Speed(11.0, 10.0, 12.0, 5)


def test_features_of_a_data_set_are_signs_of_life(monkeypatch):
    """They may take hours."""
    beats = []
    monkeypatch.setattr(watchdog, "beat", lambda: beats.append(1))
    data = load("mixture", num_images=30)
    measure.of_data(data, features.make("pixels"), batch_size=10)
    assert len(beats) == 3
