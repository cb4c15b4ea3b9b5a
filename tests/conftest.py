from __future__ import annotations

import os
from pathlib import Path

# Before anything imports them. No test may reach for the network; threads wait without spinning.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

from ich.phantom import write_phantom


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of few patients and small slices, to be left as it is."""
    root = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(root, patients=12, seed=3, size=64)
    return root
