"""Codecs that crash, hang or ask for too much, by which one file is lost and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from ich.data import HeadCTDataModule
from ich.dicom import decoding, read_hu
from ich.schema import InputSpec, ReadError, UserError
from ich.schema.codes import Refusal

pytestmark = pytest.mark.races


@pytest.fixture
def slices(phantom: Path, tmp_path: Path) -> list[Path]:
    """Six slices, compressed, beside whose pixels nothing differs from the phantom's."""
    written = []
    for number, source in enumerate(sorted((phantom / "stage_2_train").iterdir())[:6]):
        with pydicom.config.disable_value_validation():
            ds = pydicom.dcmread(source)
            ds.compress((RLELossless, JPEG2000Lossless)[number % 2], generate_instance_uid=False)
            written.append(tmp_path / source.name)
            ds.save_as(written[-1])
    return written


@pytest.fixture
def break_codec(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Has the processes that are started from now on run ``code`` in the place of a codec."""

    def break_codec(code: str) -> None:
        program = "import os, time\nfrom ich.dicom import decoding\nwhole = decoding.decode\n"
        program += f"def decode(*args):\n{textwrap.indent(textwrap.dedent(code), '    ')}\n"
        program += "decoding.decode = decode\ndecoding.serve()"
        monkeypatch.setattr(decoding, "_COMMAND", [*decoding._COMMAND[:-1], program])
        decoding._close_all()

    yield break_codec
    decoding._close_all()


def list_processes() -> list[int]:
    return [worker._process.pid for worker in decoding._idle]


def leave_no_process() -> bool:
    """Ends the processes, and tells whether none is left that nobody waited for."""
    decoding._close_all()
    try:
        return os.waitpid(-1, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return True


def test_threads_decode_side_by_side_and_leave_the_processes_for_the_next(
    slices: list[Path], phantom: Path
) -> None:
    decoding._close_all()  # whatever other tests have left
    expected = [read_hu(phantom / "stage_2_train" / path.name) for path in slices]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            for hu, whole in zip(pool.map(read_hu, slices * 3), expected * 3, strict=True):
                np.testing.assert_array_equal(hu, whole)
    assert 1 <= len(list_processes()) <= 4
    assert leave_no_process()


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        ("os.abort()", Refusal.CRASHED),
        ("os.kill(os.getpid(), 11)", Refusal.CRASHED),
        ("os._exit(0)", Refusal.CRASHED),
        ("time.sleep(60)", Refusal.TIMEOUT),
        ("raise MemoryError", Refusal.TOO_LARGE),
        ("raise BaseException", Refusal.CORRUPT),
        ("return whole(*args)[1:]", Refusal.CORRUPT),
        pytest.param(
            "return bytearray(1 << 30)",
            Refusal.TOO_LARGE,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="no limit of memory"),
        ),
    ],
)
def test_what_a_codec_does_costs_one_file(
    slices: list[Path],
    phantom: Path,
    break_codec: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    refusal: Refusal,
) -> None:
    # Only JPEG 2000 breaks; what comes before and after it is decoded.
    break_codec(f"if args[1] != {JPEG2000Lossless!r}: return whole(*args)\n{code}")
    for number, path in enumerate(slices[:4]):
        breaks = number % 2 == 1
        monkeypatch.setattr(decoding, "TIME_LIMIT", 0.3 if breaks and refusal == Refusal.TIMEOUT else 60)
        if breaks:
            with pytest.raises(ReadError) as caught:
                read_hu(path)
            assert (caught.value.code, caught.value.path) == (refusal, str(path))
        else:
            np.testing.assert_array_equal(read_hu(path), read_hu(phantom / "stage_2_train" / path.name))
    assert leave_no_process()


def test_a_loader_loses_one_slice_to_a_crash(
    phantom: Path, tmp_path: Path, damage: Callable[[Path], None], break_codec: Callable[[str], None]
) -> None:
    shutil.copytree(phantom, tmp_path / "data")
    datamodule = HeadCTDataModule(str(tmp_path / "data"), InputSpec(size=64), num_workers=2, tolerate=1)
    datamodule.prepare_data()
    datamodule.setup()
    rows = datamodule.part("val")
    damage(tmp_path / "data" / rows["path"].iloc[3])  # compresses it, too
    break_codec("os.abort()")
    seen = 0
    for batch in datamodule.val_dataloader():
        seen += len(datamodule.on_before_batch_transfer(batch, 0)["row"])
    assert seen == len(rows) - 1
    assert [error.code for error in datamodule.unread.values()] == [Refusal.CRASHED]


def test_a_codec_that_prints_is_understood(slices: list[Path], break_codec: Callable[[str], None]) -> None:
    expected = read_hu(slices[0])
    break_codec("os.write(1, b'noise' * 100)\nprint('noise', flush=True)\nreturn whole(*args)")
    np.testing.assert_array_equal(read_hu(slices[0]), expected)


def test_a_process_that_was_killed_is_replaced(slices: list[Path]) -> None:
    expected = read_hu(slices[0])
    for process in list_processes():
        os.kill(process, signal.SIGKILL)
    np.testing.assert_array_equal(read_hu(slices[0]), expected)


def test_where_no_process_starts_no_file_is_blamed(
    slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding._close_all()
    for command in ([sys.executable, "-c", "raise SystemExit(3)"], ["/nowhere/python"]):
        monkeypatch.setattr(decoding, "_COMMAND", command)
        with pytest.raises(UserError, match="cannot be started") as caught:
            read_hu(slices[0])
        assert not isinstance(caught.value, ReadError)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)", "raise KeyError"])
def test_no_process_outlives_the_one_that_reads(slices: list[Path], end: str) -> None:
    program = f"""
    import os, sys
    from ich.dicom import decoding, read_hu
    read_hu({str(slices[0])!r})
    print(decoding._idle[0]._process.pid, flush=True)
    if os.fork() == 0:  # has none of its own and lets that of its parent alone
        read_hu({str(slices[1])!r})
        sys.exit()
    assert os.wait()[1] == 0
    read_hu({str(slices[0])!r})
    {end}
    """
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert "Warning" not in ended.stderr
    assert (ended.stderr == "") == (end != "raise KeyError")
    # Its pipe is closed, by which it notices; that may take it a moment.
    pid = int(ended.stdout)
    for _ in range(200):
        if not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        os.sched_yield()
        subprocess.run(["sleep", "0.05"], check=True)
    pytest.fail(f"{pid} is still there")
