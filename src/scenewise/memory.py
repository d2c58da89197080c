"""Free memory of a device or container, and recognising out-of-memory errors."""

from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")  # of version 2
_PHRASES = (  # PyTorch raises a plain RuntimeError for these
    "out of memory",
    "can't allocate memory",  # PyTorch on the CPU
    "not enough memory",  # the same on Windows
    "bad allocation",
    "bad_alloc",
    "ALLOC_FAILED",  # cuBLAS and cuDNN
)


def ran_out(error: BaseException) -> bool:
    """Whether the error means that memory ran out, of an accelerator or of the CPU.

    >>> ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."))
    True
    >>> ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PHRASES)


def free_bytes(device: torch.device) -> int | None:
    """Memory that this process may still take on ``device``; None where it is unknown.

    On the CPU the least of the available memory, what a container's limit leaves, and what the
    limit of the address space (``ulimit -v``) leaves.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type != "cpu":
        return None
    available = _kilobytes(Path("/proc/meminfo"), "MemAvailable:")
    limits = (available, _container(), _address_space())
    return min((limit for limit in limits if limit is not None), default=None)


def resident_bytes() -> int:
    """Memory that this process takes now; 0 where it is unknown."""
    return _kilobytes(Path("/proc/self/status"), "VmRSS:") or 0


def peak_bytes(device: torch.device) -> int | None:
    """The most memory that this process has taken; of an accelerator, what PyTorch allocated.

    None where that is unknown.

    >>> (peak_bytes(torch.device("cpu")) or 2**30) > 2**20
    True
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = _kilobytes(Path("/proc/self/status"), "VmHWM:")
    return peak if device.type == "cpu" else None


def _container() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - used) if limit.isdigit() else None  # "max": no limit


def _address_space() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _kilobytes(Path("/proc/self/status"), "VmSize:")
    return None if used is None or limit == resource.RLIM_INFINITY else max(0, limit - used)


def _kilobytes(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(name)]
    return int(values[0]) * 1024 if values else None
