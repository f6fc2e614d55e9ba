"""Generate src/gibramdb/wire/gibramdb_pb2.py and its .pyi from gibramdb.proto.

With --check nothing is written: exit code 1 if the committed files are not what the schema gives.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]  # it ships no types

SOURCE_ROOT = Path(__file__).resolve().parent.parent / "src"
SCHEMA = "gibramdb/wire/gibramdb.proto"
GENERATED = ("gibramdb/wire/gibramdb_pb2.py", "gibramdb/wire/gibramdb_pb2.pyi")


def generate(target_root: Path) -> None:
    """Write the generated files below `target_root`; exits with protoc's code if it fails."""
    arguments = ["protoc", f"-I{SOURCE_ROOT}", f"--python_out={target_root}", f"--pyi_out={target_root}", SCHEMA]
    exit_code = protoc.main(arguments)
    if exit_code:
        sys.exit(exit_code)
    # protoc writes Mapping without its parameters, which strict checking refuses.
    stub = target_root / GENERATED[1]
    stub.write_text("# mypy: ignore-errors\n" + stub.read_text())


def main(arguments: list[str]) -> int:
    """Generate, or compare. Returns the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: generate_wire.py [--check]")
        return 2
    if not arguments:
        generate(SOURCE_ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = [name for name in GENERATED if not _same(Path(folder) / name, SOURCE_ROOT / name)]
    for name in stale:
        print(f"{name} is not what {SCHEMA} gives; run tools/generate_wire.py")
    return 1 if stale else 0


def _same(fresh: Path, committed: Path) -> bool:
    return committed.exists() and fresh.read_bytes() == committed.read_bytes()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
