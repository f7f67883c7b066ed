"""A recipe runs on the machines that its header names: its batches split over them."""

import ast
import re

import pytest
import recipes

from kdiff_jax import build
from kdiff_jax.train import parallel

# Of a TPU "v4-8" the number counts cores, two of which are one device; of v2 and v3
# each is one.
CORES = {"2": 1, "3": 1, "4": 2}


def devices(name) -> list[int]:
    """Device counts of the machines after the word "Hardware:" of the header."""
    source = (recipes.ROOT / "configs" / f"{name}.py").read_text()
    header = ast.get_docstring(ast.parse(source)) or ""
    said = re.search(r"Hardware: (.*?)(?:\. |\.$|;|\n\n)", header, re.DOTALL)
    text = said.group(1) if said else ""
    tpus = re.findall(r"v(\d)-(\d+)", text)
    found = [int(cores) // CORES[kind] for kind, cores in tpus]
    return found + [
        int(n) for n in re.findall(r"(\d+) (?:GPUs|A100|TPU v4 chips)", text)
    ]


def test_headers_are_read():
    assert sorted(devices("cifar10_dmd2")) == [4, 8]
    assert devices("imagenet64_progressive") == [64]
    named = [name for name in recipes.names() if devices(name)]
    assert len(named) >= 20, named


@pytest.mark.parametrize("name", [n for n in recipes.names() if devices(n)])
def test_batches_split_over_the_machines_of_the_header(name):
    config = build.plain(recipes.load(name))
    split = config.get("partition") or {}
    students = split.get("num_groups", 1) * split.get("num_ranges", 1)
    for stage in build.expand(config):
        if stage.kind != "train":
            continue
        train = build.train_options(config, stage)
        for num in devices(name):
            own = students if stage.config.get("partition") else 1
            groups = parallel.num_groups(own, num, num)
            parts = num // groups * train["num_microbatches"]
            local, rest = divmod(train["batch_size"], parts)
            together = stage.config["method"].get("virtual_local_batch", 1)
            assert not rest and not local % together, (stage.name, num)
