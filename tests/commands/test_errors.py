"""What a user gets wrong: one line, the documented exit code, nothing lost."""

import re

import child
import pytest
from child import RECIPE, ROOT

from kdiff_jax import cli, completion

LOCKED = ROOT / "tests/commands/locked.py"
LSUN = f"{ROOT}/configs/lsun256_student.py"


def said(output: str) -> list[str]:
    """The lines that the program says of itself."""
    return [line for line in output.splitlines() if line.startswith("kdiff_jax: ")]


CASES = [
    ([], 2, ["--config is missing"]),
    (["--config=nothing.py"], 2, ["nothing.py"]),
    ([f"--config={RECIPE}", "--confg.seed=1"], 2, ["confg"]),
    ([f"--config={RECIPE}", "--config.sed=1"], 2, ["sed"]),
    ([f"--config={RECIPE}", "--config.seed=abc"], 2, ["abc"]),
    ([f"--config={RECIPE}", "spare"], 2, ["spare"]),
    ([f"--config={RECIPE}", "--stage=studnet"], 2, ["studnet", "student"]),
    ([f"--config={LOCKED}"], 2, ["adds 'init' to", "with config.unlocked():`"]),
    ([f"--config={LSUN}:castle"], 2, ["castle", "bedroom, church"]),
    (
        [f"--config={LSUN}:church"],
        3,
        [
            "lsun/church_outdoor",
            "google/ddpm-ema-church-256",
            "--config.init.teacher",
        ],
    ),
    (
        [f"--config={RECIPE}", "--config.init.teacher=/no/such/model"],
        4,
        ["/no/such/model", "does not exist"],
    ),
    (
        [f"--config={RECIPE}", "--config.stages.teacher.train.batch_size=7"],
        2,
        ["batch_size=7"],
    ),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(exit code, output) of each case."""
    workdir = tmp_path_factory.mktemp("errors") / "w"
    lines = [[*arguments, f"--workdir={workdir}"] for arguments, *_ in CASES]
    found = [child.run("main", *words, devices=2) for words in lines]
    assert not workdir.exists()
    return found


@pytest.mark.parametrize("i", range(len(CASES)))
def test_main_says_one_line(answers, i):
    (_, code, words), (found, output) = CASES[i], answers[i]
    assert found == code, output
    (line,) = said(output)
    assert "Traceback" not in output
    for word in words:
        assert word in line


def test_debug_shows_the_traceback(tmp_path):
    code, output = child.run("main", "--debug", f"--workdir={tmp_path}")
    assert code == 2 and "Traceback" in output


def test_nan_ends_with_5_and_says_what_is_there(tmp_path):
    arguments = [f"--config={RECIPE}:12", f"--workdir={tmp_path}", "--stage=teacher"]
    bad = "--config.stages.teacher.optim.lr=1e38"
    code, output = child.run("main", *arguments, bad)
    assert code == 5, output
    (line,) = said(output)
    # Nothing was saved before the first NaN, and so nothing is said to be intact.
    assert "no step is kept: the same command begins anew" in line
    assert not list((tmp_path / "teacher" / "checkpoints").glob("[0-9]*"))
    assert not (tmp_path / "teacher" / "done.json").exists()


def test_a_workdir_of_another_config_is_refused(tmp_path):
    arguments = [f"--config={RECIPE}:2", f"--workdir={tmp_path}", "--stage=teacher"]
    assert child.run("main", *arguments)[0] == 0
    other = "--config.model.network.channels=12"
    code, output = child.run("main", *arguments, other)
    assert code == 2
    assert "channels was 8, is 12" in said(output)[0]


@pytest.mark.parametrize("name", ["train", "sample", "evaluate", "convert", "export"])
def test_help_tells_the_options_that_a_shell_completes(name):
    code, output = child.run(cli.COMMANDS[name], "--help", anew=True)
    assert code == 0 and "Options of all commands:\n  --debug" in output
    assert str(child.ROOT) not in output
    sources = {name: cli._source(cli.COMMANDS[name])}
    found = completion.words(["zsh", f"kdiff {name} --"], sources)
    told = re.findall(r"^  (--\w+)", output, flags=re.M)
    assert {word.rstrip("=") for word in found} == {*told, "--help"}


@pytest.mark.parametrize(
    ("module", "arguments", "code", "words"),
    [
        ("sample", ["--output=x.png"], 2, "--checkpoint is missing"),
        ("sample", ["--checkpoint=x", "--output=x.jpg"], 2, "FILE.png"),
        ("sample", ["--checkpoint=/no/model", "--output=x.png"], 4, "not exist"),
        ("evaluate", ["--checkpoint=x"], 2, "--reference is missing"),
    ],
)
def test_other_commands_say_one_line(module, arguments, code, words):
    found, output = child.run(module, *arguments)
    assert found == code, output
    assert words in said(output)[0]
