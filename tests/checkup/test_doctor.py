"""What is off on a machine is a line with advice, and a report tells nobody's names."""

import errno
import os
import pathlib

import jax
import numpy as np
import pytest

from kdiff_jax import chips
from kdiff_jax.checkup import checks, finding, machine, private, speed, workdir
from kdiff_jax.checkup.finding import Finding
from kdiff_jax.errors import CheckpointError

NAMES = [name for name, *_ in checks.listed(pathlib.Path("w"), lambda: None)]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("[Errno 2] No such file: '/home/ada l/a b/c'", "[Errno 2] No such file: PATH"),
        ("see file:///data/x/y.txt: gone", "see PATH: gone"),
        ("../her thesis/w: no", "PATH thesis/w: no"),
        ("~ada/runs is full", "PATH is full"),
        ("gs://her-bucket/run, 3 files", "PATH, 3 files"),
        ("no 10.1.2.3:8476 nor node1.lab.edu:8476", "no ADDRESS nor ADDRESS"),
        ("mail ada@lab.edu", "mail NAME"),
        ("312 TFLOP/s, 1/2 of it at 3.5 MB/s", "312 TFLOP/s, 1/2 of it at 3.5 MB/s"),
        ("jax 0.10.2, jaxlib 0.10.2", "jax 0.10.2, jaxlib 0.10.2"),
    ],
)  # fmt: skip
def test_what_is_taken_out_of_a_text(text, left):
    assert private.scrubbed([{"a": text}], {}) == [{"a": left}]


def test_a_workdir_is_called_so_however_it_was_given():
    tree = {"text": "my thesis/run 3/.doctor.1: full", "n": 3, "none": None}
    found = private.scrubbed(tree, {"my thesis/run 3": "WORKDIR"})
    assert found == {"text": "WORKDIR/.doctor.1: full", "n": 3, "none": None}


def raising(error):
    def check():
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "code", "text", "advice"),
    [
        (CheckpointError("w: is damaged; delete it"), 4, "w: is damaged", "delete it"),
        (OSError(errno.EROFS, "read-only", "/w"), 7, "/w: Read-only", "mount it"),
        (ValueError("Failed: No space left on device"), 7, "No space", "free some"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), 2, "out of memory", "end what else"),
        (RuntimeError("INTERNAL:\n cuBLAS"), 1, "INTERNAL: cuBLAS", "mend the device"),
    ],
)
def test_what_a_check_raises_is_a_line(error, code, text, advice):
    found = finding.of("part", raising(error))
    assert (found.exit_code, found.state) == (code, "broken")
    assert text in found.text and found.advice.startswith(advice)
    assert found.line().count("\n") == 1


def test_without_jax_the_rest_is_looked_at(tmp_path):
    broken = raising(RuntimeError("no driver"))
    found = {one.name: one for one in checks.findings(tmp_path, 0.0, start=broken)}
    states = {name: one.state for name, one in found.items()}
    fine = {"JAX": "broken", "versions": "fine", "disk": states["disk"]}
    assert states == dict.fromkeys(NAMES, "skipped") | fine
    assert found["matmul"].text == "not tried: JAX does not work"


@pytest.mark.parametrize("kind", ["matmul", "convolution"])
def test_work_is_timed_on_the_first_device_and_right_on_all(kind, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0)
    devices = jax.devices()[:2]
    monkeypatch.setattr(speed.jax, "local_devices", lambda: devices)
    found = speed.check(kind)
    assert found.state == "fine" and found.facts["wrong_devices"] == []
    assert "GFLOP/s in float32, right; the peak is not known" in found.text


@pytest.mark.parametrize(
    ("make", "place"), [(speed.matmul, (3, 5)), (speed.convolution, (7, 5, 5, 1))]
)
def test_one_wrong_number_is_seen(make, place):
    work = make(small=True)
    right = np.array(jax.jit(work.apply)(*[x.astype("float32") for x in work.operands]))
    assert work.is_right(right)
    right[place] += 2
    assert not work.is_right(right)


def test_a_device_that_computes_wrongly_ends_with_5(monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0)
    work = speed.matmul(small=True)._replace(is_right=lambda found: False)
    monkeypatch.setattr(speed, "matmul", lambda small: work)
    devices = jax.devices()[:1]
    monkeypatch.setattr(speed.jax, "local_devices", lambda: devices)
    found = speed.check("matmul")
    assert found.exit_code == 5 and "device 0 of 1" in found.text


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla T4", 65),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
    ],
)
def test_chips_by_the_names_that_jax_has_for_them(kind, tflops):
    assert chips.of_kind(kind).flops == tflops * 1e12


