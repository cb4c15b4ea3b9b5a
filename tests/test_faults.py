"""Short versions of the long runs of benchmarks/faults.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/faults.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_mutated_files_are_read_or_refused_and_nothing_else() -> None:
    ended = run("files", "--count", "400", "--seed", "1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "of 10 bases" in ended.stdout
    counts = {code: int(number) for code, number in re.findall(r"^  (\S+): (\d+)$", ended.stdout, re.M)}
    assert sum(counts.values()) == 400
    assert {"read", "corrupt", "truncated"} <= counts.keys()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_bombs_are_refused_and_take_no_memory() -> None:
    found = re.findall(r"^(.*) \([\d,]+ bytes\): (\w+), .* s, (\d+) MiB more$", run("bombs").stdout, re.M)
    outcomes = {name: code for name, code, _ in found}
    assert outcomes.pop("RLE, 4096 x 4096 of runs") == "constant"
    assert len(outcomes) == 5
    assert set(outcomes.values()) == {"too_large", "corrupt"}
    assert all(int(memory) < 256 for *_, memory in found)
