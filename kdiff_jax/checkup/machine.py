"""Versions, devices, memory, the cache of programs and the processes of a run."""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kdiff_jax import arrays, chips
from kdiff_jax.checkup.finding import Finding
from kdiff_jax.report import environment
from kdiff_jax.train import hosts, parallel, peers

# Environment that changes what JAX does; other variables are nobody's business.
SETTINGS = re.compile(r"(JAX|XLA|KDIFF|LIBTPU|TPU|NCCL|CUDA_VISIBLE|SLURM_STEP)_?\w*")
SHOWN = re.compile(r"JAX_\w+|XLA_\w+|CUDA_VISIBLE_DEVICES|NCCL_DEBUG")
DRIVEN = (  # file of a driver, what it drives, JAX's modules for it, our extra
    (
        "/dev/nvidiactl",
        "an NVIDIA GPU",
        ("jax_cuda12_plugin", "jax_cuda13_plugin"),
        "cuda",
    ),
    ("/dev/accel0", "a TPU", ("libtpu",), "tpu"),
)
HOST = 4e9  # bytes of memory below which imports and XLA's compiler alone get tight
CACHE = 20e9  # bytes of compiled programs that are worth a look


def versions() -> Finding:
    """Versions of the package and what is below it, against what setup.py asks for."""
    found = environment.versions()
    settings = {
        name: value if SHOWN.fullmatch(name) else "set"
        for name, value in sorted(os.environ.items())
        if SETTINGS.fullmatch(name)
    }
    text = ", ".join(f"{name} {value[:12]}" for name, value in found.items())
    lacks = _lacking()
    advice = f"pip install -U {' '.join(map(repr, lacks))}" if lacks else ""
    if lacks:
        text = f"missing or too old: {', '.join(lacks)} ({text})"
    return Finding("versions", text, advice, {"versions": found, "set": settings})


def _lacking() -> list[str]:
    """Requirements of the installed package that nothing here meets."""
    from packaging.requirements import Requirement  # of matplotlib

    try:
        wanted = importlib.metadata.requires("kdiff_jax") or []
    except importlib.metadata.PackageNotFoundError:
        return []  # run from a checkout
    lacks = []
    for one in map(Requirement, wanted):
        if one.marker and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        if not version or not one.specifier.contains(version, prereleases=True):
            lacks.append(f"{one.name}{one.specifier}")
    return lacks


def devices() -> Finding:
    """Devices that JAX has, those that it leaves out, and cores of the host."""
    about, cores = environment.hardware(), environment.cores()
    chip = chips.of_kind(about["device"])
    text = f"{about['num_devices']} x {about['device']}"
    if about["num_hosts"] > 1:
        text += f" on {about['num_hosts']} hosts"
    text += f"; {cores:g} CPU cores"
    facts = {**about, "cores": cores, "in_table": chip is not None}
    if about["platform"] == "cpu" and (unused := _unused()):
        return Finding("devices", f"{text}; {unused[0]} is not used", unused[1], facts)
    busy = os.getloadavg()[0]
    facts["load"] = busy
    if busy > 0.5 * cores:
        text += f", and a load of {busy:.2g}"
        return Finding(
            "devices", text, "other work slows this down: wait for it or end it", facts
        )
    return Finding("devices", text, facts=facts)


def _unused() -> tuple[str, str] | None:
    """(what is here beside the CPU, how JAX comes to use it); None if nothing is."""
    for file, what, modules, extra in DRIVEN:
        if not os.path.exists(file):
            continue
        if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
            return what, "unset JAX_PLATFORMS"
        if not any(map(importlib.util.find_spec, modules)):
            return what, f"pip install -U 'kdiff_jax[{extra}]'"
        return (
            what,
            "JAX's plugin does not start: update its driver, or end who holds it",
        )
    return None


