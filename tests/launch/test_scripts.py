"""The scripts of launch/: what they print, what they refuse, whom they pass signals to.

No cluster is at hand: the commands are read from --dryrun, and processes are started
for real only by multi_gpu.sh, with a stand-in for the training.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))
TRAINING = ["--", "--config=configs/digits_student.py", "--workdir=runs/d"]
TPU = ["--name=pod", "--zone=us-west4-a"]
ENVIRONMENT = {
    "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    "HOME": os.environ.get("HOME", "/"),
}


def run(name, *arguments, cwd, **variables):
    return subprocess.run(
        ["bash", LAUNCH / name, *arguments],
        cwd=cwd,
        env=ENVIRONMENT | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("path", [*(LAUNCH / s for s in SCRIPTS), ROOT / ".ci/run"])
def test_the_script_is_one_that_bash_reads(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("name", [s for s in SCRIPTS if s != "arguments.sh"])
def test_help_shows_the_usage_and_does_nothing(name, tmp_path):
    result = run(name, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert f"bash launch/{name}" in result.stdout
    assert "set -euo" not in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("multi_gpu.sh", [], ["--config=configs/digits_student.py --workdir=runs/d"]),
        (
            "multi_gpu.sh",
            ["--num-hosts=4", "--host-id=2", "--coordinator=host0:1234"],
            [
                "KDIFF_COORDINATOR=host0:1234 KDIFF_NUM_PROCESSES=4 KDIFF_PROCESS_ID=2",
                "python -u -m kdiff_jax.main --config=",
            ],
        ),
        (
            "multi_gpu.sh",
            ["--per-gpu", "--num-gpus=2", "--num-hosts=2", "--host-id=1"]
            + ["--coordinator=host0:1234"],
            [
                "KDIFF_NUM_PROCESSES=4 CUDA_VISIBLE_DEVICES=0 KDIFF_PROCESS_ID=2",
                "KDIFF_NUM_PROCESSES=4 CUDA_VISIBLE_DEVICES=1 KDIFF_PROCESS_ID=3",
            ],
        ),
        (
            "slurm.sh",
            ["--nodes=2", "--partition=gpu", "--grace=120"],
            [
                "sbatch <<",
                "#SBATCH --nodes=2\n",
                "#SBATCH --signal=TERM@120\n",
                "#SBATCH --requeue\n",
                "#SBATCH --partition=gpu\n",
                "if [ $code -eq 75 ]; then\n  scontrol requeue",
            ],
        ),
        (
            "tpu_vm.sh",
            ["create", *TPU, "--type=v5litepod-16", "--spot", "--queued"],
            [
                "queued-resources create pod --zone=us-west4-a --node-id=pod"
                " --accelerator-type=v5litepod-16 --spot",
            ],
        ),
        ("tpu_vm.sh", ["install", *TPU], ["scp", "--worker=all", "KDIFF_EXTRA=tpu"]),
        (
            "tpu_vm.sh",
            ["run", *TPU, "--project=p"],
            ["ssh pod --zone=us-west4-a --project=p --worker=all", "exec python -u -m"],
        ),
        (
            "tpu_vm.sh",
            ["train", *TPU],
            [
                "tpu-vm create pod",
                "archive",
                "scp",
                "exec python",
                "# after a preemption",
            ],
        ),
        (
            "tpu_vm.sh",
            ["delete", *TPU],
            ["tpu-vm delete pod --zone=us-west4-a --quiet"],
        ),
    ],
)
def test_dryrun_prints_the_commands_and_touches_nothing(
    name, arguments, expected, tmp_path
):
    result = run(name, *arguments, "--dryrun", *TRAINING, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    place = -1
    for part in expected:
        assert result.stdout.find(part, place + 1) > place, part
        place = result.stdout.find(part, place + 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "multi_gpu.sh",
            ["--gpus=2", *TRAINING],
            "--gpus=2: no such option; see --help",
        ),
        ("multi_gpu.sh", [], "no --config after --: end with -- --config="),
        ("multi_gpu.sh", ["fast", *TRAINING], "fast: unexpected; see --help"),
        ("multi_gpu.sh", ["--num-hosts", *TRAINING], "--num-hosts: needs a value"),
        (
            "multi_gpu.sh",
            ["--num-hosts=0", *TRAINING],
            "--num-hosts=0: must be a whole number, at least 1",
        ),
        (
            "multi_gpu.sh",
            ["--num-hosts=2", *TRAINING],
            "--num-hosts=2: needs --coordinator=HOST:PORT",
        ),
        (
            "multi_gpu.sh",
            ["--num-hosts=2", "--host-id=2", *TRAINING],
            "--host-id=2: must be in 0..1",
        ),
        ("slurm.sh", ["--gpus=many", *TRAINING], "--gpus=many: must be a whole number"),
        ("slurm.sh", ["--time=soon", *TRAINING], "--time=soon: must be as for sbatch"),
        ("slurm.sh", ["--spot", *TRAINING], "--spot: no such option; see --help"),
        ("tpu_vm.sh", TPU, "no COMMAND: must be create, install, run, train or delete"),
        ("tpu_vm.sh", ["stop", *TPU], "stop: must be create, install, run, train"),
        ("tpu_vm.sh", ["create", "--name=pod"], "--name=pod --zone=: both are needed"),
        ("tpu_vm.sh", ["run", *TPU], "no --config after --"),
        ("tpu_vm.sh", ["delete", "create", *TPU], "create: one COMMAND at a time"),
        ("setup_env.sh", ["--tests"], "--tests: no such option; see --help"),
    ],
)
def test_a_wrong_argument_ends_with_one_line_and_code_2(
    name, arguments, message, tmp_path
):
    result = run(name, *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_python_that_is_too_old_is_named(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\necho 3.9.2\n")
    old.chmod(0o755)
    find = f"source {LAUNCH}/setup_env.sh; find_python"
    result = subprocess.run(
        ["bash", "-c", find],
        env=ENVIRONMENT | {"KDIFF_PYTHON": str(old)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr == (
        f"{old}=3.9.2: kdiff_jax needs Python 3.11 or newer;"
        " install one and set KDIFF_PYTHON=/path/to/python3.11\n"
    )


def test_an_unknown_accelerator_is_refused_before_anything_is_made(tmp_path):
    result = run("setup_env.sh", cwd=tmp_path, KDIFF_EXTRA="rocm")
    assert result.returncode == 2
    assert result.stderr == "KDIFF_EXTRA=rocm: must be cpu, cuda, cuda13 or tpu\n"


def test_quoted_arguments_come_back_as_they_were():
    words = ["--config=a.py:tiny", "it's", "a b", "$HOME", "", "x\\y", "*"]
    script = 'source "$0"; line=$(quoted "$@"); eval "printf \'%s\\0\' $line"'
    result = subprocess.run(
        ["bash", "-c", script, LAUNCH / "arguments.sh", *words],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert result.stdout.decode().split("\0")[:-1] == words


def test_the_slurm_job_is_a_script_that_bash_reads(tmp_path):
    result = run("slurm.sh", "--output=job.sh", *TRAINING, "--note=it's", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    subprocess.run(["bash", "-n", tmp_path / "job.sh"], check=True)


TRAINING_STAND_IN = """
import os, pathlib, signal, sys, time
rank = int(os.environ["KDIFF_PROCESS_ID"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path(f"started.{rank}").touch()
if f"--fail={rank}" in sys.argv:
    sys.exit(5)
time.sleep(50 if "--long" in sys.argv else 0)
"""


@pytest.fixture
def two_processes(tmp_path):
    """Starts multi_gpu.sh with two processes of the stand-in."""
    package = tmp_path / "kdiff_jax"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text(TRAINING_STAND_IN)

    def start(*arguments):
        options = ["--per-gpu", "--num-gpus=2", *TRAINING, *arguments]
        return subprocess.Popen(
            ["bash", LAUNCH / "multi_gpu.sh", *options], cwd=tmp_path, env=ENVIRONMENT
        )

    return start


def test_all_processes_done_is_code_0(two_processes, tmp_path):
    assert two_processes().wait(40) == 0
    assert {p.name for p in tmp_path.glob("started.*")} == {"started.0", "started.1"}


def test_the_code_of_the_process_that_failed_ends_the_others(two_processes):
    assert two_processes("--long", "--fail=1").wait(40) == 5


def test_a_signal_reaches_every_process(two_processes, tmp_path):
    parent = two_processes("--long")
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("started.*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(40) == 75


@pytest.mark.parametrize("failing", ["ruff", "pyright", "python", None])
def test_the_tests_end_with_an_error_where_one_of_them_does(tmp_path, failing):
    """With stand-ins for all that `test.sh` calls."""
    launch, commands = tmp_path / "launch", tmp_path / "bin"
    launch.mkdir()
    commands.mkdir()
    shutil.copy(LAUNCH / "test.sh", launch)
    (launch / "setup_env.sh").write_text("setup_env() { :; }\n")
    for name in ("ruff", "pyright", "python"):
        (commands / name).write_text(f"#!/bin/sh\nexit {3 * (name == failing)}\n")
        (commands / name).chmod(0o755)
    done = subprocess.run(
        ["bash", launch / "test.sh"],
        env=ENVIRONMENT | dict(PATH=f"{commands}:{os.environ['PATH']}"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == (3 if failing else 0), done.stdout + done.stderr
