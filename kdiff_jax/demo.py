"""A page to play with: python -m kdiff_jax.demo --checkpoint=PATH [--teacher=PATH]

A class or a prompt, a seed, and a slider between two seeds; the student's image beside
the teacher's from the same noise, with milliseconds and, of several students, who has
answered. It needs Gradio (pip install 'kdiff_jax[demo]').

The page answers this machine alone; of another one, forward the port
(ssh -L 7860:127.0.0.1:7860 HOST). --host=0.0.0.0 answers all who know the password that
the variable KDIFF_DEMO_PASSWORD holds, for the user "kdiff".
"""

import os
import time

from absl import flags

from kdiff_jax import command, output
from kdiff_jax.train import watchdog

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The student, or any model.")
TEACHER = flags.DEFINE_string("teacher", None, "Its teacher; default: none is shown.")
STEPS = flags.DEFINE_integer(
    "num_steps", None, "Steps of the student; default: its own.", lower_bound=1
)
TEACHER_STEPS = flags.DEFINE_integer(
    "teacher_steps", None, "Steps of the teacher; default: its own.", lower_bound=1
)
PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    ["float32", "bfloat16"],
    "Type that the networks compute in; default: their own.",
)
HOST = flags.DEFINE_string("host", "127.0.0.1", "Address that the page answers at.")
PORT = flags.DEFINE_integer(
    "port", 7860, "Port of it.", lower_bound=1, upper_bound=65535
)


def main() -> None:
    checkpoint = command.required(CHECKPOINT)
    from kdiff_jax.playground import page

    known = page.auth(HOST.value, os.environ.get(page.PASSWORD))
    command.start_distributed()
    from kdiff_jax.playground.side_by_side import Side, Sides

    page.gradio()  # first: models take a while to read
    about: dict = dict(precision=PRECISION.value)
    student = Side("student", checkpoint, num_steps=STEPS.value, **about)
    teacher = None
    if TEACHER.value:
        steps = TEACHER_STEPS.value
        teacher = Side("teacher", TEACHER.value, num_steps=steps, **about)
    sides = Sides(student, teacher)
    sides.warm_up()
    made = page.make(sides, output.printable(os.path.basename(checkpoint)))
    page.serve(made, host=HOST.value, port=PORT.value, auth=known)
    print(f"http://{HOST.value}:{PORT.value}  (Ctrl-C ends it)", flush=True)
    while True:
        watchdog.beat()
        time.sleep(1)


def run() -> None:
    """Runs the command, see `command.run`."""
    command.run(main)


if __name__ == "__main__":
    run()
