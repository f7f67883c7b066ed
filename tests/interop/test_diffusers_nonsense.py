"""Configs of diffusers that make no sense end with one line, whatever is wrong."""

import json
import pathlib
import shutil

import pytest

from kdiff_jax import interop
from kdiff_jax.errors import UserError

DATA = pathlib.Path(__file__).parents[1] / "parity" / "data"
FOLDER = DATA / "diffusers_class_conditional"


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "block_out_channels", "ab"),
        ("config.json", "block_out_channels", [0, 48]),
        ("config.json", "block_out_channels", [-24, 48]),
        ("config.json", "block_out_channels", []),
        ("config.json", "block_out_channels", None),
        ("config.json", "down_block_types", None),
        ("config.json", "sample_size", "a"),
        ("config.json", "sample_size", [16]),
        ("config.json", "sample_size", -16),
        ("config.json", "norm_num_groups", 0),
        ("config.json", "attention_head_dim", 0),
        ("config.json", "attention_head_dim", -8),
        ("config.json", "num_class_embeds", "x"),
        ("config.json", "layers_per_block", 10**7),
        ("config.json", "dropout", "a"),
        ("config.json", "freq_shift", None),
        ("config.json", "in_channels", "3"),
        ("scheduler_config.json", "_class_name", ["x"]),
        ("scheduler_config.json", "num_train_timesteps", 0),
        ("scheduler_config.json", "num_train_timesteps", 10**9),
        ("scheduler_config.json", "beta_start", -1.0),
    ],
)
def test_nonsense_is_refused(tmp_path, file, key, value):
    folder = tmp_path / "model"
    shutil.copytree(FOLDER, folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError) as error:
        interop.load(folder)
    assert "\n" not in str(error.value)


def test_the_folder_itself_loads():
    assert interop.load(FOLDER).num_params > 0
