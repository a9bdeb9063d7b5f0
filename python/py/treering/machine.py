"""What a run finds out about where it runs."""

from __future__ import annotations

import json
import os
import platform
import socket
import sys

from . import _native


def _local_world_size() -> int:
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(text)) if text.isdigit() else 1


def background_threads() -> int:
    """Threads of a save: a quarter of the cores, shared with the other processes of the training here."""
    asked = os.environ.get("TREERING_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return max(1, min(4, _native.cores() // 4 // _local_world_size()))


def helpers(threads: int | None) -> int:
    """Threads that may join a save that somebody waits for: the rest of the cores, unless somebody set a number."""
    if threads is not None or os.environ.get("TREERING_THREADS", "").isdigit():
        return 0
    return max(0, _native.cores() // _local_world_size() - background_threads())


def quarter_of_memory() -> int:
    """Bytes: of the machine's memory or the container's, shared with the other processes of the training here."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit():
            memory = min(memory, int(text))
    return memory // 4 // _local_world_size()


def provenance() -> str:
    """Where a run comes from: what helps to find the code and the machine again."""
    versions = {name: str(sys.modules[name].__version__) for name in ("torch", "numpy", "jax") if name in sys.modules}
    found = {
        "program": f"treering {_native.__version__}",
        "python": platform.python_version(),
        "arguments": sys.argv,
        "host": socket.gethostname(),
        "folder": os.getcwd(),
        "versions": versions,
    }
    jobs = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "KUBERNETES_POD_NAME")
    job = next((f"{name}={os.environ[name]}" for name in jobs if name in os.environ), None)
    return json.dumps(found | ({"job": job} if job else {}))
