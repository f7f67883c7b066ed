"""From any checkpoint to a model folder, or to what other projects read."""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

from kdiff_jax import __version__, networks
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.formats import clip_tokenizer
from kdiff_jax.interop import (
    beside,
    checkpoint,
    conditions,
    diffusers_export,
    folder,
    foreign,
    safetensors_export,
    training,
)
from kdiff_jax.interop.model import Model
from kdiff_jax.interop.source import Facts
from kdiff_jax.interop.spec import Spec
from kdiff_jax.named import thawed

BUFFERS = {str(key.key) for key in networks.BUFFERS}


def run(
    source: pathlib.Path,
    output: pathlib.Path,
    target: str = "kdiff",
    *,
    family: str | None = None,
    facts: dict[str, Any] | None = None,
    student: int | None = None,
    read: Callable[[pathlib.Path], Model] | None = None,
    pipeline: str | None = None,
) -> list[str]:
    """Writes `output`; returns what there is to say, one line each.

    Args:
        source: Anything that `interop.load` reads.
        output: A folder.
        target: "kdiff" (a model folder), "diffusers" or "safetensors".
        family: See `foreign.read`.
        facts: Keywords of `Facts`; None for none.
        student: One of many, to be written alone.
        read: Reads a model of ours in another way than `interop.load`.
        pipeline: See `diffusers_export.save`.

    Raises:
        CheckpointError: If the source cannot be read, or the target cannot hold it.
    """
    said = Facts(**(facts or {}))
    source = checkpoint.located(source)
    ours = checkpoint.is_own(source)
    if ours and family is not None:
        raise ConfigError(
            f"source={family!r}: {source} is no checkpoint of another project; leave it"
            " out"
        )
    for name in ("config", "variant"):
        value = getattr(said, name)
        if ours and value is not None:
            raise ConfigError(
                f"{name}={str(value)!r}: is for files of others, and {source} is a"
                " model of ours; leave it out"
            )
    if pipeline is not None and target != "diffusers":
        raise ConfigError(
            f"pipeline={pipeline!r}: is for target=diffusers; leave it out"
        )
    if student is not None and not ours:
        raise ConfigError(
            f"student={student}: is for a model folder of many students; leave it out"
        )
    if read is not None and not ours:
        raise ConfigError(
            f"average: is for a stage folder of a workdir, and {source} is a checkpoint"
            " of another project; leave it out"
        )
    if ours or target != "kdiff":
        if ours:
            loaded = _ours((read or checkpoint.load)(source), source, said)
        else:
            loaded = checkpoint.load(source, family, said)
        if student is not None:
            loaded = loaded.student(student)
        loaded.spec.make_sampler()  # refuses one that the process does not have
        if target == "kdiff":
            text = card(loaded.spec, ())
            of_it = dict(params=loaded.params, frozen=loaded.frozen)
            folder.save(output, spec=loaded.spec, card=text, **of_it)
            if loaded.spec.text is not None:
                clip_tokenizer.copy(beside.with_tokenizer(source), output)
        else:
            # Any text may be asked for; those of a table are of the training alone.
            if loaded.frozen and not loaded.spec.cond_length:
                raise CheckpointError(
                    f"target={target}: holds no table of vectors, on which this model"
                    " is conditioned; take target=kdiff"
                )
            if levels := loaded.spec.guidance_range:
                raise CheckpointError(
                    f"target={target}: has no place for the strength of guidance, which"
                    f" this network reads ({levels[0]:g} to {levels[1]:g}); take"
                    " target=kdiff"
                )
            if target == "diffusers":
                tokenizer = beside.with_tokenizer(source)
                about: dict[str, Any] = dict(pipeline=pipeline, tokenizer=tokenizer)
                diffusers_export.save(output, loaded, **about)
            else:
                safetensors_export.save(output, loaded)
        return [f"{loaded.num_params:,} parameters: {output}"]
    theirs, origin = foreign.read(source, said, family)
    spec = foreign.spec_of(theirs, origin, source)
    leaves = checkpoint.checked(spec, theirs, source)
    spec.make_sampler()  # refuses one that the process does not have
    folder.write(output, leaves=leaves, spec=spec, card=card(spec, theirs.assumed))
    size = sum(
        math.prod(leaf.shape)
        for name, leaf in leaves.items()
        if name.split("/")[-1] not in BUFFERS
    )
    lines = [f"{origin.family} {origin.file}, sha256 {origin.sha256}"]
    lines += [f"assumed: {line}" for line in theirs.assumed]
    return [*lines, f"{size:,} parameters: {output}"]


def _ours(loaded: Model, source: pathlib.Path, said: Facts) -> Model:
    """A model of ours, with another sampler if the user wants one."""
    spec = loaded.spec
    if spec.sampler is None:
        raise CheckpointError(
            f"{source}: names no sampler, and a converted model has one; save it with"
            ' spec={..., "sampler": {"name": "ddim", "num_steps": 50}}'
        )
    said.agree(
        precondition=spec.precondition.name,
        image_size=spec.image_shape[0],
        num_heads=spec.network.keywords.get("num_heads"),
    )
    sampler = said.choose_sampler(**spec.sampler.plain())
    if spec.guidance_range:  # whichever sampler tells it
        sampler = {"guidance": spec.guidance, **sampler}
    spec = spec.changed({"sampler": sampler})
    spec = spec.replace(average=training.average_of(source, spec))
    return dataclasses.replace(loaded, spec=spec)


def card(spec: Spec, assumed) -> str:
    """The model card: what it is, where it came from, how to load it."""
    height, width, channels = spec.image_shape
    fields = thawed(spec.network.keywords)
    where = "in [-1, 1]" if spec.space == "pixels" else f"space {spec.space!r}"
    rows = {
        "network": spec.network.name,
        "fields": ", ".join(f"{k}={v}" for k, v in fields.items()),
        "preconditioning": spec.precondition,
        "process": spec.process,
        "sampler": spec.sampler,
        "images": f"{height}x{width}, {channels} channels, {where}",
        "classes": spec.num_classes or "none",
    }
    if levels := spec.guidance_range:
        rows |= {"guidance": f"read by the network, {levels[0]:g} to {levels[1]:g}"}
    if dim := spec.cond_dim:
        kind = f"texts of {spec.cond_length} vectors" if spec.cond_length else "vectors"
        table = f", `{conditions.FILE}`" if spec.num_classes else ""
        rows |= {"conditions": f"{kind} of {dim} entries{table}"}
    if (partition := spec.partition) is not None:
        rows |= {"students": "<br>".join(partition.table().splitlines())}
    if source := spec.source:
        rows |= {
            "source": f"{source.file} ({source.family})",
            "sha256 of the source": source.sha256,
        }
    if average := spec.average:
        rows |= {"weights": "the last ones" if average == "params" else average}
    rows |= {"converted by": f"kdiff_jax {__version__}"}
    table = "\n".join(f"| {k} | {v} |" for k, v in rows.items())
    notes = "".join(f"\nAssumed, because the file does not say: {a}." for a in assumed)
    return f"""# Denoising network

| | |
|---|---|
{table}
{notes}

```python
from kdiff_jax import interop
model = interop.load("this folder")
x0_hat = model.apply(x_t, t, y)
```

As a teacher: `--config.init.teacher=FOLDER`. Images:
`python -m kdiff_jax.sample --checkpoint=FOLDER --output=samples.png`.

The weights keep the license of their source.
"""
