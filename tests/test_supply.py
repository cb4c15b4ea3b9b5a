"""What the package is built from: the lock files and the licenses."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parent.parent
CHECK = REPOSITORY / ".ci" / "licenses.py"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_lock(name: str) -> dict[str, list[str]]:
    """The versions of each package in a lock, after a look at its form."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert "://" not in text
    versions: dict[str, list[str]] = {}
    for line in text.replace("\\\n", "").splitlines():
        if line.lstrip().startswith("#"):
            continue
        found = re.match(r"([\w.-]+)==([\w.+-]+)( ;[^#]*?)?\s+(--hash=sha256:[0-9a-f]{64}\s*)+$", line)
        assert found, f"{name} has a line that is not a package with its hashes: {line[:80]}"
        versions.setdefault(canonicalize_name(found[1]), []).append(found[2])
    return versions


def list_direct(extras: list[str]) -> list[Requirement]:
    """What pyproject.toml itself asks for, with these extras and those that they name."""
    texts, waiting = list(PROJECT["dependencies"]), list(extras)
    while waiting:
        texts += PROJECT["optional-dependencies"][waiting.pop()]
        for requirement in [Requirement(text) for text in texts]:
            if requirement.name == "ich":
                waiting += requirement.extras
        texts = [text for text in texts if Requirement(text).name != "ich"]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize(
    ("name", "extras"),
    [("requirements.lock", []), ("requirements-dev.lock", ["dev"])],
    ids=["default", "dev"],
)
def test_lock_has_what_the_project_asks_for(name: str, extras: list[str]) -> None:
    locked = read_lock(name)
    for requirement in list_direct(extras):
        versions = locked.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement.name} is not in {name}: renew it with bash .ci/lock"
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions)


def test_locks_agree() -> None:
    default, everything = read_lock("requirements.lock"), read_lock("requirements-dev.lock")
    assert default.items() <= everything.items()


def plant(folder: Path, name: str, *fields: str) -> None:
    info = folder / f"{name.replace('-', '_')}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1", *fields])
    )


def check(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, CHECK, name]
    return subprocess.run(
        command, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        (["License-Expression: GPL-3.0-or-later"], True),
        (["License-Expression: MIT AND AGPL-3.0-only"], True),
        (["License: GNU General Public License v2"], True),
        (["Classifier: License :: OSI Approved :: GNU Affero General Public License v3"], True),
        (["Summary: says nothing of it"], True),
        (["License-Expression: MIT OR GPL-2.0-only"], False),
        (["License-Expression: LGPL-2.1-or-later"], False),
        (["License: GNU Lesser General Public License v3 (LGPLv3)"], False),
        (["License: BSD", "Classifier: License :: OSI Approved :: BSD License"], False),
    ],
)
def test_license_check(tmp_path: Path, fields: list[str], refused: bool) -> None:
    plant(tmp_path, "planted-top", "License-Expression: MIT", "Requires-Dist: planted-low")
    plant(tmp_path, "planted-low", "Requires-Dist: planted-extra; extra == 'more'", *fields)
    plant(tmp_path, "planted-extra", "License-Expression: AGPL-3.0-only")
    done = check(tmp_path, "planted-top")
    assert (done.returncode != 0) is refused, done.stdout + done.stderr
    assert ("planted-low 1" in done.stderr) is refused


def test_default_install_is_free_of_the_gpl() -> None:
    done = subprocess.run([sys.executable, CHECK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
