"""What scores a student while it trains, and the best that is kept by it."""

from typing import NamedTuple

from kdiff_jax.build import TrainStage
from kdiff_jax.metrics import table
from kdiff_jax.stages import Job, best, quick, results
from kdiff_jax.stages.best import Best
from kdiff_jax.stages.held_out import HeldOut
from kdiff_jax.stages.hooks import Log
from kdiff_jax.stages.quick import Figures
from kdiff_jax.stages.training_plan import Plan
from kdiff_jax.stages.training_start import Fed
from kdiff_jax.train import loop


class Scores(NamedTuple):
    """The scores of a stage; each is None where it is not asked for.

    Attributes:
        best: The best model so far.
        held_out: The loss on held-out pairs, for the line of the log at its step.
        figures: Quick figures, which have lines of their own.
    """

    best: Best | None = None
    held_out: HeldOut | None = None
    figures: Figures | None = None

    def hooks(self, train) -> tuple[list[loop.Hook], list[loop.Hook]]:
        """(those before a line of the log, those after)."""
        before = self.held_out and loop.Hook(train.validate_every, self.held_out)
        after = self.figures and loop.Hook(train.figure_every, self.figures)
        return [before] if before else [], [after] if after else []


def of_stage(
    job: Job, stage: TrainStage, plan: Plan, log: Log, *, first_step: int, fed: Fed
) -> Scores:
    """The scores that the section `train` asks for.

    Args:
        job: The job.
        stage: The stage.
        plan: What it trains.
        log: Its log.
        first_step: Step that the run begins or resumes at.
        fed: What the step reads beside the state.
    """
    train, folder = stage.train, job.folder(stage.name)
    is_best = train.result == "best"
    average = results.average(train)
    measure = quick.of_stage(job, stage, plan.roles, plan.students)
    if is_best and train.best_by == results.HELD_OUT:
        kept = Best(folder, best.HELD_OUT, average=average, first_step=first_step)
        held_out = HeldOut(job, stage, plan.method, log, kept, fed=fed)
        return Scores(kept, held_out, measure and Figures(measure, log))
    if not measure:
        return Scores()
    if not is_best:
        return Scores(figures=Figures(measure, log))
    name = measure.features.name
    figure = results.figure_of(train, name)
    kept = Best(
        folder,
        {"figure": figure, **measure.about},
        average=average,
        first_step=first_step,
        higher=table.better(train.figure_metrics, name)[figure] == "higher",
    )
    return Scores(kept, None, Figures(measure, log, kept, figure))
