"""Killed on latents and prompts, a run ends with the bits of one that was not."""

import pathlib
import shutil
import signal

import child
import encoder_files
import numpy as np
import pytest
from PIL import Image
from test_resume import committed, digests_of, logged

from kdiff_jax.data import pairs

HERE = pathlib.Path(__file__).parent
TOKENIZER = HERE.parent / "parity/data/clip_tokenizer"
STAGES = ("teacher", "student", "matched")
FILE = encoder_files.QUICK | dict(vocab_size=1000, max_position_embeddings=77)

# Minutes of compiling; test_resume.py kills a run on pixels and labels by default.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline, photos with captions, and their cache, which was killed, too."""
    found = tmp_path_factory.mktemp("pipeline")
    encoder_files.vae_folder(found / "vae", encoder_files.PLAIN)
    encoder_files.text_folder(found / "text_encoder", FILE)
    shutil.copytree(TOKENIZER, found / "tokenizer")
    (found / "photos").mkdir()
    random = np.random.default_rng(0)
    for i in range(24):
        pixels = random.integers(0, 255, (2, 2, 3), np.uint8)
        Image.fromarray(pixels).save(found / f"photos/{i:02d}.png")
        (found / f"photos/{i:02d}.txt").write_text(f"photo {i}")
    line = [
        *(f"--data={found / 'photos'}", f"--teacher={found}"),
        *(f"--output={found / 'cache'}", "--size=2", "--shard_size=4", "--flip"),
    ]
    process = child.start("cache", *line)
    code, _ = child.stop_when(process, (found / "cache/shard-00001").is_dir)
    assert code == -signal.SIGKILL
    code, said = child.run("cache", *line)
    assert code == 0, said
    return found


def arguments(folder, workdir):
    recipe = f"--config={HERE / 'latent_prompts.py'}:12,{folder}"
    return recipe, f"--workdir={workdir}"


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    code, output = child.run("main", *arguments(folder, workdir))
    assert code == 0, output
    return workdir


def left(workdir) -> dict[str, str]:
    """Digests of models and of every shard of pairs."""
    files = [workdir / s / "model/model.safetensors" for s in STAGES]
    files += sorted(workdir.glob("pairs/*/shard-*/*.npy"))
    return {str(f.relative_to(workdir)): digests_of(f) for f in files}


def test_killed_in_every_stage_no_bit_changes(folder, uninterrupted, tmp_path):
    made = lambda: list(tmp_path.glob("pairs/train/shard-*[0-9]"))  # noqa: E731
    points = [
        lambda: len(committed(tmp_path)) > 0,
        lambda: len(made()) >= 3,
        logged(tmp_path, "student", 5),
        logged(tmp_path, "matched", 7),
    ]
    for ready in points:
        process = child.start("main", *arguments(folder, tmp_path))
        assert child.stop_when(process, ready)[0] == -signal.SIGKILL
    code, output = child.run("main", *arguments(folder, tmp_path))
    assert code == 0 and "matched: resumes at step" in output, output
    assert left(tmp_path) == left(uninterrupted)
    _, x0, y = pairs.open_pairs(tmp_path / "pairs/train").read(np.arange(64))
    assert x0.dtype == np.float16 and len(np.unique(y)) > 12
