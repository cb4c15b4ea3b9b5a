"""What ships with the service: files of `deploy/`, and what the operator's page says of the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ich.serve.settings import read_settings
from ich.serve.store import open_store
from ich.serve.upkeep import metrics

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def test_the_settings_of_the_first_try_fit_its_services() -> None:
    settings = read_settings(DEPLOY / "serve.yaml")
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    orthanc = json.loads((DEPLOY / "orthanc.json").read_text(encoding="utf-8"))
    assert set(compose["services"]) == {"ich", "orthanc"}
    (node,) = settings.send
    assert node.address == f"orthanc:{orthanc['DicomPort']}"
    assert node.ae_title == orthanc["DicomAet"] == settings.receive.peers[0].ae_title
    assert orthanc["DicomModalities"] == {"ich": [settings.receive.ae_title, "ich", settings.receive.port]}
    volumes = [each for service in compose["services"].values() for each in service["volumes"]]
    for source in (each.split(":")[0] for each in volumes if each.startswith("./")):
        assert (DEPLOY / source).is_file()
    assert all(
        port.startswith("127.0.0.1:") for each in compose["services"].values() for port in each["ports"]
    )


def test_the_container_has_what_it_is_built_from() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split()[:-1]), line
    extras = re.search(r"'\.\[([a-z0-9,]+)\]'", text)
    assert extras is not None
    known = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{name} = \[", known, re.MULTILINE) for name in extras[1].split(","))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_knows_all_settings_of_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "ich.service").read_text(encoding="utf-8").replace("/opt/ich/bin/ich", "/bin/true")
    (tmp_path / "ich.service").write_text(unit, encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "ich.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "ich.service:" not in done.stderr, done.stderr


def test_the_page_names_all_alarms_and_metrics(tmp_path: Path) -> None:
    sources = "".join(
        (ROOT / "ich" / "serve" / "upkeep" / f"{name}.py").read_text(encoding="utf-8")
        for name in ("stalls", "references")
    )
    alarms = set(re.findall(r"\"((?:disk|stall|drift)\.[a-z_]+)", sources))
    assert len(alarms) >= 8
    assert all(f"| `{name}" in PAGE for name in alarms), alarms
    store = open_store(str(tmp_path / "queue.sqlite"))
    with store.view() as connection:
        page = metrics.make_page(connection, 1, 0.0).decode()
    store.close()
    names = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)) - {"ich_build_info"}
    assert {name for name in names if name not in PAGE} == set()


def test_links_of_the_page_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        text = PAGE if not path else (ROOT / "docs" / path).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, target
