"""A stage of GDD reads the table of classes that its method names."""

import jax
import numpy as np
import pytest
import recipes

from kdiff_jax import build, interop, plan, recipe
from kdiff_jax.errors import CheckpointError
from kdiff_jax.train import loop


class Begun(Exception):
    """The first state is there."""


@pytest.fixture
def config(tmp_path):
    """A student with a brought teacher of random weights, and a table's path."""
    found = build.plain(recipes.load("digits_gdd", "tiny"))
    net, _ = interop.build(found["model"])
    teacher = str(tmp_path / "teacher")
    params = net.init(jax.random.key(0))
    interop.save(teacher, params=params, spec=found["model"])
    found["init"]["teacher"], found["order"] = teacher, ["student"]
    student = found["stages"]["student"]
    path = str(tmp_path / "table.npy")
    student["method"] |= dict(class_embedding=path, class_embedding_dim=3)
    return found


def test_every_head_of_a_stage_begins_with_the_table(config, tmp_path, monkeypatch):
    states = []

    def run(programs, state, **keywords):
        states.append((jax.device_get(state), keywords["frozen"]))
        raise Begun

    monkeypatch.setattr(loop, "run", run)
    counted = plan.text(recipe.make_job(config, tmp_path / "run"))
    assert "student" in counted  # without the file
    with pytest.raises(CheckpointError, match="method.class_embedding=.*no such file"):
        recipe.run(config, tmp_path / "run", devices=jax.devices()[:1])
    table = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    np.save(tmp_path / "table.npy", table)
    with pytest.raises(Begun):
        recipe.run(config, tmp_path / "run", devices=jax.devices()[:1])
    ((state, frozen),) = states
    leaves = jax.tree_util.tree_leaves_with_path(state.nets["disc"].params)
    tables = [leaf for path, leaf in leaves if path[-1].key == "embedding"]
    assert len(tables) > 1 and "class_embedding" not in frozen
    for found in tables:
        np.testing.assert_array_equal(found, table[None])
