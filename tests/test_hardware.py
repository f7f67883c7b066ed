"""A recipe runs on the machines that its header names: its batches split over them."""

import ast
import re

import jax
import pytest
import recipes

from kdiff_jax import build, plan, recipe
from kdiff_jax.train import parallel

# Of a TPU "v4-8" the number counts cores, two of which are one device; of v2 and v3
# each is one.
CORES = {"2": 1, "3": 1, "4": 2}
GIGABYTES = {"v2": 8, "v3": 16, "v4": 32, "GPU": 80}


def machines(name) -> list[tuple[str, int, dict[str, int]]]:
    """(kind, devices, options that they need) of the machines after "Hardware:".

    Machines with options are told apart from the others by a semicolon.
    """
    source = (recipes.ROOT / "configs" / f"{name}.py").read_text()
    header = ast.get_docstring(ast.parse(source)) or ""
    said = re.search(r"Hardware: (.*?)(?:\. |\.$|\n\n)", header, re.DOTALL)
    found = []
    for part in said.group(1).split(";") if said else ():
        options = {k: int(v) for k, v in re.findall(r"--config\.([\w.]+)=(\d+)", part)}
        for kind, cores in re.findall(r"TPU v(\d)-(\d+)", part):
            found.append((f"v{kind}", int(cores) // CORES[kind], options))
        for num, kind in re.findall(r"(\d+)\s+(GPUs|TPU v4 chips)", part):
            found.append(("GPU" if kind == "GPUs" else "v4", int(num), options))
    return found


def devices(name) -> list[int]:
    return [num for _, num, _ in machines(name)]


def test_headers_are_read():
    assert devices("cifar10_dmd2") == [16, 8]
    assert devices("imagenet64_progressive") == [64]
    option = "stages.student.method.virtual_local_batch"
    assert machines("imagenet64_gddi") == [("GPU", 8, {}), ("v4", 16, {option: 8})]
    named = [name for name in recipes.names() if devices(name)]
    assert len(named) >= 20, named


@pytest.mark.parametrize("name", [n for n in recipes.names() if devices(n)])
def test_batches_split_over_the_machines_of_the_header(name):
    for _, num, options in machines(name):
        config = recipes.load(name).unlock()
        config.update_from_flattened_dict(options)
        check(build.plain(config), num)


def check(config, num):
    split = config.get("partition") or {}
    students = split.get("num_groups", 1) * split.get("num_ranges", 1)
    for stage in build.expand(config):
        if stage.kind != "train":
            continue
        train = stage.train
        own = students if stage.partition else 1
        groups = parallel.num_groups(own, num, num)
        parts = num // groups * train.num_microbatches
        local, rest = divmod(train.batch_size, parts)
        together = stage.method.keywords.get("virtual_local_batch", 1)
        assert not rest and not local % together, (stage.name, num)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in recipes.names() if devices(n)])
def test_a_device_of_the_header_holds_its_part(name, tmp_path):
    for kind, num, options in machines(name):
        config = recipes.load(name).unlock()
        config.update_from_flattened_dict(options)
        job = recipe.make_job(config, tmp_path, devices=jax.devices()[:1])
        split = build.plain(config).get("partition") or {}
        students = split.get("num_groups", 1) * split.get("num_ranges", 1)
        for stage in job.stages:
            # Rounds are alike; LPIPS' files would have to be there.
            if stage.kind != "train" or stage.method.keywords.get("distance"):
                continue
            own = students if stage.partition else 1
            groups = parallel.num_groups(own, num, num)
            train = stage.train
            images = train.batch_size * groups // num // train.num_microbatches
            needs = plan.needs(job, stage)
            held = sum(needs.held) + (own // groups - 1) * needs.held.state
            total = held + images * needs.cost.kept
            assert total < GIGABYTES[kind] * 1e9, (stage.name, kind, num)
            if stage.settings:
                break
