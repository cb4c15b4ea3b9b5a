"""The first try of docs/serve.md: a model, Orthanc, and the service that answers it.

python .ci/first_try.py                    on this machine, with Orthanc (Debian: orthanc) on free ports
python .ci/first_try.py --engine docker    in containers, by commands of the page; also podman

It sends studies of the phantom to Orthanc, and counts what comes back. Each study must have one report and
key images, the reports must name only what Orthanc holds, and no answer may be routed back. Both ways use the
files of `deploy/`. Without containers their ports and folders are replaced. The model has random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # a model of random weights is there

from serve_parts import write_model

from ich.phantom import write_phantom

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
NAME, PASSWORD = "me", "a password of the first try"
LIMIT = 300.0
"""Seconds that anything may take."""

QUIET = 15.0
"""Seconds after the last answer: longer than Orthanc waits until a series is stable and routed."""


def main() -> None:
    """Runs the first try, and prints how long each step took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=("docker", "podman"), help="run in containers")
    parser.add_argument("--built", action="store_true", help="take the image `ich` that is there")
    parser.add_argument("--patients", type=int, default=2, help="studies of the phantom (default: 2)")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)  # the container has a user of its own
        write_phantom(root / "studies", patients=args.patients, seed=7, size=128, conformant=True)
        (root / "models").mkdir()
        write_model(root / "models" / "model.zip")
        running = run_here(root) if args.engine is None else run_containers(root, args.engine, args.built)
        started = time.monotonic()
        with running as (pages, orthanc):
            await_until(lambda: is_ready(pages), "the service is ready", started)
            log_in(pages)
            try_studies(orthanc, root / "studies")


def try_studies(orthanc: str, studies: Path) -> None:
    """Sends the studies to Orthanc, and checks what comes back."""
    with httpx.Client(base_url=orthanc, timeout=60, trust_env=False) as client:
        for path in sorted(studies.rglob("*.dcm")):
            client.post("/instances", content=path.read_bytes()).raise_for_status()
        sent = time.monotonic()

        def ask(path: str) -> Any:
            return client.get(path).raise_for_status().json()

        def is_answered() -> bool:
            modalities = [series["MainDicomTags"]["Modality"] for series in ask("/series?expand")]
            return modalities.count("SR") == modalities.count("OT") == len(ask("/studies"))

        await_until(is_answered, "each study has a report and key images", sent)
        time.sleep(QUIET)
        check_answers(ask)


def check_answers(ask: Callable[[str], Any]) -> None:
    """Checks that each study has one report, and that the reports name only what Orthanc holds."""
    stored = {each["MainDicomTags"]["SOPInstanceUID"] for each in ask("/instances?expand")}
    for study in ask("/studies"):
        series = ask(f"/studies/{study}/series")
        counts = Counter({each["MainDicomTags"]["Modality"]: len(each["Instances"]) for each in series})
        if len(series) != 3 or counts["SR"] != 1 or not 1 <= counts["OT"] <= 3:
            sys.exit(f"a study has {dict(counts)} in {len(series)} series; expected a report and key images")
        (report,) = [each for each in series if each["MainDicomTags"]["Modality"] == "SR"]
        tags = json.dumps(ask(f"/instances/{report['Instances'][0]}/tags?simplify"))
        named = set(re.findall(r'"ReferencedSOPInstanceUID": "([^"]+)"', tags))
        if not named or named - stored:
            sys.exit(f"a report names {len(named)} objects, of which Orthanc lacks {len(named - stored)}")
        print(f"a study: {dict(counts)}; its report names {len(named)} objects")
    jobs = [job["Type"] for job in ask("/jobs?expand")]
    if jobs != ["DicomModalityStore"] * len(ask("/studies")):
        sys.exit(f"Orthanc ran {jobs}; expected one job for each series of CT")


