"""Updates of one role: gradients made finite, clipped, applied, and averaged."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kdiff_jax.train import layout
from kdiff_jax.train.state import NetState, Optim, join, split


def without_nonfinite(grads, aux, optim: Mapping[str, Optim], lies):
    """Gradients with 0 for NaN and infinity, of the roles that ask for it; a count.

    In such a phase metrics that are not finite count as 0, too: they come from the same
    loss, and would end the run.
    """
    asked = [role for role in grads if optim[role].zero_nonfinite]
    if not asked:
        return grads, aux
    chosen = {role: grads[role] for role in asked}
    places = {role: lies[role] for role in asked}
    bad = layout.total(lambda g: (~jnp.isfinite(g)).sum(), chosen, places)
    metrics = jax.tree.map(_finite_or_0, dict(aux.metrics))
    metrics["nonfinite_grads"] = jnp.float32(bad)
    grads = {**grads, **jax.tree.map(_finite_or_0, chosen)}
    return grads, aux._replace(metrics=metrics)


def _finite_or_0(x):
    return jnp.where(jnp.isfinite(x), x, 0)


def clipped(grads, clip_norm: float | None, norm):
    """Gradients of the norm `norm`, shortened to `clip_norm` where they are longer."""
    if clip_norm is None:
        return grads
    return jax.tree.map(
        lambda g: jnp.where(norm < clip_norm, g, g / norm * clip_norm), grads
    )


def applied(net: NetState, grads, optim: Optim, lr, trainable) -> NetState:
    """`net` after one update; it and its gradients have a leading axis of students."""

    def one(net, grads):
        moving, still = split(net.params, trainable)
        updates, opt_state = optim.tx.update(grads, net.opt_state, moving)
        params = jax.tree.map(lambda p, u: p - lr * u, moving, updates)
        return NetState(join(params, still), opt_state, net.ema)

    return jax.vmap(one)(net, grads)


def averaged(net: NetState, optim: Optim, updates, trainable) -> NetState:
    """`net` with its moving averages moved towards the parameters."""
    params, _ = split(net.params, trainable)

    def moved(name, ema):
        decay = optim.emas[name](updates)
        average, still = split(ema, trainable)
        new = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, average, params)
        return join(new, still)

    emas = {name: moved(name, ema) for name, ema in net.ema.items()}
    return NetState(net.params, net.opt_state, emas)
