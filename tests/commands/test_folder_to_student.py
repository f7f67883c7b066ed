"""A tiny folder of Stable Diffusion: a student by DMD2, pictures, and back again."""

import child
import jax
import numpy as np
import pipeline_files
import pytest

from kdiff_jax import interop, recipe, text
from kdiff_jax.interop import convert

ONE = jax.devices()[:1]
PROMPTS = ["ab cd", "ef gh", "a cat", "red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = pipeline_files.folder(tmp_path_factory.mktemp("files") / "sd", "sd1")
    (found / "prompts.txt").write_text("\n".join(PROMPTS))
    return found


def config(folder, teacher):
    """One-step students of the folder, by DMD2 with its head on the middle."""
    from configs import common

    spec = teacher.spec.plain()
    side, _, channels = spec["image_shape"]
    model = {k: spec[k] for k in ("network", "precondition", "process", "cond_dim")}
    model |= dict(
        image_shape=(side, side, channels),
        num_classes=len(PROMPTS),
        cond_length=77,
        space="latents",
        sampler=dict(name="ddim", num_steps=2, guidance=2.0),
        autoencoder=dict(
            name="autoencoder_kl", widths=(8, 16), num_blocks=1, num_groups=4
        ),
        text=dict(
            name="clip_text",
            vocab_size=1000,
            width=spec["cond_dim"],
            num_blocks=2,
            num_heads=2,
            hidden=24,
        ),
    )
    student = dict(
        method=dict(
            name="dmd2",
            guidance=1.75,
            fake_weight="snr",
            student_every=1,
            gan_weight=1e-3,
            head_groups=2,
            head_place="middle",
        ),
        optim=dict(lr=1e-4),
        sampler=dict(name="renoise", num_steps=1, guidance=1),
        train=dict(num_steps=2, batch_size=2),
    )
    size = 2 * side
    return common.config(
        "sd_tiny",
        order=("student",),
        stages=dict(student=student),
        init=dict(teacher=str(folder)),
        data=dict(
            name="synthetic",
            size=size,
            num_images=8,
            num_classes=len(PROMPTS),
            autoencoder=str(folder),
            text_encoder=str(folder),
            conditions=str(folder / "prompts.txt"),
        ),
        model=model,
        train=dict(log_every=1, sample_every=2),
        evaluate=dict(features="", num_images=4),
    )


@pytest.mark.slow
def test_from_a_folder_to_a_student_and_back(folder, tmp_path):
    teacher = interop.load(folder)
    recipe.run(config(folder, teacher), tmp_path, devices=ONE)
    student = interop.load(tmp_path / "student")
    moved = [
        np.abs(np.asarray(a) - b).max()
        for a, b in zip(
            jax.tree.leaves(student.params),
            jax.tree.leaves(teacher.params),
            strict=True,
        )
    ]
    assert 0 < max(moved) < 1e-2
    out = tmp_path / "out.npz"
    code, said = child.run(
        "sample",
        f"--checkpoint={tmp_path / 'student'}",
        f"--output={out}",
        "--prompt=red cat",
        "--num_images=2",
    )
    assert code == 0, said
    assert np.load(out)["images"].shape == (2, 16, 16, 3)
    source, back = tmp_path / "student/model", tmp_path / "back"
    convert.run(source, back, "diffusers", pipeline=str(folder))
    jax.tree.map(
        np.testing.assert_array_equal, interop.load(back).params, student.params
    )
    latents, images = text.generate(back, ["red cat"], num_steps=2, guidance=1)
    assert latents.shape == (1, 8, 8, 4) and np.isfinite(images).all()
