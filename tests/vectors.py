"""Points in the plane that are conditioned on vectors, rows of a table in a file."""

import numpy as np
import points

DIM = 3


def table() -> np.ndarray:
    """f32[8, 3]: the turn of each class of `mixture`, and whether it is even."""
    angle = 2 * np.pi * np.arange(8) / 8
    even = 0.3 * (np.arange(8) % 2)
    return np.stack([np.cos(angle), np.sin(angle), even], axis=1).astype(np.float32)


def config(path, rows=None, model=None, **partition):
    """Teacher, pairs, students by DMD, evaluation; `path` gets the table."""
    from configs import common

    np.save(path, table() if rows is None else rows)
    found = points.sections()
    found["model"] |= dict(cond_dim=DIM, **(model or {}))
    found["data"] |= dict(conditions=str(path))
    found["evaluate"] |= dict(features="pixels", num_images=16)
    short = dict(num_steps=2, batch_size=8)
    stages = dict(
        teacher=dict(
            method=dict(name="denoise", null_prob=0.2), optim=points.OPTIM, train=short
        ),
        pairs=common.tiny_pairs(),
        student=dict(
            method=dict(name="dmd"),
            optim=points.OPTIM,
            pairs="pairs",
            sampler=dict(name="ddim", num_steps=1),
            train=short,
            **(dict(partition=True) if partition else {}),
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "student")),
    )
    more = dict(partition=partition) if partition else {}
    return common.config(
        "vectors",
        order=tuple(stages),
        stages=stages,
        train=common.tiny_train(),
        **more,
        **found,
    ).unlock()
