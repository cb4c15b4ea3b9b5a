"""What ``ich doctor`` says of a machine: the real one, and machines that its files describe."""

from __future__ import annotations

import getpass
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import jsonschema
import pytest
from command import call

from ich.doctor import examine
from ich.doctor.advice import advise, find_limits
from ich.doctor.record import Codec, Disk, Gpu, Machine, OpenFiles, make_schema
from ich.machine import count_cores, read_core_quota, read_memory_limit
from ich.schema.formats import read_plain, to_plain

PUBLISHED = Path(__file__).resolve().parents[1] / "docs/machine.schema.json"
GIB = 1 << 30


@pytest.fixture(scope="module")
def machine() -> Machine:
    return examine()


def test_the_published_schema_is_that_of_the_format() -> None:
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == make_schema(), (
        "python -c 'import json; from ich.doctor.record import make_schema; "
        "print(json.dumps(make_schema(), indent=1))' > docs/machine.schema.json"
    )


def test_a_machine_is_described_without_names_of_people_hosts_or_folders(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "machine.json"
    assert call("doctor", "--root", str(phantom), "--json", str(file)) == 0
    written = file.read_text(encoding="utf-8")
    found = json.loads(written)
    jsonschema.validate(found, json.loads(PUBLISHED.read_text(encoding="utf-8")))
    read = read_plain(Machine, found, "here")
    assert read.disk is not None
    assert read.disk.kind == "CT slices"
    assert read.disk.files == read.disk.decoded > 0
    assert read.cores.usable == count_cores()
    assert read.hub == "switched off"
    printed = capsys.readouterr().out
    assert all(limit in printed for limit in read.limits)
    assert all(each.setting in printed and each.reason in printed for each in read.advice)
    assert "one thread reads about" in printed
    assert "Research use only" in printed
    for text in (written, printed.replace(f"wrote {file}", "")):
        assert not [name for name in (str(phantom), str(tmp_path), platform.node()) if name and name in text]
        assert f"/{getpass.getuser()}" not in text
    assert call("doctor", "--json", str(file)) == 2
    assert "machine.json exists" in " ".join(capsys.readouterr().err.split())


def test_a_folder_without_slices_is_measured_on_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    disk = examine(tmp_path).disk
    assert disk is not None
    assert (disk.kind, disk.files, disk.decoded) == ("a file of its own", 1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_is_none_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--root", "nowhere") == 2
    assert "--root: nowhere cannot be listed" in " ".join(capsys.readouterr().err.split())


GROUPS = {
    "none": ({"proc/self/cgroup": "0::/\n"}, None, None),
    "version 2, in a container": (
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
        },
        1.5,
        2 * GIB,
    ),
    "version 2, the group around it is narrower": (
        {
            "proc/self/cgroup": "0::/batch/job\n",
            "sys/fs/cgroup/batch/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/batch/job/cpu.max": "max 100000\n",
            "sys/fs/cgroup/batch/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/batch/job/memory.max": f"{8 * GIB}\n",
        },
        2.0,
        4 * GIB,
    ),
    "version 1, of which only the mount shows": (
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
        },
        0.5,
        GIB,
    ),
    "version 1, without limits": (
        {
            "proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
        None,
        None,
    ),
    "a group outside of what the container sees": (
        {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"},
        3.0,
        None,
    ),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_control_groups_limit_cores_and_memory(tmp_path: Path, kind: str) -> None:
    files, quota, memory = GROUPS[kind]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_core_quota(tmp_path) == quota
    assert read_memory_limit(tmp_path) == memory


def test_a_gpu_that_only_the_driver_knows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'Card A, 24576, 24000, 550.54.14'\necho 'Card B, [N/A], [N/A], 550'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = examine()
    assert found.gpus == (Gpu("Card A", 24 * GIB, 24000 << 20, None, "550.54.14", usable=False),)
    assert any("shows 1 GPUs that PyTorch" in limit for limit in found.limits)
    assert any("no GPU" in limit for limit in found.limits)


@contextmanager
def serving() -> Iterator[str]:
    """Serves an address that answers every question about itself."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_hub_is_asked_once_and_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert examine().hub == "does not answer"
    with serving() as address:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        found = examine()
    assert found.hub == "answers"
    assert not any("hub" in limit for limit in found.limits)


def card(capability: str, free: int) -> Gpu:
    return Gpu("Card", 24 * GIB, free, capability, "550", usable=True)


def slow_disk() -> Disk:
    return Disk("CT slices", 10, 5_000_000, 1.0, 10, 0.05, GIB)


def change(machine: Machine, name: str, value: Any) -> Machine:
    """Replaces a field of a machine, or with a dot one of a part of it."""
    first, _, inner = name.partition(".")
    return replace(machine, **{first: replace(getattr(machine, first), **{inner: value}) if inner else value})


ONE_OF_TWO = (Codec("1.2", "One", ()), Codec("1.3", "Two", ("gdcm",)))


@pytest.mark.parametrize(
    ("changes", "limit", "setting"),
    [
        ({"gpus": (card("9.0", 20 * GIB),)}, None, "trainer.precision=bf16-mixed"),
        ({"gpus": (card("7.5", 20 * GIB),)}, None, "trainer.precision=16-mixed"),
        ({"gpus": (card("6.1", 20 * GIB),)}, None, "trainer.precision=32-true"),
        ({"gpus": (card("9.0", 20 * GIB),)}, None, "data.batch_size=32"),
        ({"gpus": (card("9.0", 3 * GIB),)}, None, "data.batch_size=8"),
        ({"system.instructions": ("AVX2",)}, "no GPU: networks run on", "trainer.precision=32-true"),
        ({"system.instructions": ("AVX2", "AMX-BF16")}, None, "trainer.precision=bf16-mixed"),
        ({"system.instructions": (), "system.machine": "x86_64"}, "has no AVX2", "--gpus 0"),
        ({"cores.torch_threads": 64, "cores.usable": 3}, "starts 64 threads on 3 cores", "threads=3"),
        ({"cores.machine": 9, "cores.usable": 3}, "may use 3 of 9 cores", "data.num_workers=3"),
        ({"cores.usable": 30}, None, "data.num_workers=8"),
        ({"memory.limit": GIB}, "1.0 GiB of memory are available", "data.batch_size=2"),
        ({"disk": slow_disk()}, "one thread reads about 10 slices a second", "data.cache=FOLDER"),
        ({"open_files": OpenFiles(256, None)}, "256 files may be open", None),
        ({"gpus": (card("9.0", GIB),) * 2, "memory.shared": 64 << 20}, "/dev/shm has 0.06 GiB", None),
        ({"codecs": ONE_OF_TWO}, "1 of 2 compressed encodings cannot be read", None),
    ],
)
def test_limits_and_settings_follow_from_what_was_found(
    machine: Machine, changes: dict[str, Any], limit: str | None, setting: str | None
) -> None:
    for name, value in changes.items():
        machine = change(machine, name, value)
    limits, advice = tuple(find_limits(machine, root_given=False)), tuple(advise(machine))
    assert limit is None or any(limit in each for each in limits)
    assert setting is None or setting in [each.setting for each in advice]
    whole = replace(machine, limits=limits, advice=advice)
    assert read_plain(Machine, to_plain(whole), "here") == whole


def test_a_folder_that_is_full_or_closed_is_a_limit(machine: Machine) -> None:
    assert any("cannot be written to" in limit for limit in find_limits(machine, root_given=True))
