"""What a training stage leaves: its model with a card, and the facts of it."""

import json
import time
from collections.abc import Mapping
from typing import Any

import jax

from kdiff_jax import interop
from kdiff_jax.build import TrainStage
from kdiff_jax.formats import clip_tokenizer
from kdiff_jax.stages import Job, finish, results
from kdiff_jax.stages.students import Students
from kdiff_jax.stages.training_plan import Plan
from kdiff_jax.train import parallel


def leave(
    job: Job,
    stage: TrainStage,
    plan: Plan,
    params,
    more: Mapping[str, Any],
    beside: Mapping[str, Any] = {},
) -> None:
    """Writes the model and marks the stage as done.

    Args:
        job: The job.
        stage: The stage.
        plan: What it has trained.
        params: Parameters of its students, with an axis of them.
        more: Facts of the training.
        beside: What was trained with them that models have a copy of, by role.
    """
    params, many = parallel.to_host(params), plan.students
    beside = parallel.to_host(dict(beside))
    if len(many.ids) == 1:
        params = jax.tree.map(lambda x: x[0], params)
    if jax.process_index() != 0:
        return
    train = stage.train
    num_images = train.num_steps * train.batch_size * len(many.ids)
    facts = {
        "train_steps": train.num_steps,
        "train_images": num_images,
        **more,
        "method": stage.method.name,
        "average": results.average(train) or "params",
    }
    if many.partition.num_students > 1:
        facts["num_students"] = len(many.ids)
    folder, card = job.folder(stage.name), _card(job, stage, facts, many)
    interop.save(
        folder / "model",
        params=params,
        spec=plan.roles.spec.replace(average=facts["average"]),
        card=card,
        frozen={**job.frozen, **beside},
    )
    if job.recipe.text_encoder:
        clip_tokenizer.copy(job.recipe.text_encoder, folder / "model")
    finish(folder, **facts)


def _card(job: Job, stage: TrainStage, facts, many: Students) -> str:
    date = time.strftime("%Y-%m-%d")
    table = many.partition.table().splitlines()
    if len(table) == 1:
        table = []
    if many.is_part:
        table = [f"One of {len(table)}, trained alone:", *(table[k] for k in many.ids)]
    owns = "".join(f"* {line}\n" for line in table) + "\n" * bool(table)
    best = facts.get("best", {})
    chosen = (
        f"The best by {best['figure']}: {best['value']:.4g} at step {best['step']}.\n\n"
        if best
        else ""
    )
    return (
        f"# {job.recipe.name}: {stage.name}\n\n"
        f"Trained {date} with kdiff_jax, method `{facts['method']}`,"
        f" {facts['train_steps']} steps.\n\n{chosen}{owns}"
        f"```json\n{json.dumps(stage.section, indent=1)}\n```\n"
    )
