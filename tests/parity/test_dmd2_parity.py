"""DMD2's two losses against tianweiy/DMD2's code, by the method's own phases.

Data: tianweiy/DMD2 at 8d8fa55633d47cfb81bbc7a892e7248f9518763f (2025-03-05), run by
PyTorch on a CPU in float32 on two small ADM networks with random weights. That code is
non-commercial; none of it is here. The times and the noise are the data's.
"""

import jax
import jax.numpy as jnp
import loaders
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file
from tolerance import LOSS

from kdiff_jax import domain, interop, methods, rng
from kdiff_jax.diffusion import grids
from kdiff_jax.discriminators.gan_head import GanHead
from kdiff_jax.method import Context, Net
from kdiff_jax.methods.dmd2 import PLACES

HEAD = {"0": "conv_0", "1": "norm_0", "3": "conv_1", "4": "norm_1", "6": "conv_2"}
KEYS = rng.example_keys(jax.random.key(0), 0, jnp.arange(4))

SHARE = domain.whole(10, (0.0, 1.0))  # nothing is drawn from it


@pytest.fixture(scope="module")
def data():
    with np.load(loaders.DATA / "dmd2_tiny.npz") as file:
        images = {k: v for k, v in file.items() if v.ndim == 4 and v.shape[-1] > 1}
        rest = {k: v for k, v in file.items() if k not in images}
    return rest | {k: np.moveaxis(v, 1, -1) for k, v in images.items()}


@pytest.fixture(scope="module")
def unets():
    names = {"teacher": "real", "fake_score": "fake"}
    return {
        role: interop.load(loaders.DATA / f"dmd2_tiny_{name}.safetensors")
        for role, name in names.items()
    }


def head_params():
    params = {}
    for key, tensor in load_file(loaders.DATA / "dmd2_tiny_head.safetensors").items():
        number, leaf = key.split(".")
        if leaf == "weight":
            leaf = "scale" if tensor.ndim == 1 else "kernel"
        params.setdefault(HEAD[number], {})[leaf] = loaders.from_torch(tensor)
    return params


@pytest.fixture
def dmd2(data, unets, monkeypatch):
    """(keywords of the method -> (phases, context)), with the data's draws."""
    t = jnp.asarray(data["karras_sigmas_small_first"][data["timesteps"].ravel()])
    monkeypatch.setattr(grids, "draw_from", lambda *a, **k: lambda keys, name: t)
    monkeypatch.setattr(rng, "normal", lambda *a: jnp.asarray(data["noise"]))
    y = jnp.asarray(data["labels"].argmax(1), jnp.int32)
    x = jnp.asarray(data["latents"])
    batch = {"x0": jnp.asarray(data["real_image"]), "y": y, "y_gen": y}
    batch |= {"x_gen": x, "x_t": x, "t": t}
    batch |= {"t_dm": t, "eps_dm": jnp.asarray(data["noise"])}
    # A student whose image is its parameter: gradients are those of the image.
    student = Net(lambda key: {}, lambda params, *a: params, None, x.shape[1:], 20)

    def make(**keywords):
        nets = {"student": student, "teacher": unets["teacher"].net}
        process = unets["teacher"].process
        method = methods.make("dmd2", nets=nets, process=process, **keywords)
        trained = {"student": x, "fake_score": unets["fake_score"].params}
        trained |= {"disc": head_params()} if "disc" in method.nets else {}
        frozen = {"teacher": unets["teacher"].params}
        context = Context(trained, {}, frozen, {}, batch, KEYS, SHARE)
        return {phase.name: phase for phase in method.phases}, context

    return make


def gradient(phase, context):
    """((value, Aux), gradient) of a phase."""
    params = {role: context.nets[role] for role in phase.trains}
    return jax.jit(jax.value_and_grad(phase.loss, has_aux=True))(params, context)


def test_time_grid(data, unets):
    times = grids.make(unets["teacher"].process, 1000)[-2::-1]
    np.testing.assert_allclose(
        times, data["karras_sigmas_small_first"].ravel(), rtol=2e-6
    )


def test_student_is_moved_by_the_distribution_matching_gradient(dmd2, data):
    phases, context = dmd2(gan_weight=0.0)
    (value, _), grads = gradient(phases["student"], context)
    np.testing.assert_allclose(value, data["loss_dm"], **LOSS)
    num = data["grad"].size
    # The gradient is a difference of two networks, each equal to 5e-6.
    for expected in (data["dL_dlatents"], data["grad"] / num):
        np.testing.assert_allclose(
            num * grads["student"], num * expected, rtol=1e-4, atol=3e-5
        )


def test_fake_score_learns_the_students_images(dmd2, data):
    phases, context = dmd2(gan_weight=0.0)
    (value, _), grads = gradient(phases["guidance"], context)
    np.testing.assert_allclose(value, data["loss_fake_mean"], **LOSS)
    norms = loaders.gradient_norms("dmd2_tiny_fake")
    found = traverse_util.flatten_dict(grads["fake_score"])
    assert found.keys() == norms.keys()
    for path, expected in norms.items():
        norm = np.linalg.norm(found[path])
        np.testing.assert_allclose(norm, expected, rtol=1e-3, err_msg=str(path))


# With noise before it, its features and logits are compared below.
@pytest.mark.parametrize(
    "diffusion_gan", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_discriminator(dmd2, data, diffusion_gan):
    phases, context = dmd2(diffusion_gan=diffusion_gan, gan_weight=3e-3)
    end = f"dg{int(diffusion_gan)}"
    params = {"student": context.nets["student"]}
    value, aux = jax.jit(phases["student"].loss)(params, context)
    fooled = data[f"gen_cls_loss_{end}"]
    np.testing.assert_allclose(aux.metrics["gan"], fooled, **LOSS)
    np.testing.assert_allclose(value, data["loss_dm"] + 3e-3 * fooled, **LOSS)
    params = {role: context.nets[role] for role in ("fake_score", "disc")}
    value, aux = jax.jit(phases["guidance"].loss)(params, context)
    told = data[f"guidance_cls_loss_{end}"]
    np.testing.assert_allclose(aux.metrics["disc"], told, **LOSS)
    np.testing.assert_allclose(value, data["loss_fake_mean"] + 1e-2 * told, **LOSS)


@pytest.mark.parametrize("diffusion_gan", [False, True])
def test_features_and_logits(data, unets, diffusion_gan):
    model = unets["fake_score"]
    x, y = data["latents"], jnp.asarray(data["labels"].argmax(1))
    t = jnp.full(4, 0.002)
    if diffusion_gan:
        t = jnp.asarray(data["karras_sigmas_small_first"][data["timesteps"].ravel()])
        x = x + t[:, None, None, None] * data["noise"]
    features = model.net.encode(model.params, x, t, y)[PLACES["encoder"]]
    if not diffusion_gan:
        np.testing.assert_allclose(features, data["bottleneck"], rtol=1e-4, atol=1e-5)
    logits = GanHead().apply({"params": head_params()}, features)
    expected = data[f"logits_fake_dg{int(diffusion_gan)}"].ravel()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