def memory() -> Finding:
    """Memory of the host and of a device, and whether others hold some of it."""
    total, device = arrays.memory(), jax.local_devices()[0]
    stats = device.memory_stats() or {}
    limit, chip = stats.get("bytes_limit", 0), chips.of_kind(device.device_kind)
    facts = {"host_bytes": total, "available_bytes": _available(), "device": stats}
    text = f"{total / 1e9:.4g} GB of the host"
    if (free := _available()) is not None:
        text += f", {min(free, total) / 1e9:.4g} GB available"
    if limit:
        text += f"; {limit / 1e9:.4g} GB of a device for JAX"
    advice = ""
    # JAX takes three quarters of a GPU by default, and all of a TPU.
    if limit and chip and limit < 0.6 * chip.memory:
        text += f", of {chip.memory / 1e9:.4g}"
        advice = (
            "another process holds the device, or XLA_PYTHON_CLIENT_MEM_FRACTION is"
            " low: end it, or raise that"
        )
    if (free is not None and free < HOST) or total < HOST:
        advice = "little memory on the host: end other work, or lower batch sizes"
    return Finding("memory", text, advice, facts)


def _available() -> int | None:
    """Bytes of the host's memory that programs can still get; None if not known."""
    file = pathlib.Path("/proc/meminfo")
    text = file.read_text() if file.is_file() else ""
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else None


def cache() -> Finding:
    """The cache of compiled programs, whether a program is really stored in it."""
    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    if not folder:
        off = os.environ.get("KDIFF_CACHE") == ""
        text = "off, as KDIFF_CACHE= says" if off else "its folder cannot be used"
        way_out = "every start compiles anew; set KDIFF_CACHE=FOLDER, on a local disk"
        return Finding("cache", text, way_out, {"on": False})
    with os.scandir(folder) as entries:
        sizes = [entry.stat().st_size for entry in entries if entry.is_file()]
    facts = {"on": True, "num_files": len(sizes), "bytes": sum(sizes)}
    text = f"{len(sizes)} files, {sum(sizes) / 1e9:.3g} GB"
    if not (written := _stores(pathlib.Path(folder))):
        text, advice = f"{text}, and takes no more", "delete it: it is made anew"
    elif sum(sizes) > CACHE:
        advice = "large: delete it when no run is going on; it is made anew"
    else:
        advice = ""
    return Finding("cache", text, advice, facts | {"stores": written})


def _stores(folder: pathlib.Path) -> bool:
    """Whether a new program is stored; it is deleted again."""
    name, key = "kdiff_doctor_probe", "jax_persistent_cache_min_compile_time_secs"
    before, new = getattr(jax.config, key), float(time.time_ns() % 10**9)

    def probe(x):
        return x + new

    probe.__name__ = name
    jax.config.update(key, 0.0)
    try:
        jax.jit(probe)(np.float32(0)).block_until_ready()
    finally:
        jax.config.update(key, before)
    found = list(folder.glob(f"*{name}*"))
    for file in found:
        file.unlink(missing_ok=True)
    return bool(found)


def distributed() -> Finding:
    """The processes of a run, and a sum over all devices of all hosts.

    Raises:
        ConfigError: If hosts have different versions.
        PeerError: If a process does not answer.
    """
    hosts.compare({"versions": environment.versions()})
    num, all_devices = jax.process_count(), jax.devices()
    names = [n for n in (*peers.NAMES, "SLURM_STEP_NUM_TASKS") if n in os.environ]
    facts = {"num_processes": num, "set": names}
    text = "one process" if num == 1 else f"{num} processes found each other"
    if num == 1 and os.environ.get("SLURM_NTASKS", "1") != "1":
        tasks = os.environ["SLURM_NTASKS"]
        text += f", in a SLURM job of {tasks} tasks"
        return Finding("distributed", text, "start it with srun", facts)
    if len(all_devices) == 1:
        return Finding("distributed", text, facts=facts)
    mesh = parallel.make_mesh()
    places = np.arange(len(all_devices), dtype=np.float32)
    split = NamedSharding(mesh, P(mesh.axis_names))
    there = jax.make_array_from_callback(places.shape, split, lambda i: places[i])
    total = float(jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, P()))(there))
    if total != places.sum():
        text += f"; a sum over {len(all_devices)} devices is wrong"
        advice = "mend the network between devices; NCCL_DEBUG=INFO shows more"
        return Finding("distributed", text, advice, facts, exit_code=5)
    text += f"; a sum over {len(all_devices)} devices is right"
    return Finding("distributed", text, facts=facts)
