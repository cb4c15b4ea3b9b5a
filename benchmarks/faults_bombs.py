"""Small files that ask for much: how long it takes to refuse them, and how much memory."""

import argparse
import io
import multiprocessing
import struct
import tempfile
import time
import zlib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pydicom
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from ich.dicom import decoding, read_hu
from ich.phantom import write_phantom
from ich.schema import ReadError

MOST_SECONDS = 1.0
MOST_MEMORY = 256  # MiB beyond what reading a whole slice takes


def make_bombs(source: Path) -> dict[str, bytes]:
    """Writes each from a whole slice."""
    rle, tiles = pydicom.dcmread(source), pydicom.dcmread(source)
    rle.compress(uid.RLELossless, generate_instance_uid=False)
    rle.Rows, rle.Columns = 40_000, 20_000
    small = pydicom.dcmread(source)
    small.compress(uid.RLELossless, generate_instance_uid=False)
    small.Rows = small.Columns = 4096
    # Two segments of runs: 128 bytes of each two, for 32 MiB of pixels (PS3.5 G.3).
    run = b"\x81\0" * (4096 * 4096 // 128)
    small.PixelData = encapsulate([struct.pack("<16I", 2, 64, 64 + len(run), *[0] * 13) + run * 2])
    tiles.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = bytearray(next(generate_frames(tiles.PixelData, number_of_frames=1)))
    struct.pack_into(">2I", frame, 8, 4096, 4096)  # SIZ (ITU-T T.800 A.5.1): the image
    struct.pack_into(">2I", frame, 24, 17, 17)  # its tiles
    tiles.Rows = tiles.Columns = 4096
    tiles.PixelData = encapsulate([bytes(frame)])
    return {
        "deflated, 1000:1, 1 GiB": _deflate(source),
        "RLE, 40,000 x 20,000": _to_bytes(rle),
        "RLE, 4096 x 4096 of runs": _to_bytes(small),
        "JPEG 2000, 58,081 tiles": _to_bytes(tiles),
        "5,000 nested sequences": _nest(source, 5000),
        "2,000,000 empty elements": _repeat(source, 2_000_000),
    }


def _to_bytes(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def _deflate(source: Path) -> bytes:
    dataset = pydicom.dcmread(source)
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    whole = _to_bytes(dataset)
    file = io.BytesIO(whole)
    pydicom.filereader.read_preamble(file, force=False)
    pydicom.filereader._read_file_meta_info(file)
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    # After a full flush nothing refers back, so the same bytes can be repeated.
    zeros = deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return whole[: file.tell()] + zeros * 1024 + deflater.flush()


def _nest(source: Path, depth: int) -> bytes:
    down = b"\x08\0\x12\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    up = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return _insert(source, down * depth + up * depth)


def _repeat(source: Path, count: int) -> bytes:
    return _insert(source, b"\x09\0\1\x10LO\0\0" * count)


def _insert(source: Path, elements: bytes) -> bytes:
    dataset = pydicom.dcmread(source)
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    whole = _to_bytes(dataset)
    place = whole.index(b"\x10\0\x20\0LO")  # PatientID
    return whole[:place] + elements + whole[place:]


def read_apart(whole: Path, bomb: Path, result: Connection) -> None:
    """Reads a slice and then the bomb, in a process of its own."""
    read_hu(whole)
    before = _find_peak()
    start = time.perf_counter()
    try:
        read_hu(bomb)
        outcome = "read"
    except ReadError as error:
        outcome = error.code
    result.send((outcome, time.perf_counter() - start, _find_peak() - before))


def _find_peak() -> float:
    """The most memory that this process and the one that decodes for it have had, in MiB."""
    peak = 0
    for process in ("self", *(worker._process.pid for worker in decoding._idle)):
        status = Path(f"/proc/{process}/status").read_text()
        peak += int(status.partition("VmHWM:")[2].split()[0])
    return peak / 1024


def run(_: argparse.Namespace) -> bool:
    sound = True
    # As clean as by spawn, but the modules are imported once.
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory() as folder:
        write_phantom(Path(folder, "phantom"), patients=1, size=64, conformant=True)
        source = sorted(Path(folder, "phantom", "stage_2_train").iterdir())[10]
        whole, bomb = Path(folder, "whole.dcm"), Path(folder, "bomb.dcm")
        compressed = pydicom.dcmread(source)
        compressed.compress(uid.RLELossless, generate_instance_uid=False)
        compressed.save_as(whole)
        for name, content in make_bombs(source).items():
            bomb.write_bytes(content)
            result, theirs = context.Pipe(duplex=False)
            process = context.Process(target=read_apart, args=(whole, bomb, theirs))
            process.start()
            theirs.close()
            outcome, seconds, memory = result.recv()
            process.join()
            sound &= seconds < MOST_SECONDS and memory < MOST_MEMORY
            print(f"{name} ({len(content):,} bytes): {outcome}, {seconds:.2f} s, {memory:.0f} MiB more")
    return sound


def add_command(commands: Any) -> None:
    parser = commands.add_parser("bombs", help="small files that ask for much time or memory (Linux)")
    parser.set_defaults(run=run)
