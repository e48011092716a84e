"""The machine a run is on: device, precision, threads, memory, versions."""

import atexit
import ctypes
import functools
import gc
import os
import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Threads that wait in a spin beside another busy process slow a small machine down many times over. OpenMP reads this
# when torch is loaded; with one thread each, as on two cores, none waits at all.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

CGROUP = Path("/sys/fs/cgroup")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of malloc.h


def choose_device(name: str) -> str:
    """Return the device that `auto`, `cpu`, `cuda` or `mps` means here.

    Raises:
        ValueError: a device is asked for that this machine lacks.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(name):
        raise ValueError(f"there is no {name} device here (torch {torch.__version__}); use --device cpu or auto")
    return name


def choose_precision(name: str, device: str) -> str:
    """Return `bf16` or `float32`; `auto` takes bf16 on a GPU that has it and on a CPU with instructions for it.

    Those are Intel's AMX (2023 on) and AVX512-BF16 (AMD from 2022 on): torch's own update takes 10.7 ms in bf16 and 16
    in float32 on the latter, the compiled one 6.7.
    """
    if name != "auto":
        return name
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    flags = Path("/proc/cpuinfo")
    has_bf16 = device == "cpu" and flags.exists() and "avx512_bf16" in flags.read_text()
    return "bf16" if has_bf16 else "float32"


def choose_threads(num_threads: int, device: str) -> int:
    """Return the threads for each of the two that compute; 0 shares out the cores, or takes 1 where a GPU computes."""
    return num_threads or (max(1, usable_cores() // 2) if device == "cpu" else 1)


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def settle_thread(num_threads: int) -> None:
    """Set up the calling thread to compute: its OpenMP threads, and denormal numbers flushed to zero.

    Adam's moments of rarely used weights sink into the denormals, on which a CPU is many times slower.
    """
    torch.set_num_threads(num_threads)
    torch.set_flush_denormal(True)


def settle_process() -> None:
    """Set up a process that trains.

    What there is stays out of the garbage collector's sight, which took 4 % of a run; given back at the end. And glibc
    keeps what is freed: to hand it back and fetch it anew, page by page, took a fifth of classification's updates.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_MMAP_THRESHOLD, 2**28)


def available_memory() -> int:
    """Return the bytes that can still be taken; a container's limit counts as well as the kernel's figure."""
    limits = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    for folder, limit, used, cached in (
        (CGROUP, "memory.max", "memory.current", "inactive_file"),
        (CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        if (folder / limit).exists() and (text := (folder / limit).read_text().strip()) != "max":
            # What files are kept in memory counts as used, and is given back when it is asked for.
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            limits.append(int(text) - int((folder / used).read_text()) + int(stat.get(cached, 0)))
    return min(limits, default=2**62)


def resident_memory() -> int:
    """Return the bytes of memory that this process holds, or held at most where the kernel tells no more."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS, which has no /proc


def check_memory(bytes_needed: int, remedy: str | None = None, device: str = "cpu") -> None:
    """Raise ValueError, with what to do, when a replay of this size cannot fit into the device's memory."""
    available = torch.cuda.mem_get_info()[0] if device == "cuda" else available_memory()
    if bytes_needed > available:
        remedy = remedy or f"lower --replay-capacity-steps to {90 * available // bytes_needed} % of what it is, or less"
        raise ValueError(
            f"the replay would take {bytes_needed / 1e9:.1f} GB when full, {available / 1e9:.1f} GB of memory are "
            f"left: {remedy}"
        )


def versions() -> dict[str, str]:
    """Return what a run's result may depend on: packages, Python, processor and this program's git commit."""
    found = {"python": platform.python_version(), "processor": processor(), "cores": str(usable_cores())}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(0)
    for package in ("saccade", "torch", "gymnasium", "ale-py", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"commit": _commit()}


@functools.cache
def _commit() -> str:
    """Return the git commit that this program started from; asked for once, not at each checkpoint."""
    root = Path(__file__).resolve().parents[1]
    try:
        ours = Path(_git(root, "rev-parse", "--show-toplevel")).resolve() == root  # or it lies in another program's
        return _git(root, "describe", "--always", "--dirty", "--abbrev=12") if ours else "unknown"
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *command: str) -> str:
    told = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10)
    return told.stdout.strip()


def processor() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
