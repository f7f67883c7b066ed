"""What `--plan` says of programs that are compiled and never run."""

import os
import re
import subprocess
import sys

import jax
import points
import pytest
import recipes

from kdiff_jax import interop, recipe, scale, topology
from kdiff_jax.chips import CHIPS
from kdiff_jax.errors import ConfigError
from kdiff_jax.stages import needs, programs
from kdiff_jax.train import compiled, measure

ON = topology.Found("v5e:1x2", jax.devices()[:2], CHIPS["v5e"])


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    config = points.config()
    return recipe.make_job(config, tmp_path_factory.mktemp("plan"), devices=ON.devices)


@pytest.fixture(scope="module")
def page(job):
    return list(scale.page(job, ON))


def test_every_stage_has_its_programs_on_the_page(page):
    assert page[0].startswith(
        "config several on v5e:1x2: 2 x cpu of 16.9 GB, 197 TFLOP"
    )
    (teacher, student, evaluate) = (
        page.index(f"  {name}:") for name in ("teacher", "student", "evaluate")
    )
    assert page[teacher + 1].startswith("    denoise: ")
    assert "all-reduce" in page[teacher + 1]
    assert "fits, with 16.9 GB to spare" in page[teacher + 3]
    assert page[student + 1].startswith("    tsm: ")
    assert page[evaluate + 1].startswith("    teacher: 250 images by ddim: ")


def test_what_a_step_is_given_is_what_the_stage_holds(job):
    # With the batch: 4 bytes of a label, and the image's of a byte each; what is left
    # are a few numbers.
    stage = job.stages[0]
    (program,) = programs.of_training(job, stage)
    facts = compiled.facts(program.lower)
    mesh = needs.mesh_of(job, stage)
    held = needs.held(job, stage)
    images = stage.train.batch_size // mesh.shape["data"]
    space = job.recipe.space.pixel_shape
    batch = images * (4 + space[0] * space[1] * space[2])
    assert 0 <= facts.arguments - (held.state + held.frozen + batch) < 200


def test_work_is_counted_for_each_device(job):
    stage = job.stages[0]
    costs = needs.needs(job, stage).cost
    (program,) = programs.of_training(job, stage)
    facts = compiled.facts(program.lower)
    here = stage.train.batch_size / needs.mesh_of(job, stage).shape["data"]
    products = 2 * costs.macs(1) * here
    assert program.flops == products
    # Beside matrix products: activations, the optimizer, random numbers.
    assert products < facts.flops < 20 * products


def test_a_sampler_is_counted_with_all_of_its_steps(job):
    net, _ = interop.build(job.recipe.spec)
    spec = job.recipe.spec

    def of(num_steps):
        one = spec.changed({"sampler": {"num_steps": num_steps}})
        found = programs.of_sampling(job, one, 8, "float32", name="teacher")
        assert found.flops == 2 * measure.macs(net) * num_steps * 8 / 2
        return compiled.with_loops(compiled.facts(found.lower), found.flops)

    few, many = of(8), of(64)
    assert many.flops == pytest.approx(8 * few.flops, rel=0.2)
    assert many.bytes > 4 * few.bytes


def test_what_the_compiler_counts_in_full_stays():
    facts = compiled.Facts(1, 2, 3, 100.0, 50.0, {}, (0.0, 0.0))
    assert compiled.with_loops(facts, 90.0) == facts
    assert compiled.with_loops(facts, 400.0)[3:5] == (400.0, 200.0)
    nothing = facts._replace(flops=0.0, bytes=0.0)
    assert compiled.with_loops(nothing, 400.0)[3:5] == (400.0, 0.0)


def test_students_that_take_turns_make_a_step_longer(tmp_path):
    """Three students on two devices: one group, in three turns of one program."""
    config = points.config(num_ranges=3)
    job = recipe.make_job(config, tmp_path, devices=ON.devices)
    page = list(scale.page(job, ON, "student"))
    call = float(re.search(r"at least ([\d.e-]+) ms", page[2])[1])
    step = float(re.search(r"at least ([\d.e-]+) ms a step", page[3])[1])
    assert step == pytest.approx(3 * call, rel=0.01)


def test_a_program_that_does_not_fit_is_told_with_the_ways(job, monkeypatch):
    def full(lower):
        raise compiled.DoesNotFit("47.5GiB of memory, of 15.75GiB")

    monkeypatch.setattr(compiled, "facts", full)
    page = list(scale.page(job, ON, "teacher"))
    assert page[2] == "    denoise: does not fit: 47.5GiB of memory, of 15.75GiB"
    section = "--config.stages.teacher"
    assert page[3].startswith(f"    to make it fit: {section}.precision=bfloat16; ")
    assert len(page) == 5
    assert f"{section}.train.layout=zero1 (" in page[3]


