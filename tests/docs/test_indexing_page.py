"""The example on the indexing page runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gibramdb.pipeline.sources import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "indexing.md"


def test_the_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example, encoding="utf-8")
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=180, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0] == "3 entities, 2 relationships"
    assert "TAY BRIDGE stands near FORTH BRIDGE" in ran.stdout


def test_every_ending_that_is_read_is_named() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [ending for ending in KINDS if f"`{ending}`" not in page] == []
