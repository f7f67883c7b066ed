"""A workdir tells what it was made with, also where its config has changed."""

import json
import shutil

import pytest
import recipes

from kdiff_jax import recipe
from kdiff_jax.errors import ConfigError
from kdiff_jax.stages import finish, record


def job(workdir, **changes):
    config = recipes.load("digits_student", "tiny").unlock()
    for path, value in changes.items():
        *sections, key = path.split("__")
        section = config
        for name in sections:
            section = section[name]
        section[key] = value
    return recipe.make_job(config, workdir)


@pytest.fixture
def begun(tmp_path):
    """A teacher and pairs that are done, and a student at step 120."""
    record.write(job(tmp_path), False, None)
    for stage in ("teacher", "pairs"):
        (tmp_path / stage).mkdir()
        finish(tmp_path / stage)
    (tmp_path / "student/checkpoints/120").mkdir(parents=True)
    (tmp_path / "student/checkpoints/tmp.130").mkdir()
    return tmp_path


def test_what_is_still_to_be_done_may_change_and_is_recorded(begun, caplog):
    first = json.loads((begun / "config.json").read_text())
    changed = job(begun, stages__student__optim__lr=1e-4)
    with pytest.raises(ConfigError, match="lr was 0.001, is 0.0001; take another"):
        record.write(changed, False, None)
    caplog.set_level("INFO")
    record.write(changed, True, None)
    lines = [x.getMessage() for x in caplog.records]
    assert "teacher: is done and kept, nothing of it has changed" in lines
    assert any("lr was 0.001, is 0.0001 from step 120" in line for line in lines)
    record.write(changed, False, None)  # that is its config now
    longer = dict(
        stages__student__optim__lr=1e-4, stages__student__train__num_steps=200
    )
    record.write(job(begun, **longer, evaluate__num_images=30), True, None)
    now = json.loads((begun / "config.json").read_text())
    assert now["command"] == first["command"] and now["versions"] == first["versions"]
    one, two = now["changes"]
    assert one["values"] == {"stages.student.optim.lr": [1e-3, 1e-4]}
    assert one["from_step"]["student"] == 120 and one["done"] == ["teacher", "pairs"]
    assert two["values"]["stages.student.train.num_steps"] == [4, 200]
    assert two["values"]["evaluate.num_images"] == [20, 30]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (dict(stages__pairs__num_pairs=32), "stage pairs was finished with the old"),
        (dict(stages__teacher__optim__lr=1.0), "stage teacher was finished"),
        (dict(model__network__channels=16), "stage teacher was finished"),
        (dict(seed=1), "stage teacher was finished"),
        (dict(data__use_labels=False), "stage teacher was finished"),
        (dict(stages__student__train__num_steps=119), "is already at step 120"),
        (dict(stages__student__method__loss="l1"), "stage student has begun"),
        (dict(stages__student__optim__weight_decay=0.1), "stage student has begun"),
    ],
)
def test_what_would_be_untrue_is_refused_and_the_way_out_works(begun, change, why):
    before = (begun / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=why) as error:
        record.write(job(begun, **change), True, None)
    assert (begun / "config.json").read_bytes() == before
    folders = str(error.value).partition("; delete ")[2].partition(", or take")[0]
    for folder in folders.split(", "):
        shutil.rmtree(folder)
    record.write(job(begun, **change), True, None)


def test_a_workdir_of_before_there_were_vectors_and_spaces_goes_on(tmp_path):
    now = job(tmp_path).recipe.config
    before = json.loads(json.dumps(now))
    for section, keys in (("model", ("cond_dim", "space")), ("data", ("conditions",))):
        for key in keys:
            del before[section][key]
    assert record.differences(record._with_later_options(before, now), now) == []


def test_a_workdir_of_before_there_were_metrics_by_name_goes_on(tmp_path):
    """Whose default is a tuple, which JSON keeps as a list."""
    (tmp_path / "before").mkdir()
    one = job(tmp_path / "before")
    record.write(one, False, None)
    path = one.workdir / "config.json"
    before = json.loads(path.read_text())
    for key in ("metrics", "preprocessing", "per", "seeds", "labels", "headline"):
        del before["config"]["evaluate"][key]
    del before["digest"]
    path.write_text(json.dumps(before))
    record.write(one, False, None)
    assert "metrics" not in json.loads(path.read_text())["config"]["evaluate"]
