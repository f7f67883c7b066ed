"""`export` as a user calls it, and the loaders of docs/export.md."""

import pathlib
import re

import child
import jax
import numpy as np
import pytest

from kdiff_jax import interop, sample
from kdiff_jax.train import generate, parallel

PAGE = pathlib.Path(__file__).parents[2] / "docs/export.md"


def blocks():
    """The loaders of the page, by the library that they import."""
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    assert all(len(block.splitlines()) <= 10 for block in found)
    assert not any("kdiff" in block for block in found)
    return found


def block(library):
    """The loader that imports a library."""
    (found,) = [block for block in blocks() if library in block]
    return found


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A model of points in the plane with ten classes."""
    folder = tmp_path_factory.mktemp("models") / "student"
    spec = interop.Spec.of(
        dict(
            network=dict(name="mlp", channels=8, num_blocks=1),
            precondition=dict(name="v"),
            process=dict(name="cosine"),
            image_shape=(1, 1, 2),
            sampler=dict(name="ddim", num_steps=1),
            num_classes=10,
        )
    )
    net, _ = interop.build(spec)
    params = jax.tree.map(lambda x: 2 * x + 0.1, net.init(jax.random.key(0)))
    interop.save(folder, spec=spec, params=params)
    return folder


def run(student, *arguments):
    return child.run("export", f"--checkpoint={student}", *arguments)


def expected(student):
    model = interop.load(student)
    mesh = parallel.make_mesh(jax.devices()[:1])
    make = generate.of_model(model, model.sampler(), mesh=mesh)
    labels = sample.parse_labels(None, 10, 10)
    return make.images(model.students, seed=0, labels=labels, batch_size=10)


def test_the_programs_of_the_page(student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside, beside, *_ = blocks()
    code, said = run(student, f"--output={tmp_path}/student.stablehlo")
    assert code == 0 and "generator(seed i32[], y i32[B]) -> u8[B, 1, 1, 2]" in said
    code, said = run(
        student, f"--output={tmp_path}/large.stablehlo", "--weights=beside"
    )
    assert code == 0 and "large.npz" in said, said
    assert {p.name for p in tmp_path.iterdir()} == {
        "student.stablehlo",
        "large.stablehlo",
        "large.npz",
    }
    for block in (inside, beside):
        found: dict = {}
        exec(block, found)
        np.testing.assert_array_equal(found["images"], expected(student))


def test_the_weights_of_the_page(student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = ["--output=FOLDER", "--target=safetensors"]
    code, said = run(student, *folder[1:], f"--output={tmp_path}/FOLDER")
    assert code == 0, said
    found: dict = {}
    exec(block("safetensors"), found)
    assert found["layout"] == "flax" and len(found["weights"]) == 4


def test_the_onnx_file_of_the_page(student, tmp_path, monkeypatch):
    pytest.importorskip("jax2onnx")
    monkeypatch.chdir(tmp_path)
    options = ["--target=onnx", "--batch_size=4", f"--output={tmp_path}/student.onnx"]
    code, said = run(student, *options)
    assert code == 0 and "from the model's own results" in said, said
    found: dict = {}
    exec(block("onnxruntime"), found)
    model = interop.load(student)
    z, y = np.float32(found["z"]), found["labels"]
    x0 = model.sampler().sample(model.denoise, z, y)
    expected = np.asarray(model.net.space.to_pixels({}, x0)).astype(int)
    assert np.abs(expected - found["images"]).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--output=x.npz"], 2, "--output=x.npz: .npz is the ending of weights"),
        (["--student=1"], 2, "--student=1: this model is a single one"),
        (["--conditions=tokens"], 2, "--conditions=tokens: this model reads none"),
        (["--num_steps=0"], 2, "--num_steps"),
        (["--sampler.nonsense=1"], 2, "--sampler.nonsense"),
        (["--checkpoint=/no/model"], 4, "/no/model"),
        (["--target=diffusers", "--start=noise"], 2, "--start=noise: is for --target"),
        (["--target=diffusers"], 4, "mlp"),
        (
            ["--target=onnx", "--start=noise"],
            2,
            "--start=noise: is for --target=stable",
        ),
        (["--batch_size=3"], 2, "--batch_size=3: is for --target=onnx"),
        (["--target=tflite"], 2, "tflite"),
    ],
)
def test_what_is_wrong_is_one_line(student, tmp_path, arguments, code, words):
    known = {word.partition("=")[0] for word in arguments}
    given = {"--checkpoint": student, "--output": tmp_path / "x"}
    filled = [f"{key}={value}" for key, value in given.items() if key not in known]
    found, said = child.run("export", *filled, *arguments)
    (line,) = said.splitlines()
    assert found == code and words in line, said
    assert not list(tmp_path.iterdir())
