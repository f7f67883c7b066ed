"""Eight pretend devices, strict shapes, and a compilation cache that outlives a run."""

import functools
import gc
import itertools
import os
import pathlib


def keep_to_one_core():
    """Of several workers that leave no core free, each has its own.

    XLA's threads wait for work by spinning: two workers on two cores took a quarter
    more CPU time than one alone did. What a test starts inherits it.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) >= len(cores):
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


keep_to_one_core()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What this suite costs is its compile time. Level 0 halves it, and the newer emitters
# of loops take twice as long as the older ones.
os.environ["KDIFF_TEST_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false"
    # A worker has one core: parts of a module that are compiled side by side cost more.
    " --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        os.environ["KDIFF_TEST_FLAGS"],
    ]
)

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from beartype import BeartypeConf  # noqa: E402
from beartype.claw import beartype_package  # noqa: E402
from jax._src.interpreters import mlir  # noqa: E402
from jax._src.lax import lax  # noqa: E402

CACHE = pathlib.Path(
    os.environ.get("KDIFF_TEST_CACHE", pathlib.Path.home() / ".cache/kdiff_jax_tests")
)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
os.environ["KDIFF_CACHE"] = str(CACHE)  # of the commands that tests start
# A worker, and each command, takes what another one has compiled, however small.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_numpy_rank_promotion", "raise")


def put_arrays():
    """`jnp.asarray` puts an array; by itself JAX 0.10 compiles a program a shape."""
    stage = getattr(lax, "stage_p", None)
    if stage is None:
        return
    compiled = stage.impl

    def put(x):
        if isinstance(x, np.ndarray):
            return jax.device_put(x, may_alias=False)
        return compiled(x)

    stage.def_impl(put)


put_arrays()


def share_contexts():
    """A context of MLIR serves many programs; JAX makes one for each, in 5 ms.

    It keeps the constants of its programs, so each has a hundred.
    """
    make = getattr(mlir, "make_ir_context", None)
    if make is None:
        return
    of_hundred = functools.lru_cache(1)(lambda k: make())
    numbers = itertools.count()
    mlir.make_ir_context = lambda: of_hundred(next(numbers) // 100)


share_contexts()


def check_annotations():
    """Every annotation is checked at every call: those of shapes by jaxtyping.

    It binds the arguments of each call, which takes a third of the time of tests that
    trace; so beartype alone checks the modules without shapes.
    """
    beartype_package("kdiff_jax", conf=BeartypeConf(claw_is_pep526=False))
    root = pathlib.Path(__file__).resolve().parents[1]
    with_shapes = [
        path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
        for path in root.glob("kdiff_jax/**/*.py")
        if "from jaxtyping import" in path.read_text()
    ]
    names = [name.removesuffix(".__init__") for name in with_shapes]
    jaxtyping.install_import_hook(names, "beartype.beartype")


check_annotations()

# Minutes each: they come first, so that no worker is left with one at the end.
LONG = (
    *("test_configs", "test_resume", "test_hosts", "test_all_methods", "test_gdd"),
    *("test_partition_recipe", "test_mixture"),
)


def pytest_collection_modifyitems(items):
    """Long files first, the others in their order."""

    def rank(item):
        return LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)

    items.sort(key=rank)


def pytest_collection_finish():
    """Tracing makes many objects: the collector walked all of JAX again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def shared_programs():
    """Jobs share their compiled programs, which outside of tests a job has alone."""
    from kdiff_jax import recipe

    recipe.Job = functools.partial(recipe.Job, programs={})


@pytest.fixture(scope="session", autouse=True)
def short_timing():
    """No test is about a speed. Imported here, after the hook that checks shapes."""
    from kdiff_jax.train import measure

    measure.SECONDS = 0.01


@pytest.fixture(scope="module", autouse=True)
def one_curve(request):
    """Pages of runs have one curve for all: to draw each is a third of a tiny run.

    Those of report/ draw each.
    """
    from kdiff_jax.report import curves

    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    (loss,) = curves.curves(lines)
    draw = functools.cache(functools.partial(curves.plot, lines, loss, stage=""))
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name != "report":
            patch.setattr(curves, "plot", lambda *_, **__: draw())
        yield
