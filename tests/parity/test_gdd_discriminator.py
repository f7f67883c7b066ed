"""GDD's feature maps, projector and heads against its authors' code; see `gdd_tiny`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gdd_tiny import (
    BATCH,
    NAMES,
    OURS,
    WIDTH,
    close,
    data,
    disc_params,
    features_of,
    looked_up,
    method,
    nchw,
    nhwc,
    picked,
    states,
)

from kdiff_jax import features
from kdiff_jax.discriminators import projected

TERMS = {  # of the logits of one network
    "G": lambda logits: jax.nn.softplus(-logits).mean(1).sum(),
    "Dfake": lambda logits: jax.nn.softplus(logits).mean(1).sum(),
    "sum": lambda logits: logits.sum(),
}


@pytest.mark.parametrize(
    "case", [pytest.param("uncond", marks=pytest.mark.slow), "cond"]
)
def test_features_projector_heads_and_their_gradients(case, monkeypatch, tmp_path):
    arrays, weights = data(case)
    own = method(case, monkeypatch, tmp_path)
    disc, params = own.nets["disc"], disc_params(weights)
    y = jnp.asarray(arrays["labels"][0], jnp.int32)
    x = nhwc(arrays["x_real"][0])
    maps = {
        name: features.network(name, features.CLASSIFIER).features(
            features_of(weights, NAMES[k]), x
        )
        for k, name in enumerate(OURS)
    }

    @jax.jit
    def passed(params, state, maps, weight):
        """(terms, logits, new state) and gradients of the weighted terms."""

        def value(maps):
            logits, new = disc.apply(params, state, maps, y)
            each = {
                name: {kind: term(logits[name]) for kind, term in TERMS.items()}
                for name in OURS
            }
            total = sum(
                weight[kind] * each[name][kind] for name in OURS for kind in TERMS
            )
            return total, (each, logits, new)

        return jax.grad(value, has_aux=True)(maps)

    def weigh(chosen):
        return {kind: jnp.float32(kind == chosen) for kind in TERMS}

    state = start = states(arrays, "u0/")
    for number in range(2):
        _, (_, logits, state) = passed(params, state, maps, weigh("sum"))
        for k, name in enumerate(OURS):
            wanted = [arrays[f"head{number}/{k}/{i}"] for i in range(4)]
            wanted = np.concatenate([w.reshape(BATCH, -1) for w in wanted], axis=1)
            close(logits[name], wanted, 3e-5, at=f"head{number}/{name}")
        for key, wanted in arrays.items():
            if key.startswith(f"u{number + 1}/"):
                found = looked_up(state, key.split("/", 1)[1])
                close(found, wanted, 3e-6, at=key)
    for kind in TERMS:
        grads, (each, _, _) = passed(params, start, maps, weigh(kind))
        for k, name in enumerate(OURS):
            key = f"dmap/{kind}/{k}/value64"
            close(each[name][kind], arrays[key], 3e-5, at=key)
            for i in range(4):
                key, found = f"dmap/{kind}/{k}/{i}", nchw(grads[name][i])
                strides = (
                    (256,) if kind == "G" else (1024, 4 if found.size > 256 else 1)
                )
                close(picked(found, *strides), arrays[key], 1e-4, at=key)
    check_projector(arrays, params, maps, case)


def check_projector(arrays, params, maps, case):
    """The maps themselves, after CCM, and after CSM."""
    widths = tuple(WIDTH[case] * 2**i for i in range(4))
    for k, name in enumerate(OURS):
        mixing = params[name]["projection"]
        outs = projected.Projection(widths).apply({"params": mixing}, maps[name])
        for i in range(4):
            ccm = mixing[f"ccm_{i}"]
            mixed = np.asarray(maps[name][i]) @ np.asarray(ccm["kernel"])[0, 0]
            mixed += np.asarray(ccm["bias"])
            for key, found, rel in (
                (f"maps/{k}/{i}", picked(nchw(maps[name][i]), 256), 5e-6),
                (f"ccm/{k}/{i}_every", picked(nchw(mixed), 2048, 8), 5e-6),
                (f"proj/{k}/{i}_every", picked(nchw(outs[i]), 2048, 8), 2e-5),
            ):
                close(found, arrays[key], rel, at=key)