@pytest.mark.parametrize(
    "kind",
    ["cpu", "NVIDIA GeForce GTX 1080", "TPU v9", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"],
)
def test_no_peak_is_made_up(kind):
    assert chips.of_kind(kind) is None


def test_a_share_of_the_peak_that_is_low_has_advice():
    chip = chips.of_kind("NVIDIA A100-SXM4-80GB")
    good = speed._judged("matmul", 250e12, "bfloat16", chip, {})
    slow = speed._judged("matmul", 90e12, "bfloat16", chip, {})
    assert good.state == "fine" and "80% of the peak of 312" in good.text
    assert slow.state == "advice" and slow.facts["share_of_peak"] < 0.3


@pytest.mark.parametrize(
    ("platforms", "module", "way_out"),
    [
        ("cpu", "json", "unset JAX_PLATFORMS"),
        ("", "no_such_plugin", "pip install -U 'kdiff_jax[cuda]'"),
        ("", "json", "JAX's plugin does not start: update its driver"),
    ],
)
def test_a_gpu_that_is_not_used_has_a_way_out(
    platforms, module, way_out, monkeypatch, tmp_path
):
    driven = [("/no/such/driver", "a TPU", (module,), "tpu")]
    driven += [(str(tmp_path), "an NVIDIA GPU", (module,), "cuda")]
    monkeypatch.setattr(machine, "DRIVEN", driven)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    found = machine.devices()
    assert "an NVIDIA GPU is not used" in found.text
    assert found.advice.startswith(way_out)


def test_memory_that_another_process_holds(monkeypatch):
    class Device:
        device_kind = "NVIDIA A100-SXM4-80GB"

        def memory_stats(self):
            return {"bytes_limit": 9 * 10**9}

    monkeypatch.setattr(machine.jax, "local_devices", lambda: [Device()])
    found = machine.memory()
    assert found.state == "advice" and "9 GB of a device for JAX, of 80" in found.text


def test_the_cache_stores_a_program_and_keeps_no_trace(tmp_path, monkeypatch):
    before = sorted(os.listdir(jax.config.jax_compilation_cache_dir))
    assert machine.cache().facts["stores"]
    after = sorted(os.listdir(jax.config.jax_compilation_cache_dir))
    assert not [name for name in set(after) - set(before) if "doctor" in name]


def test_packages_that_are_missing_or_too_old_are_named(monkeypatch):
    wanted = ["numpy>=1", "jax>=99", "no-such-thing>=2", "torch; extra == 'x'"]
    monkeypatch.setattr(machine.importlib.metadata, "requires", lambda name: wanted)
    found = machine.versions()
    assert found.advice == "pip install -U 'jax>=99' 'no-such-thing>=2'"


def test_storage_gives_back_what_it_was_given_and_keeps_nothing(tmp_path):
    folder = tmp_path / "new" / "run"
    found = [workdir.disk(folder), workdir.write(folder), workdir.checkpoint(folder)]
    assert {one.exit_code for one in found} == {0}
    assert "digests agree" in found[2].text and os.listdir(tmp_path) == []


def test_storage_that_gives_back_something_else_ends_with_4(tmp_path, monkeypatch):
    def flip(path, data):
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    monkeypatch.setattr(workdir.files, "write_atomically", flip)
    found = finding.of("write", lambda: workdir.write(tmp_path))
    assert found.exit_code == 4 and "not what was written" in found.text
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_a_line_and_the_code_is_7(tmp_path, monkeypatch, capsys):
    def full(path, data):
        raise OSError(errno.ENOSPC, "full", str(path))

    monkeypatch.setattr(workdir.files, "write_atomically", full)
    some = [("write", lambda: workdir.write(tmp_path)), ("checkpoint", None, "write")]
    monkeypatch.setattr(checks, "listed", lambda folder, start: iter(some))
    found = list(checks.findings(tmp_path, 0.0, start=lambda: None))
    assert [one.state for one in found] == ["broken", "skipped"]
    assert found[0].exit_code == 7 and "No space left on device" in found[0].text


def test_a_small_disk_and_one_in_memory_have_advice(tmp_path, monkeypatch):
    free = workdir.shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda path: free)
    assert "make room" in workdir.disk(tmp_path).advice
    monkeypatch.setattr(workdir, "ROOM", 0)
    monkeypatch.setattr(workdir, "_file_system", lambda folder: "tmpfs")
    assert "lost at a restart" in workdir.disk(tmp_path).advice


def test_a_finding_says_fine():
    assert Finding("disk", "9 GB").line() == "fine    disk         9 GB"
