"""Where the weights of a diffusers folder lie: averages, shards, schedulers beside."""

import json
import logging
import pathlib
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_diffusers_import import DDPM, ddpm_folder

from kdiff_jax import interop
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.interop import diffusers, foreign
from kdiff_jax.interop import diffusers_files as files
from kdiff_jax.interop.source import Facts

PLAIN = "diffusion_pytorch_model.safetensors"
INDEX = f"{PLAIN}.index.json"
EMA = dict(
    decay=0.9999,
    inv_gamma=1.0,
    min_decay=0.0,
    optimization_step=500,
    power=0.75,
    update_after_step=0,
    use_ema_warmup=True,
)
KERNEL = "conv_in/kernel"


def kernel(source):
    return source.leaves[KERNEL].read()


def moved(folder, by=1.0):
    """The folder with other weights."""
    arrays = {k: lazy.of(v + by) for k, v in load_file(folder / PLAIN).items()}
    tensors.write(folder / PLAIN, arrays)
    return folder


def refused(folder, facts=None):
    with pytest.raises(CheckpointError) as caught:
        diffusers.convert(folder, facts or Facts())
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


@pytest.fixture
def training(tmp_path):
    """A checkpoint of diffusers' training script, in the folder of its run."""
    checkpoint = tmp_path / "run/checkpoint-500"
    ddpm_folder(checkpoint / "unet")
    moved(ddpm_folder(checkpoint / "unet_ema", DDPM | EMA))
    scheduler = {"_class_name": "DDPMScheduler", "prediction_type": "v_prediction"}
    (tmp_path / "run/scheduler").mkdir()
    path = tmp_path / "run/scheduler/scheduler_config.json"
    path.write_text(json.dumps(scheduler))
    return checkpoint


def test_the_average_of_a_training_checkpoint_is_taken_and_named(training, caplog):
    with caplog.at_level(logging.WARNING):
        model = interop.load(training)
    raw = load_file(training / "unet" / PLAIN)["conv_in.weight"]
    raw = raw.transpose(2, 3, 1, 0)
    wanted = raw + 1
    np.testing.assert_array_equal(model.params["conv_in"]["kernel"], wanted)
    (line,) = [m for m in caplog.messages if "weights=" in m]
    assert "weights='unet_ema': the moving average, not 'unet' beside it" in line
    assert model.spec.plain()["source"]["file"] == f"checkpoint-500/unet_ema/{PLAIN}"
    # The run's scheduler, two folders up.
    assert model.spec.plain()["precondition"] == {"name": "v"}
    own = diffusers.convert(training / "unet", Facts())
    np.testing.assert_array_equal(kernel(own), raw)
    assert own.assumed[0].startswith("weights='unet': asked for; the average is")
    assert own.spec["precondition"] == {"name": "v"}


def test_fields_of_the_average_say_nothing_of_the_network(tmp_path):
    plain = diffusers.convert(ddpm_folder(tmp_path / "a"), Facts())
    average = diffusers.convert(ddpm_folder(tmp_path / "b", DDPM | EMA), Facts())
    assert average.spec == plain.spec


def test_options_of_another_version_are_taken_if_they_are_off(tmp_path):
    folder = ddpm_folder(tmp_path, DDPM | dict(new_norm=None, rope=False))
    said = diffusers.convert(folder, Facts()).assumed
    assert [line.split(":")[0] for line in said if "version" in line] == [
        "new_norm=None",
        "rope=False",
    ]
    for value in (True, 0, 1, "x"):
        ddpm_folder(tmp_path, DDPM | {"rope": value})
        with pytest.raises(CheckpointError, match=f"rope={value!r}: .*no such option"):
            diffusers.convert(folder, Facts())


def test_the_network_of_a_pipeline_takes_its_scheduler(tmp_path, monkeypatch):
    pipeline = tmp_path / "pipe"
    ddpm_folder(pipeline / "unet")
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (pipeline / "model_index.json").write_text(json.dumps(index))
    (pipeline / "scheduler").mkdir()
    scheduler = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
    path = pipeline / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(scheduler))
    whole = diffusers.convert(pipeline, Facts())
    assert whole.spec["precondition"] == {"name": "v"}
    part = diffusers.convert(pipeline / "unet", Facts())
    assert part.spec == whole.spec
    assert part.assumed[0].startswith("scheduler: that of ")
    monkeypatch.chdir(pipeline / "unet")  # and by a path that does not name it
    here = diffusers.convert(pathlib.Path("."), Facts())
    assert here.spec == whole.spec
    with pytest.raises(CheckpointError, match="precondition='eps'.*says 'v'"):
        diffusers.convert(pipeline / "unet", Facts(precondition="eps"))


def shards(folder, count=2, **changes):
    """The folder with its weights cut up; `changes` to the index' table."""
    arrays = load_file(folder / PLAIN)
    (folder / PLAIN).unlink()
    names = [f"diffusion_pytorch_model-{i:05}-of-{count:05}" for i in range(count)]
    table = {k: f"{names[i % count]}.safetensors" for i, k in enumerate(arrays)}
    for file in set(table.values()):
        part = {k: lazy.of(arrays[k]) for k in arrays if table[k] == file}
        tensors.write(folder / file, part)
    index = {"metadata": {"total_size": 1}, "weight_map": table | changes}
    (folder / INDEX).write_text(json.dumps(index))
    return folder, table


