"""Reading: seconds from the last slice to the report at the archive, and studies a minute."""

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from serve_running import (
    QUIET_SECONDS,
    Running,
    archiving,
    copy_study,
    list_reports,
    write_heads,
    write_model,
)
from serve_shared import find

from ich.outputs import OUTPUTS
from ich.predict import Predictor
from ich.predict.run import predict_folder

MOST_SECONDS = 600


def add_command(commands: Any) -> None:
    parser = commands.add_parser("latency", help=__doc__)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--input", type=int, default=256, help="size of the network's input")
    parser.add_argument("--size", type=int, default=512, help="rows and columns of the slices")
    parser.set_defaults(run=measure)


def measure(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder / "model.zip", arguments.backbone, arguments.input)
        studies = write_heads(folder, arguments.studies, arguments.size, step=4.8)
        slices = [sum(1 for _ in study.iterdir()) for study in studies]
        print(
            f"{len(studies)} studies of {min(slices)} to {max(slices)} slices, {arguments.size} px; POSITIVE"
        )
        with archiving(folder / "archive") as port, Running(folder / "one", model, port, {}) as service:
            time.sleep(15)  # until the spare process has imported what readers need
            measure_latency(service, studies, folder / "archive")
            again = [folder / "again" / study.name for study in studies]
            for study, copy in zip(studies, again, strict=True):
                copy_study(study, copy)
            ours = measure_throughput(service, again)
        theirs = measure_prediction(model, studies, folder / "predicted")
        share = 100 * ours / theirs
        print(f"ich predict: {60 * theirs:.1f} studies a minute; the service reaches {share:.0f} %")
        check_objects(folder / "archive")


def measure_latency(service: Running, studies: list[Path], archive: Path) -> None:
    """Sends a study, waits for its report at the archive, and sends the next one."""
    for study in studies:
        send(study, service.port)
        uid = str(pydicom.dcmread(next(study.iterdir()), stop_before_pixels=True).StudyInstanceUID)
        wait_for_report(service, archive, uid)
    last = dict(
        service.ask(
            "SELECT StudyInstanceUID, max(received_at) "
            "FROM objects JOIN studies ON studies.id = study_id GROUP BY studies.id"
        )
    )
    reports = {study: min(times.values()) for study, times in list_reports(archive).items()}
    beyond = [reports[study] - last[study] - QUIET_SECONDS for study in reports]
    p50, p95, most = np.quantile(beyond, [0.5, 0.95, 1])
    print(f"from the last slice to the report at the archive, beyond {QUIET_SECONDS:g} s of quiet:")
    print(f"p50 {p50:.1f} s, p95 {p95:.1f} s, longest {most:.1f} s")


def wait_for_report(service: Running, archive: Path, study: str) -> None:
    service.wait_for(lambda: study in list_reports(archive), "a report", 120)


def measure_throughput(service: Running, studies: list[Path]) -> float:
    """Sends all studies at once; returns the readings a second."""
    first = len(service.ask("SELECT id FROM readings"))
    for study in studies:
        send(study, service.port)
    every = first + len(studies)
    service.wait_for(lambda: len(service.ask("SELECT id FROM readings")) == every, "a reading", MOST_SECONDS)
    # Studies wait for a reader here, so that it goes from one to the next.
    times = service.ask("SELECT started_at, finished_at FROM readings ORDER BY id")[first:]
    rate = len(times) / float(times[-1][1] - times[0][0])
    print(f"ich serve: {60 * rate:.1f} studies a minute, with sending")
    sent = "SELECT id FROM sends WHERE state = 'confirmed'"
    service.wait_for(lambda: len(service.ask(sent)) == every, "an answer", MOST_SECONDS)
    return rate


def measure_prediction(model: Path, studies: list[Path], out: Path) -> float:
    """Reads the same studies with the same outputs as the service; returns the studies a second."""
    predictor = Predictor.load(model, gpus=0)
    started = time.monotonic()
    predict_folder(predictor, studies, out, OUTPUTS, progress=False)
    return len(studies) / (time.monotonic() - started)


def send(study: Path, port: int) -> None:
    command = [find("storescu"), "-aec", "ICH", "+sd", "127.0.0.1", str(port), str(study)]
    subprocess.run(command, check=True, capture_output=True)


def check_objects(archive: Path) -> None:
    """Checks each object at the archive by programs of others."""
    paths = [path for path in archive.iterdir() if path.is_file()]
    for tool, options in (("dciodvfy", ["-new"]), ("dcmdump", ["-q"]), ("dsrdump", ["-q"])):
        taken = [path for path in paths if tool != "dsrdump" or path.name.startswith("SR")]
        if shutil.which(tool) is None:
            print(f"{tool} is not installed")
            continue
        faults = sum(has_fault([tool, *options, str(path)]) for path in taken)
        print(f"{tool}: {len(taken)} objects, {faults} with an error")


def has_fault(command: list[str]) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    return done.returncode != 0 or any(line.startswith(("Error", "E:", "F:")) for line in said)
