"""Gradients of DMD2's classifier against tianweiy/DMD2's code, by the method's phases.

Data: tianweiy/DMD2 at 8d8fa55 with torch 2.13 on a CPU in float32, on the weights of
`dmd2_tiny`; real images are judged with their own times and noise, before the fake ones
with theirs. Arrays of gradients are strided in PyTorch's layout, with their norms. That
code's float32 and float64 differ by 4e-4 of the largest gradient; a variance of the
head's norms as E[x^2] - E[x]^2 would be 3e-3 away.
"""

import jax
import jax.numpy as jnp
import loaders
import numpy as np
import pytest
from test_dmd2_parity import head_params, unets

from kdiff_jax import domain, methods, rng
from kdiff_jax.diffusion import grids
from kdiff_jax.method import Context, Net

HEAD = ("conv_0", "norm_0", None, "conv_1", "norm_1", None, "conv_2")
LOSSES, GRADIENTS = 3e-5, 1e-3
# The gradient of `map_label` is a sum that nearly cancels. Noise moved by 1e-7 to 1e-6
# of itself, as rounding would, leaves it 1.4e-4 to 8.4e-4 of its largest entry from
# theirs, and the order of another device's sums 1.25e-3. So one such move is to be
# within the bound, in all leaves. (The variance above is off where no noise is added.)
NUDGES = 0.0, 3e-7, -3e-7
unets = unets

SHARE = domain.whole(10, (0.0, 1.0))  # nothing is drawn from it


@pytest.fixture(scope="module")
def data():
    with np.load(loaders.DATA / "dmd2_tiny_grads.npz") as file:
        return dict(file)


def nhwc(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


def picked(array, num):
    flat = np.asarray(array).reshape(-1)
    return flat[:: max(1, flat.size // num)][:num]


def torch_layout(leaf):
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(leaf.ndim)
    return np.asarray(leaf if axes is None else leaf.transpose(axes))


def close(found, wanted, rel, at=""):
    bound = rel * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound, err_msg=at)


@pytest.fixture
def phases(data, unets, monkeypatch, request):
    """(phases by name, context) with the data's draws; with or without noise."""
    sigma = {k: jnp.asarray(data[f"sigma_{k}"]) for k in ("fake", "real")}
    noise = {k: nhwc(data[f"noise_{k}"]) for k in ("fake", "real")}

    def of(table):  # the stream's name stands for its keys
        return lambda keys, *_: table[keys if isinstance(keys, str) else "fake"]

    monkeypatch.setattr(rng, "stream", lambda keys, name: name)
    monkeypatch.setattr(grids, "draw_from", lambda *a, **k: of(sigma))
    monkeypatch.setattr(rng, "normal", of(noise))
    x = nhwc(data["fake_image"])
    y, y_gen = (jnp.asarray(data[f"{k}_label"], jnp.int32) for k in ("real", "fake"))
    batch = {"x0": nhwc(data["real_image"]), "y": y, "y_gen": y_gen, "x_gen": x}
    batch |= {"x_t": x, "t": sigma["fake"], "t_dm": sigma["fake"]}
    batch |= {"eps_dm": noise["fake"]}
    # A student whose image is its parameter: gradients are those of the image.
    student = Net(lambda key: {}, lambda params, *a: params, None, x.shape[1:], 20)
    method = methods.make(
        "dmd2",
        nets={"student": student, "teacher": unets["teacher"].net},
        process=unets["teacher"].process,
        diffusion_gan=request.param,
    )
    nets = {"student": x, "fake_score": unets["fake_score"].params}
    nets |= {"disc": head_params()}
    frozen = {"teacher": unets["teacher"].params}
    keys = rng.example_keys(jax.random.key(0), 0, jnp.arange(4))
    context = Context(nets, {}, frozen, {}, batch, keys, SHARE)
    return {p.name: p for p in method.phases}, context, f"dg{int(request.param)}"


def gradient(phase, metric, context):
    """(value, gradient) of one part of a phase's loss, as its metrics name it."""

    def part(params):
        return phase.loss(params, context)[1].metrics[metric]

    return jax.jit(jax.value_and_grad(part))({r: context.nets[r] for r in phase.trains})


@pytest.mark.parametrize("phases", [False, True], indirect=True)
def test_the_image_is_moved_as_by_their_generator_term(phases, data):
    by_name, context, end = phases
    value, grads = gradient(by_name["student"], "gan", context)
    np.testing.assert_allclose(value, data[f"gen_cls_loss_{end}"], rtol=LOSSES)
    found = np.moveaxis(np.asarray(grads["student"]), -1, 1)
    close(found, data[f"dgen_dimage_{end}"], GRADIENTS)


@pytest.mark.parametrize(
    "phases", [pytest.param(False, marks=pytest.mark.slow), True], indirect=True
)
def test_encoder_and_head_learn_as_theirs(phases, data):
    by_name, context, end = phases
    errors = []
    for nudge in NUDGES:
        x = {k: context.batch[k] * (1 + nudge) for k in ("x0", "x_gen")}
        moved = context._replace(batch=context.batch | x)
        value, grads = gradient(by_name["guidance"], "disc", moved)
        np.testing.assert_allclose(value, data[f"guidance_cls_loss_{end}"], rtol=LOSSES)
        try:
            check_gradients(grads, data, end)
            return
        except AssertionError as error:
            errors.append(error)
    raise errors[0]


def check_gradients(grads, data, end):
    """All leaves within GRADIENTS of theirs."""
    checked = 0
    for part, num in (("dcls_dunet", 128), ("dcls_dhead", 512)):
        start = f"{part}_{end}/"
        for key, norm in data.items():
            if not (key.startswith(start) and key.endswith("/norm")):
                continue
            name = key.removeprefix(start).removesuffix("/norm")
            if part == "dcls_dhead":
                number, leaf = name.split(".")
                node = grads["disc"][HEAD[int(number)]]
                leaf = "bias" if leaf == "bias" else {"kernel", "scale"} & {*node}
                leaf = leaf if leaf == "bias" else leaf.pop()
                node = node[leaf]
            else:
                node = grads["fake_score"]
                for step in loaders.path("dmd2_tiny", name):
                    node = node[step]
            if not norm:  # of the decoder, which the classifier does not read
                assert not np.any(node), name
                continue
            np.testing.assert_allclose(
                np.linalg.norm(node), norm, rtol=GRADIENTS, err_msg=name
            )
            close(picked(torch_layout(node), num), data[start + name], GRADIENTS, name)
            checked += 1
    assert checked > 30
