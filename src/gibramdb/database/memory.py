"""How much memory a state will take, and how much there is: asked before a restore builds one beside that which serves.

What it will take is an estimate, from what a manifest says. What there is comes from the kernel; where it does not
tell, nobody is refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from gibramdb.core.limits import SESSION_BYTES
from gibramdb.storage.snapshot import Section

if sys.platform != "win32":
    import resource

OBJECT_BYTES = 512
"""What an object takes beside its texts and its embedding: its record, its place in the maps that find it."""

_ROOT = Path("/")
# Of each version of control groups: under which folder, limit, use, and what of the use the kernel can take back.
_GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def needed_bytes(sections: Iterable[Section]) -> int:
    """What the sessions of these sections will take, roughly: texts and embeddings as they are, and what finds them."""
    return sum(each.length + OBJECT_BYTES * each.objects + SESSION_BYTES for each in sections)


def available_bytes(root: Path = _ROOT) -> int | None:
    """What this process may still take without being refused or killed, or None where nobody tells.

    The least of what the machine has, what the process's control groups leave it, and its own address space. `root`:
    where the kernel's files lie.
    """
    found = [*_of_machine(root), *_of_groups(root), *_of_address_space(root)]
    return max(0, min(found)) if found else None


def _of_machine(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_groups(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            if controller not in _GROUPS:
                continue
            mount, limit_name, used_name, cache_name = _GROUPS[controller]
            top = root / mount
            inner = top / group.lstrip("/")
            # The limit may be that of a group further out; in a container, the inner path may not be there at all.
            for folder in (inner, *(each for each in inner.parents if each.is_relative_to(top))):
                limit, used = _lines(folder / limit_name), _lines(folder / used_name)
                if limit and used and limit[0].isdigit():
                    cached = (each.split() for each in _lines(folder / "memory.stat"))
                    yield int(limit[0]) - int(used[0]) + sum(int(size) for name, size in cached if name == cache_name)


def _of_address_space(root: Path) -> Iterator[int]:
    if sys.platform == "win32":
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    statm = _lines(root / "proc/self/statm")
    if limit != resource.RLIM_INFINITY and statm:
        yield limit - int(statm[0].split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
