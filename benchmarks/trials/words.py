"""Command lines with other words: values, names, missing and spare ones."""

import random

from benchmarks.trials import work
from benchmarks.trials.outcome import ACCEPTED, BUG, Trial, judge, lines, trial
from benchmarks.trials.work import Work

COMMANDS = ("main", "sample", "evaluate", "convert")
NUMBERS = (
    "-1",
    "0",
    "1e30",
    "nan",
    "inf",
    "2.5",
    "x",
    "",
    "4294967296",
    "1e400",
    "-0.5",
)
TEXTS = ("", "x", "../..", "/dev/null", "\u2028", "%s", "a" * 300, "None", "{}", "~")
# No option means these, but a seed may be negative and a limit infinite.
NONSENSE = {"-1", "-0.5", "nan", "inf", "1e400"}
LIMITS = ("seed", "minutes", "clip_norm")


def trials(run: Work, num: int, rng: random.Random) -> list[Trial]:
    """One word of a sound command line changes, the four commands in turn."""
    found = []
    for i in range(num):
        command = COMMANDS[i % len(COMMANDS)]
        run.fresh("student", "many", "evaluate", "report.*", "config.json")
        work.delete(run.scratch / "out")
        (run.scratch / "out").mkdir()
        words = _sound(run, command, rng)
        if i < len(COMMANDS):
            reply = run.child.run(command, *words)
            if reply.code != 0:
                found.append(trial(command, "none: it is sound", reply, BUG))
        changed, what, nonsense = _change(words, rng)
        reply = run.child.run(command, *changed)
        outcome = judge(reply, same=not nonsense, usual=lines(reply.output))
        if reply.code == 0 and not nonsense:
            outcome = ACCEPTED
        found.append(trial(command, what, reply, outcome))
    return found


def _sound(run: Work, command: str, rng) -> list[str]:
    """Words of a command that works; main plans most times, and trains a bit else."""
    out, teacher = run.scratch / "out", run.copy / "teacher"
    if command == "main":
        stage, train = "--config.stages.student", "--config.stages.student.train"
        words = [
            *(f"--config={run.recipe}", f"--workdir={run.copy}", "--stage=student"),
            *(f"{stage}.optim.lr=1e-3", f"{stage}.optim.ema_decay=0.5"),
            *(f"{stage}.optim.b2=0.99", f"{stage}.optim.clip_norm=1.0"),
            *(f"{stage}.optim.weight_decay=0.0", f"{stage}.optim.warmup_steps=1"),
            *(f"{train}.num_steps=2", f"{train}.batch_size=8"),
            *(f"{train}.validate_every=1", f"{train}.result=best"),
            *("--config.train.num_microbatches=1", "--config.train.save_every=2"),
            *("--config.train.log_every=1", "--config.train.keep=2"),
            *("--config.train.save_minutes=10.0", "--config.train.hang_minutes=60.0"),
            *("--config.seed=0", "--config.evaluate.num_images=16"),
            *("--config.stages.pairs.shard_size=8", "--config.partition.num_groups=2"),
            *(f"{stage}.sampler.num_steps=1", "--config.data.path=data.npz"),
        ]
        return words + ["--dryrun"] * (rng.random() < 0.5)
    if command == "convert":
        return [f"--input={teacher}", f"--output={out}/model", "--num_steps=2"] + [
            *("--sampler=ddim", "--target=kdiff", "--source=auto")
        ]
    words = [f"--checkpoint={teacher}", "--num_images=4", "--num_steps=2", "--seed=1"]
    words += ["--sampler=ddim", "--batch_size=4"]
    if command == "sample":
        return [*words, f"--output={out}/x.npz", "--labels=0-3"]
    data = run.scratch / "data.npz"
    return [
        *words,
        f"--reference={data}",
        "--features=pixels",
        f"--output={out}/r.json",
    ]


def _change(words: list[str], rng) -> tuple[list[str], str, bool]:
    """(words, what was changed, whether no sense can be made of it)."""
    words = list(words)
    k = rng.randrange(len(words))
    name, equals, value = words[k].partition("=")
    what = rng.choice(("value",) * 8 + ("gone", "twice", "spare", "misspelt", "bare"))
    if what == "value" and equals:
        number = value.replace(".", "").replace("e-", "").isdigit()
        new = rng.choice(NUMBERS if number else TEXTS)
        words[k] = f"{name}={new}"
        limit = name.endswith(LIMITS) and new != "nan"
        return words, words[k], number and new in NONSENSE and not limit
    if what == "gone":
        return words, f"without {words.pop(k)}", False
    if what == "twice":
        return [*words, words[k]], f"twice {words[k]}", False
    if what == "spare":
        words.insert(k, rng.choice(("spare", "-", "--", "-x", "--x=1", "\0x")))
        return words, f"spare {words[k]!r}", False
    if what == "misspelt":
        at = rng.randrange(2, len(name))
        words[k] = words[k][:at] + rng.choice("abcxyz._-") + words[k][at + 1 :]
    elif equals:
        words[k] = name
    return words, words[k], False
