"""Students with fewer blocks than their teacher begin with those that they keep."""

import re

import jax
import numpy as np
import pytest
import recipes

from kdiff_jax import build, interop, recipe
from kdiff_jax.errors import CheckpointError
from kdiff_jax.stages import before, roles


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """(config of sd15_o2mkd with a teacher that is there, its parameters)."""
    found = build.plain(recipes.load("sd15_o2mkd", "tiny"))
    found["order"] = ["common", "student"]
    spec = interop.Spec.of(found["model"])
    net, _ = interop.build(spec)
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: noise.standard_normal(x.shape).astype(np.float32),
        jax.eval_shape(net.init, jax.random.key(0)),
    )
    folder = tmp_path_factory.mktemp("teacher") / "model"
    table = np.load(found["data"]["conditions"])
    interop.save(folder, params=params, spec=spec, frozen={"conditions": table})
    found["init"] = dict(teacher=str(folder))
    return found, params


def begun(config, folder):
    """The first stage's job and what it is given."""
    job = recipe.make_job(config, folder, devices=jax.devices()[:1])
    return job, roles.find(job, job.stages[0])


def test_every_block_that_is_kept_is_the_teachers(config, tmp_path):
    config, teacher = config
    job, found = begun(config, tmp_path)
    student = found.params["student"]
    assert student.keys() < teacher.keys()
    for name, layer in student.items():
        source = re.sub(r"(up_blocks_\d_(resnets|attentions))_1", r"\1_2", name)
        jax.tree.map(np.testing.assert_array_equal, layer, teacher[source])
    lacks = teacher.keys() - student.keys()
    assert "mid_block_resnets_0" in lacks and "down_blocks_0_resnets_1" in lacks
    # The copies begin as it, and all four as large.
    common, copies = job.stages
    assert copies.partition and not copies.blocks and copies.init.student == "common"
    assert before.spec(job, copies).network == before.spec(job, common).network


def test_a_student_that_is_larger_than_its_teacher_is_refused(config, tmp_path):
    config, _ = config
    common = config["stages"]["common"]
    more = {"network": {"num_blocks": 1, "mid_depth": 1}}
    config = config | {
        "stages": config["stages"] | {"common": common | {"model": more}}
    }
    text = "blocks='bk_sdm': .* nothing for its layer mid_block_attentions_0; take"
    with pytest.raises(CheckpointError, match=text) as caught:
        begun(config, tmp_path)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 4
