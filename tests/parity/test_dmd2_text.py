"""DMD2's losses for Stable Diffusion 1.5, by the method's own phases.

Data: an own float64 definition over diffusers 0.42.1's UNet2DConditionModel with random
weights, which the released code of tianweiy/DMD2, run unchanged on these draws, agreed
with: losses to 3e-7, the matching gradient to 6e-6 of its largest. Times and noise are
the data's.
"""

import json

import jax
import jax.numpy as jnp
import loaders
import numpy as np
import pytest
from safetensors.numpy import load_file
from tolerance import LOSS

from kdiff_jax import domain, interop, methods, rng
from kdiff_jax.diffusion import grids
from kdiff_jax.interop import diffusers_names, trees
from kdiff_jax.method import Context, Net

KEYS = rng.example_keys(jax.random.key(0), 0, jnp.arange(3))
SHARE = domain.whole(0, (0.0, 999.0))  # nothing is drawn from it
HEAD = dict(
    conv1="conv_0", norm1="norm_0", conv2="conv_1", norm2="norm_1", conv3="conv_2"
)


@pytest.fixture(scope="module")
def data():
    with np.load(loaders.DATA / "sd_tiny_dmd2.npz") as file:
        return {k: np.moveaxis(v, 1, -1) if v.ndim == 4 else v for k, v in file.items()}


@pytest.fixture(scope="module")
def models():
    return {
        role: interop.load(loaders.DATA / f"sd_tiny_dmd2_{name}")
        for role, name in (("teacher", "real"), ("fake_score", "fake"))
    }


def of_head(tensors):
    params = {}
    for key, tensor in tensors.items():
        layer, leaf = key.split(".")
        if leaf == "weight":
            leaf = "scale" if np.ndim(tensor) == 1 else "kernel"
        params.setdefault(HEAD[layer], {})[leaf] = loaders.from_torch(tensor)
    return params


@pytest.fixture(scope="module")
def dmd2(data, models):
    """(phases, context) of a student whose image is its parameter, with given draws."""
    draws = {  # of the judged images, those of the guidance
        None: (data["fake/t"], data["fake/noise"]),
        "real": (data["cls/real_t"], data["cls/real_noise"]),
        "fake": (data["cls/fake_t"], data["cls/fake_noise"]),
    }

    def given(keys, place):
        found = jnp.asarray(draws[keys if isinstance(keys, str) else None][place])
        return found.astype(jnp.float32)

    patch = pytest.MonkeyPatch()
    patch.setattr(grids, "draw_from", lambda *a, **k: lambda keys, name: given(keys, 0))
    patch.setattr(rng, "normal", lambda keys, name, shape: given(keys, 1))
    patch.setattr(rng, "stream", lambda keys, name: name)
    null = np.repeat(data["uncond"], 3, axis=0)
    y = domain.Prompt(jnp.asarray(data["context"]), jnp.asarray(null))
    x = jnp.asarray(data["gen/x0"])
    student = Net(lambda key: {}, lambda params, *a: params, None, x.shape[1:], 0)
    teacher = models["teacher"]
    method = methods.make(
        "dmd2",
        nets={"student": student, "teacher": teacher.net},
        process=teacher.process,
        student_every=10,
        fake_weight="snr",
        gan_weight=1e-3,
        disc_weight=1e-2,
        head_groups=8,
        head_place="middle",
        guidance=1.75,
    )
    batch = {
        "x0": jnp.asarray(data["cls/real_latents"]),
        "y": domain.Prompt(jnp.asarray(data["cls/real_context"]), jnp.asarray(null)),
        "y_gen": y,
        "x_gen": x,
        "x_t": x,
        "t": jnp.full(3, 999.0),
        "t_dm": jnp.asarray(data["dm/t"], jnp.float32),
        "eps_dm": jnp.asarray(data["dm/noise"]),
    }
    trained = {"student": x, "fake_score": models["fake_score"].params}
    trained["disc"] = of_head(load_file(loaders.DATA / "sd_tiny_dmd2_head.safetensors"))
    context = Context(trained, {}, {"teacher": teacher.params}, {}, batch, KEYS, SHARE)
    yield {phase.name: phase for phase in method.phases}, context, draws
    patch.undo()


def gradient(phase, context):
    """((value, Aux), gradient) of a phase."""
    params = {role: context.nets[role] for role in phase.trains}
    return jax.jit(jax.value_and_grad(phase.loss, has_aux=True))(params, context)


def test_the_student_is_moved_by_the_guided_teacher_and_fools_the_head(dmd2, data):
    phases, context, draws = dmd2
    before = draws["fake"]
    draws["fake"] = data["gen_cls/t"], data["gen_cls/noise"]
    (value, aux), grads = gradient(phases["student"], context)
    draws["fake"] = before
    np.testing.assert_allclose(aux.metrics["dm"], data["dm/loss"], **LOSS)
    np.testing.assert_allclose(aux.metrics["gan"], data["gen_cls/loss"], **LOSS)
    np.testing.assert_allclose(value, data["total_generator"], **LOSS)
    matching = grads["student"] - 1e-3 * data["gen_cls/dloss_dx0"]
    # A difference of near x0, with values of 15: the data's own tolerance.
    found = data["gen/x0"].size * np.asarray(matching)
    np.testing.assert_allclose(
        found, data["dm/grad"], atol=2e-3 * data["dm/grad"].std()
    )


@pytest.mark.slow
def test_the_fake_score_learns_eps_unguided_and_tells_images_apart(dmd2, data):
    phases, context, _ = dmd2
    (value, aux), grads = gradient(phases["guidance"], context)
    np.testing.assert_allclose(aux.metrics["fake_score"], data["fake/loss"], **LOSS)
    np.testing.assert_allclose(aux.metrics["disc"], data["cls/loss"], **LOSS)
    np.testing.assert_allclose(value, data["total_guidance"], **LOSS)
    norms = json.loads((loaders.DATA / "sd_tiny_dmd2_norms.json").read_text())
    found = {
        diffusers_names.their_name(path): leaf
        for path, leaf in trees.flatten(grads["fake_score"]).items()
    }
    theirs = {ours: name for name, ours in HEAD.items()}
    for path, leaf in trees.flatten(grads["disc"]).items():
        layer, kind = path.split("/")
        kind = "bias" if kind == "bias" else "weight"
        found[f"head.{theirs[layer]}.{kind}"] = leaf
    assert found.keys() == norms.keys()
    for name, expected in norms.items():
        if expected > 1e-4 * max(norms.values()):
            norm = np.linalg.norm(found[name])
            np.testing.assert_allclose(norm, expected, rtol=1e-3, err_msg=name)
