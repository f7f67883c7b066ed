"""Denoising Student: regress the teacher's deterministic sample from its noise.

Luhman & Luhman 2021, arXiv:2101.02388.
"""

import jax.numpy as jnp

from kdiff_jax import registry
from kdiff_jax.losses import regression
from kdiff_jax.method import Aux, Method, Phase

SCORES_PAIRS = True  # see `methods.scores_pairs`


def make(*, nets, process, loss: str = "l2") -> Method:
    """E[ |F(x_T) - y| ] or E[ ||F(x_T) - y||^2 ], summed over pixels and channels.

    The pairs (z, x0 = y) were made once by the teacher's sampler; F is the student's
    x0_hat at the noise end of time. For a network that predicts eps, give the student
    the precondition "residual": F(x_T) = x_T - eps(x_T, 999), the authors' form.

    Args:
        nets: {"student": Net}.
        process: The forward process; its t_max is the student's only time.
        loss: "l1" (the authors' choice for CIFAR-10) or "l2" (the others).

    Source: arXiv:2101.02388 Eq. 11; the authors' code omits the 1/2.
    """
    student = nets["student"]
    distances = {
        "l1": regression.l1_sum_per_example,
        "l2": regression.l2_sum_per_example,
    }
    if loss not in distances:
        raise registry.unknown("loss", loss, distances)
    distance = distances[loss]

    def kd_loss(params, ctx):
        z, x0, y = ctx.batch["z"], ctx.batch["x0"], ctx.batch["y"]
        t_max = jnp.full(len(z), process.t_max, jnp.float32)
        x0_hat = student.apply(params["student"], process.z_scale * z, t_max, y)
        value = distance(x0_hat, x0).mean()
        return value, Aux({"loss": value})

    return Method(
        nets={"student": student},
        init_from={"student": "teacher"},
        phases=(Phase("kd", ("student",), kd_loss),),
        batch_keys=("z", "x0", "y"),
    )