def is_ready(pages: str) -> bool:
    """Whether the service says that it receives and reads."""
    try:
        return httpx.get(f"{pages}/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def log_in(pages: str) -> None:
    """Logs in with the account that the second command made."""
    with httpx.Client(base_url=pages, trust_env=False) as client:

        def keep_cookies(answer: httpx.Response) -> httpx.Response:
            """Browsers send secure cookies to this machine, and httpx does not."""
            cookies = [cookie.split(";")[0] for cookie in answer.headers.get_list("set-cookie")]
            client.headers["Cookie"] = "; ".join(cookies)
            return answer

        page = keep_cookies(client.get("/login")).text
        found = re.search(r'name="csrf" value="([^"]+)"', page)
        assert found is not None
        form = {"csrf": found[1], "name": NAME, "password": PASSWORD, "goal": "/"}
        keep_cookies(client.post("/login", data=form))
        if client.get("/").status_code != 200:
            sys.exit("the account of the second command cannot log in")


def await_until(condition: Callable[[], bool], what: str, since: float) -> None:
    """Waits until something is so, and prints after how long it was."""
    while not condition():
        if time.monotonic() - since > LIMIT:
            sys.exit(f"not within {LIMIT:g} s: {what}")
        time.sleep(0.5)
    print(f"{time.monotonic() - since:5.1f} s: {what}", flush=True)


@contextmanager
def run_containers(root: Path, engine: str, is_built: bool) -> Iterator[tuple[str, str]]:
    """Runs the page's commands for the service; yields the addresses of the pages and of Orthanc."""
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    block = page.split("## A first try")[1].split("```sh\n")[1].split("```")[0]
    _, first, second, _ = block.replace("\\\n", " ").splitlines()
    compose = "docker compose" if engine == "docker" else "podman-compose"
    first = f"ICH_MODELS={root / 'models'} {first.replace('docker compose', compose)}"
    second = second.replace("docker exec -it", f"{engine} exec -i")  # there is no terminal
    down = first.split(" up ")[0] + " down --volumes"
    try:
        run(first.replace(" --build", "") if is_built else first)
        run(second, PASSWORD)
        yield "http://127.0.0.1:8042", "http://127.0.0.1:8043"
    finally:
        subprocess.run([engine, "logs", "ich"], check=False)
        run(down)


def run(command: str, given: str = "") -> None:
    """Runs a command of a shell in the root of the repository, and prints how long it took."""
    print(f"$ {command}", flush=True)
    started = time.monotonic()
    subprocess.run(command, shell=True, check=True, cwd=ROOT, input=given, text=True)
    print(f"{time.monotonic() - started:5.1f} s: the command has ended", flush=True)


@contextmanager
def run_here(root: Path) -> Iterator[tuple[str, str]]:
    """Runs Orthanc and the service as processes; yields the addresses of the pages and of Orthanc."""
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        sys.exit("Orthanc is not installed (Debian: orthanc); with --engine it comes as an image")
    ports = find_ports(4)
    service = [sys.executable, "-c", "from ich.cli import main; raise SystemExit(main())", "serve"]
    service += ["--config", str(write_service(root, *ports))]
    subprocess.run(
        [*service, "--account", NAME, "--role", "administer"], check=True, input=f"{PASSWORD}\n".encode()
    )
    orthanc = [program, str(write_orthanc(root, *ports))]
    processes = [subprocess.Popen(command) for command in (orthanc, service)]
    try:
        yield f"http://127.0.0.1:{ports[1]}", f"http://127.0.0.1:{ports[3]}"
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT)


def find_ports(count: int) -> list[int]:
    """Finds free ports on the loopback interface."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def write_service(root: Path, dicom: int, web: int, orthanc_dicom: int, _: int) -> Path:
    """Writes the settings of the first try with ports and folders of this machine."""
    settings = yaml.safe_load((DEPLOY / "serve.yaml").read_text(encoding="utf-8"))
    settings |= {"bundle": str(root / "models" / "model.zip"), "folder": str(root / "data")}
    settings["receive"] |= {"host": "127.0.0.1", "port": dicom}
    settings["web"] |= {"host": "127.0.0.1", "port": web}
    settings["send"][0]["address"] = f"127.0.0.1:{orthanc_dicom}"
    path = root / "serve.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def write_orthanc(root: Path, dicom: int, _: int, orthanc_dicom: int, orthanc_web: int) -> Path:
    """Writes the settings of Orthanc with ports and folders of this machine."""
    settings = json.loads((DEPLOY / "orthanc.json").read_text(encoding="utf-8"))
    (peer,) = settings["DicomModalities"]
    title = settings["DicomModalities"][peer][0]
    settings |= {
        "DicomPort": orthanc_dicom,
        "HttpPort": orthanc_web,
        "RemoteAccessAllowed": False,
        "StorageDirectory": str(root / "orthanc"),
        "IndexDirectory": str(root / "orthanc"),
        "DicomModalities": {peer: [title, "127.0.0.1", dicom]},
        "LuaScripts": [str(DEPLOY / "route.lua")],
    }
    path = root / "orthanc.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