def test_shards_are_one_table(tmp_path):
    plain = diffusers.convert(ddpm_folder(tmp_path / "a"), Facts())
    folder, table = shards(ddpm_folder(tmp_path / "b"))
    found = diffusers.convert(folder, Facts())
    assert found.leaves.keys() == plain.leaves.keys()
    for name, leaf in found.leaves.items():
        np.testing.assert_array_equal(leaf.read(), plain.leaves[name].read())
    _, origin = foreign.read(folder)
    assert origin.file == f"b/{INDEX}"
    shard = folder / next(iter(table.values()))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert foreign.read(folder)[1].sha256 != origin.sha256


def test_shards_of_torch(tmp_path):
    folder, table = shards(ddpm_folder(tmp_path / "b"))
    renamed = {k: v.replace("safetensors", "bin") for k, v in table.items()}
    for old, new in set(zip(table.values(), renamed.values(), strict=True)):
        (folder / old).rename(folder / new)  # what counts is the content
    (folder / INDEX).unlink()
    index = folder / "diffusion_pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": renamed}))
    assert len(diffusers.convert(folder, Facts()).leaves) == 144


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/../b",
        "",
        3,
        "config.json",
        "diffusion_pytorch_model/x",
    ],
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path, name):
    folder, _ = shards(ddpm_folder(tmp_path), **{"conv_in.weight": name})
    assert "no name of a shard" in refused(folder)


def test_shards_that_do_not_fit_their_index_are_refused(tmp_path):
    folder, table = shards(ddpm_folder(tmp_path / "a"))
    first, second = sorted(set(table.values()))
    inside = load_file(folder / second)
    (folder / second).unlink()
    assert re.match(rf"{second} is missing, and 0 more", refused(folder))
    name = next(iter(load_file(folder / first)))
    arrays = {k: lazy.of(v) for k, v in inside.items()}
    tensors.write(folder / second, arrays | {name: lazy.of(np.ones(1, np.float32))})
    assert f"{name} is in two shards" in refused(folder)
    tensors.write(folder / second, arrays | {"more": lazy.of(np.ones(1, np.float32))})
    assert f"{second} has more, other than" in refused(folder)
    arrays.pop(lost := next(iter(arrays)))
    tensors.write(folder / second, arrays)
    assert f"{second} lacks {lost}" in refused(folder)
    for text in ("{}", '{"weight_map": []}', '{"weight_map": {}}'):
        (folder / INDEX).write_text(text)
        assert "has no weight_map" in refused(folder)
    (folder / INDEX).write_text("[" * 100_000)
    assert "it is damaged" in refused(folder)


def test_which_of_several_files_is_said(tmp_path):
    folder = ddpm_folder(tmp_path)
    shutil.copy(folder / PLAIN, folder / "diffusion_pytorch_model.bin")
    shutil.copy(folder / PLAIN, folder / "diffusion_pytorch_model.fp16.safetensors")
    said = diffusers.convert(folder, Facts()).assumed
    line = next(line for line in said if line.startswith("weights="))
    assert f"weights={PLAIN!r}: read, and not diffusion_pytorch_model.bin" in line
    average = folder / "diffusion_pytorch_model.ema.safetensors"
    tensors.write(
        average, {k: lazy.of(v + 1) for k, v in load_file(folder / PLAIN).items()}
    )
    found = diffusers.convert(folder, Facts())
    raw = load_file(folder / PLAIN)["conv_in.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel(found), raw + 1)


def test_json_too_deep_or_too_large_is_damaged(tmp_path):
    folder = ddpm_folder(tmp_path)
    deep = '{"a":' * 50_000 + "1" + "}" * 50_000
    for text in (deep, "[" * 10**6, '{"a": "' + "x" * 2**24 + '"}'):
        (folder / "config.json").write_text(text)
        assert "config.json: " in refused(folder)


def test_a_variant_that_is_asked_for_is_read(tmp_path):
    """By the names of diffusers' and of transformers' files, which differ."""
    for stem in (files.WEIGHTS, *files.TRANSFORMERS):
        folder = tmp_path / stem
        folder.mkdir()
        names = (f"{stem}.safetensors", f"{stem}.fp16.safetensors")
        for value, name in enumerate(names):
            tensors.write(folder / name, {"a": lazy.of(np.full(2, value, "f4"))})
        found, used, _ = files.weights(folder, stems=(stem,), variant="fp16")
        assert found["a"].read().tolist() == [1, 1]
        assert used == (folder / names[1],)
        assert files.weights(folder, stems=(stem,))[0]["a"].read().tolist() == [0, 0]
        with pytest.raises(CheckpointError, match=rf"variant='x': .*no {stem}\.x\.saf"):
            files.weights(folder, stems=(stem,), variant="x")
