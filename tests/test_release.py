"""What a release needs: one version, a changelog that has it, and workflows that say what they run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ich import __version__

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def list_steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_the_version_has_one_home_and_a_section_in_the_changelog() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dynamic"] == ["version"]
    assert project["authors"] == [{"name": "The ich contributors"}]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__
    assert cited["authors"] == project["authors"]
    assert re.search(rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$", CHANGELOG, re.MULTILINE)


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    sections = re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]
    assert len(sections) > 1
    for section in sections:
        found = re.findall(r"^### (.*)$", section, re.MULTILINE)
        assert set(found) <= kinds
        assert len(found) == len(set(found)), found


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_of_others_are_pinned_to_a_commit(name: str) -> None:
    for step in list_steps(WORKFLOWS[name]):
        action = step.get("uses", "actions/")
        assert action.startswith("actions/") or re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), action


@pytest.mark.parametrize("name", WORKFLOWS)
def test_scripts_that_a_workflow_runs_are_there(name: str) -> None:
    assert all("timeout-minutes" in job for job in WORKFLOWS[name]["jobs"].values())
    for step in list_steps(WORKFLOWS[name]):
        for path in re.findall(r"(?<!\S)(?:\.ci|deploy|tests)/\w\S*", step.get("run", "")):
            assert "$" in path or (ROOT / path).exists(), path


def list_before(jobs: dict[str, Any], name: str) -> set[str]:
    needs = set(jobs[name].get("needs", []))
    return needs.union(*(list_before(jobs, each) for each in needs))


def test_nothing_is_published_before_all_is_tested_and_built() -> None:
    jobs = WORKFLOWS["release.yml"]["jobs"]
    building = {"test", "package", "bill-of-materials", "site"}
    publishing = set(jobs) - building
    assert publishing == {"container", "pypi", "pages", "notes"}
    for name in publishing:
        assert list_before(jobs, name) >= building
    for name in building:
        assert "write" not in {
            jobs[name].get("permissions", {}).get(key) for key in ("contents", "packages", "pages")
        }
    assert jobs["pypi"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
