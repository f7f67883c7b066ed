"""References that figures are compared with: what their making and reading says."""

import json
import pathlib

import numpy as np
import pytest
import torch_resnet
from child import run
from PIL import Image
from test_outputs import save

RNG = np.random.default_rng(0)


def folder(path: pathlib.Path, images) -> pathlib.Path:
    """Images as .png files."""
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


def evaluate(*words: str) -> tuple[int, list[str]]:
    """(exit code, lines) of the command."""
    code, said = run("evaluate", *words)
    return code, said.splitlines()


def row_of(lines: list[str]) -> dict:
    return json.loads(next(line for line in lines if line.startswith("{")))


@pytest.fixture(scope="module")
def images():
    return RNG.integers(0, 256, (9, 1, 1, 3), np.uint8)


def test_a_reference_of_equal_images_is_told_when_made_and_when_read(tmp_path, images):
    np.savez(tmp_path / "same.npz", images=np.full((9, 1, 1, 3), 100, np.uint8))
    reference = f"--reference={tmp_path / 'same.npz'}"
    metrics, made = "--metrics=fd,kd,memorisation", tmp_path / "ref.npz"
    code, lines = evaluate("--make_reference", reference, metrics, f"--output={made}")
    assert code == 0
    (line,) = [line for line in lines if "all images have the same features" in line]
    assert f"{reference[2:]}: all images" in line

    own = f"--images={folder(tmp_path / 'own', images)}"
    code, lines = evaluate(own, f"--reference={made}", metrics)
    assert code == 0
    assert sum(f"reference={made}: all images have" in line for line in lines) == 1
    assert sum("nearest_pixels=inf: no finite figure" in line for line in lines) == 1
    figures = row_of(lines)["metrics"]
    assert "nearest_pixels" not in figures and None not in figures.values()


def test_small_groups_are_told_once_for_all_seeds(tmp_path):
    images = RNG.integers(0, 256, (40, 1, 1, 3), np.uint8)
    np.savez(tmp_path / "some.npz", images=images, labels=np.arange(40) % 8)
    words = f"--checkpoint={save(tmp_path / 'model')}", "--num_images=24", "--seeds=2"
    more = f"--reference={tmp_path / 'some.npz'}", "--per=class", "--metrics=fd,prdc"
    code, lines = evaluate(*words, *more)
    assert code == 0
    told = [line for line in lines if "groups: " in line]
    assert "prdc left out of 8 of 8, which have fewer than 6 images (0: 3," in told[0]
    assert "8 of 8 have no more images than the 3 features" in told[1]
    assert len(told) == 2
    found = row_of(lines)["groups"]
    assert [list(one) for one in found.values()] == [["num_images", "fd_pixels"]] * 8


def test_images_that_cannot_be_compared_are_refused_in_a_line(tmp_path, images):
    """Grey ones with features of colour, and such of two sizes."""
    weights = tmp_path / "resnet56.npz"
    np.savez(weights, **torch_resnet.random_weights(RNG, num_blocks=9))
    np.savez(tmp_path / "colour.npz", images=images.repeat(8, 1).repeat(8, 2))
    whole = images.repeat(8, 1).repeat(8, 2)
    grey = folder(tmp_path / "grey", whole[..., 0])
    mixed = folder(tmp_path / "mixed", [whole[0], whole[1][:4]])
    some = folder(tmp_path / "some", [whole[0][..., 0], *whole[1:]])
    more = "--features=resnet56", f"--weights={weights}"
    reference = f"--reference={tmp_path / 'colour.npz'}"

    def lines_of(own, *words):
        code, lines = evaluate(f"--images={own}", reference, *words)
        return code, lines[-1]

    code, line = lines_of(grey, *more)
    assert code == 3 and "all are grey, and features=resnet56 and what" in line
    code, line = lines_of(grey)
    assert code == 3 and "images of [8, 8, 3], and" in line
    code, line = lines_of(mixed)
    assert code == 3 and "8x4 in a set of 8x8; give files of one size, all" in line
    assert "data.size" not in line
    assert lines_of(some, *more)[0] == 0
