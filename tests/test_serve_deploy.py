"""What ships with the service: files of `deploy/`, and what the operator's page says of the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from command import call

from ich.cli import _make_parser
from ich.serve.settings import read_settings
from ich.serve.store import open_store
from ich.serve.upkeep import metrics
from ich.serve.upkeep.health import make_router

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def test_the_settings_of_the_first_try_fit_its_services() -> None:
    settings = read_settings(DEPLOY / "serve.yaml")
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    orthanc = json.loads((DEPLOY / "orthanc.json").read_text(encoding="utf-8"))
    assert set(compose["services"]) == {"ich", "demo", "orthanc"}
    (node,) = settings.send
    assert node.address == f"orthanc:{orthanc['DicomPort']}"
    assert node.ae_title == orthanc["DicomAet"] == settings.receive.peers[0].ae_title
    assert orthanc["DicomModalities"] == {"ich": [settings.receive.ae_title, "ich", settings.receive.port]}
    volumes = [each for service in compose["services"].values() for each in service["volumes"]]
    for source in (each.split(":")[0] for each in volumes if each.startswith("./")):
        assert (DEPLOY / source).is_file()
    assert all(
        port.startswith("127.0.0.1:")
        for each in compose["services"].values()
        for port in each.get("ports", [])
    )


CONTAINER = (DEPLOY / "Containerfile").read_text(encoding="utf-8")


def read_instruction(name: str) -> str:
    """What stands behind the last instruction of this name in the Containerfile."""
    joined = CONTAINER.replace("\\\n", " ")
    return re.findall(rf"^{name} (.+)$", joined, re.MULTILINE)[-1]


def test_the_container_has_what_it_is_built_from() -> None:
    for line in re.findall(r"^COPY (?!--from)(.+)$", CONTAINER, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split()[:-1]), line
    extras = re.search(r"'\.\[([a-z0-9,]+)\]'", CONTAINER)
    assert extras is not None
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras[1].split(",")) <= set(known["optional-dependencies"])
    copied = " ".join(re.findall(r"^COPY (?!--from)(.+)$", CONTAINER, re.MULTILINE)).split()
    assert {known["readme"], *known["license-files"], "pyproject.toml"} <= set(copied)


def test_the_container_runs_the_service_and_not_as_root(tmp_path: Path, capsys) -> None:
    user = read_instruction("USER")
    assert re.search(rf"useradd --uid [1-9]\d* .*\b{user}\b", CONTAINER)
    command = [*json.loads(read_instruction("ENTRYPOINT")), *json.loads(read_instruction("CMD"))]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    mounted = [volume.split(":")[1] for volume in compose["services"]["ich"]["volumes"]]
    assert command[:3] == ["ich", "serve", "--config"]
    assert command[3] in mounted
    assert call(*command[1:3], str(tmp_path / "serve.yaml"), *command[4:]) == 2
    assert "serve.yaml cannot be read" in capsys.readouterr().err  # the words are known; the file is not here


def test_the_health_check_asks_what_the_service_answers(tmp_path: Path) -> None:
    found = re.search(r"urlopen\('http://127\.0\.0\.1:(\d+)(/\w+)'", read_instruction("HEALTHCHECK"))
    assert found is not None
    settings = read_settings(DEPLOY / "serve.yaml")
    assert int(found[1]) == settings.web.port
    assert {found[1], str(settings.receive.port)} == set(read_instruction("EXPOSE").split())
    store = open_store(str(tmp_path / "queue.sqlite"))
    routes = {getattr(route, "path", "") for route in make_router(settings, store).routes}
    store.close()
    assert found[2] in routes


def test_the_first_try_serves_the_model_that_the_demo_writes() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    demo, service = compose["services"]["demo"], compose["services"]["ich"]
    assert demo["image"] == service["image"]
    words = [*demo["entrypoint"], *demo["command"]][1:]
    out = Path(_make_parser(words).parse_args(words).out)
    assert read_settings(DEPLOY / "serve.yaml").bundle == str(out / "model.zip")
    (volume,) = demo["volumes"]
    assert volume == f"demo:{out}"
    assert f"${{ICH_MODELS:-demo}}:{out}:ro" in service["volumes"]
    # A new volume has the owner of the folder in the image.
    assert f" {out}" in CONTAINER.split("install -d -o ich")[1].splitlines()[0]


def test_the_page_and_the_compose_file_show_the_same_commands() -> None:
    commands = PAGE.split("## A first try")[1].split("```sh\n")[1].split("```")[0].splitlines()
    head = (DEPLOY / "compose.yaml").read_text(encoding="utf-8").split("\nname:")[0]
    assert len(commands) == 4
    assert all(f"#   {command}\n" in head for command in commands)
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert f" {compose['services']['ich']['container_name']} ich serve " in commands[2]


def test_the_rule_for_mercure_takes_heads() -> None:
    """mercure evaluates a rule as an expression with the tags as attributes; absent ones are empty."""
    found = json.loads(PAGE.split("**mercure**")[1].split("```json\n")[1].split("```")[0])
    settings = read_settings(DEPLOY / "serve.yaml")
    ((name, target),) = found["targets"].items()
    (rule,) = found["rules"].values()
    assert rule["target"] == name
    assert (target["port"], target["aet_target"]) == (str(settings.receive.port), settings.receive.ae_title)

    def is_taken(modality: str, part: str) -> bool:
        tags = SimpleNamespace(Modality=modality, BodyPartExamined=part)
        return eval(rule["rule"], {"__builtins__": {}}, {"tags": tags})

    assert is_taken("CT", "HEAD")
    assert is_taken("CT", "")
    assert not is_taken("CT", "CHEST")
    assert not is_taken("SR", "")


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