def test_the_ways_are_options_that_exist(job, tmp_path):
    found = needs.needs(job, job.stages[0])
    # Room for the activations of half of a device's images.
    room = job.stages[0].train.batch_size / 4 * found.cost.kept
    chip = CHIPS["v5e"]._replace(memory=sum(found.held) + room)
    ways = scale._ways(job, job.stages[0], chip)
    options = [way.partition(" (")[0] for way in ways]
    assert options[-1].endswith(".train.num_microbatches=2")
    config = points.config()
    for option in options:
        path, _, value = option.removeprefix("--config.").partition("=")
        value = {"2": 2, "True": True}.get(value, value)
        config.update_from_flattened_dict({path: value})
    changed = recipe.make_job(config, tmp_path, devices=ON.devices)
    assert changed.stages[0].precision == "bfloat16"
    assert not scale._ways(changed, changed.stages[0], ON.chip)


HLO = """
  %all-reduce.3 = f32[128,256]{1,0:T(8,128)} all-reduce(f32[128,256] %x), channel_id=1
  ROOT %r = (f32[10]{0}, bf16[3,5]{1,0}) all-reduce(f32[10] %a, bf16[3,5] %b), to=%add
  %s = (f32[4]{0}, f32[16]{0}) all-gather-start(f32[4] %c), dimensions={0}
  %d = f32[16]{0} all-gather-done((f32[4], f32[16]) %s)
  %p = pred[7]{0} collective-permute(pred[7] %q)
  %n = f32[9]{0} fusion(f32[9] %all-reduce.3), calls=%fused
"""


def test_collectives_are_counted_by_what_they_leave():
    assert compiled.collectives(HLO) == {
        "all-reduce": (2, 4 * 128 * 256 + 4 * 10 + 2 * 15),
        "all-gather": (1, 4 * 16),
        "collective-permute": (1, 7),
    }


def test_the_least_time_is_that_of_the_busiest():
    sent = {"all-reduce": compiled.Collective(1, 9 * 10**8)}
    facts = compiled.Facts(0, 0, 0, 1.97e12, 1.64e9, sent, (0.0, 0.0))
    chip = CHIPS["v5e"]  # 1.97e14 FLOP/s, 8.2e11 and 1.8e11 bytes/s
    bound = compiled.bound(facts, chip, num_devices=4, float32=False)
    assert bound.parts["arithmetic"] == pytest.approx(0.01)
    assert bound.parts["memory"] == pytest.approx(0.002)
    # Of an all-reduce in a ring, 2 (n - 1) / n of the bytes pass each device.
    assert bound.parts["links"] == pytest.approx(1.5 * 9e8 / 1.8e11)
    assert (bound.by, bound.seconds) == ("arithmetic", bound.parts["arithmetic"])


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory. Used 47.50G of 15.75G hbm. Exceeded",
        "RESOURCE_EXHAUSTED: program requires 47.50G exceeds available HBM (15.75G)",
    ],
)
def test_what_does_not_fit_says_how_much_it_asked(text):
    class Lowered:
        def compile(self):
            raise RuntimeError(text)

    with pytest.raises(compiled.DoesNotFit, match=r"47\.50GiB of memory, of 15\.75GiB"):
        compiled.facts(Lowered)


@pytest.mark.parametrize("name", ["", "v5e", "v5e:4", "gpu:2x2", "v5e:axb", "h100x0"])
def test_a_topology_that_is_none_is_named(name):
    with pytest.raises(ConfigError, match=f"--topology={name}: is none; give v5e:4x4"):
        topology.find(name)


def test_a_module_is_not_installed_where_its_package_is_not_either():
    assert topology._installed("json.decoder")
    assert not topology._installed("json.no_such_module")
    assert not topology._installed("no_such_package.module")


def test_without_its_compiler_a_topology_says_what_to_install(monkeypatch):
    monkeypatch.setattr(topology, "_installed", lambda name: False)
    with pytest.raises(ConfigError, match=r"pip install 'kdiff_jax\[plan\]'"):
        topology.find("v5e:4x4")
    with pytest.raises(ConfigError, match="pip install jax-cuda12-plugin"):
        topology.find("h100x8")
    with pytest.raises(ConfigError, match="h100x12: hosts have 8 GPUs"):
        topology.find("h100x12")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "compiler"),
    [
        ("v5e:4x4", "TPU v5 lite", "libtpu"),
        ("h100x16", "NVIDIA H100", "jax_plugins.xla_cuda12"),
    ],
)
def test_a_step_is_compiled_for_devices_that_are_not_here(
    tmp_path, name, kind, compiler
):
    pytest.importorskip(compiler)
    command = [sys.executable, "-m", "kdiff_jax.main", "--plan", f"--topology={name}"]
    recipe = recipes.ROOT / "configs" / "digits_progressive.py"
    command += [f"--config={recipe}:tiny", "--stage=teacher", f"--workdir={tmp_path}"]
    for stage in ("teacher", "progressive"):  # all of a recipe is to split
        command += [f"--config.stages.{stage}.train.batch_size=16"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ, timeout=600
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"config digits_progressive on {name}: 16 x {kind} of ")
    assert "all-reduce" in lines[2]
    assert "in all: at least" in lines[3]
