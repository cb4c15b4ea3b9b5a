"""Mutated DICOM files must be read or refused with a code, and never anything else.

Ten slices of the phantom, each in another encoding, are changed at random. Their headers, lengths, value
representations and pixel data are changed, and they are cut, or lose, repeat or gain bytes. A process reads
them one after the other. The number of a file and the seed determine it, so ``--first`` repeats a failure.
"""

import argparse
import io
import multiprocessing
import resource
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pydicom
from measure import CONSOLE
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator
from rich.progress import track

from ich.dicom import read_header, read_hu
from ich.phantom import write_phantom
from ich.schema import ReadError
from ich.schema.codes import Refusal

PATIENCE = 60.0  # seconds until a reader is taken for hung
SLOW = 10.0  # seconds that no file may take
MOST_MEMORY = 1 << 30  # bytes that no process may reach
PIXEL_DATA = 0x7FE00010
ODD_NUMBERS = (0, 1, 2, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
VRS = b"AE AS AT CS DA DS FL IS LO OB OW OV PN SH SQ SS UI UL UN US UT".split()


class Element(NamedTuple):
    """Where an element lies in the body of a base, in bytes."""

    tag: int
    value: int
    size: int
    vr: int | None  # None in implicit VR
    length: int
    length_size: int


class Base(NamedTuple):
    """A whole file that is to be changed."""

    name: str
    head: bytes  # preamble and file meta information
    body: bytearray  # the data set, inflated
    deflated: bool
    order: Any  # of bytes
    elements: list[Element]

    def join(self, body: bytes) -> bytes:
        """The file with another data set."""
        if not self.deflated:
            return self.head + body
        deflater = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
        return self.head + deflater.compress(body) + deflater.flush()


def make_bases(folder: Path) -> list[Base]:
    """Writes a slice in ten encodings, and takes each apart."""
    write_phantom(folder, patients=1, size=64, conformant=True)
    source = sorted((folder / "stage_2_train").iterdir())[10]
    compressed = {
        "RLE": (uid.RLELossless, {}),
        "JPEG 2000": (uid.JPEG2000Lossless, {}),
        "JPEG 2000, lossy": (uid.JPEG2000, {"j2k_cr": [4]}),
        "JPEG-LS": (uid.JPEGLSLossless, {}),
    }
    written = {"native": pydicom.dcmread(source), "nested": _nest(pydicom.dcmread(source))}
    for name, (syntax, options) in compressed.items():
        written[name] = pydicom.dcmread(source)
        written[name].compress(syntax, generate_instance_uid=False, **options)
    for name, syntax in (
        ("implicit", uid.ImplicitVRLittleEndian),
        ("big endian", uid.ExplicitVRBigEndian),
        ("deflated", uid.DeflatedExplicitVRLittleEndian),
    ):
        written[name] = pydicom.dcmread(source)
        written[name].file_meta.TransferSyntaxUID = syntax
        if name == "big endian":
            swapped = written[name].pixel_array
            written[name].PixelData = swapped.astype(swapped.dtype.newbyteorder(">")).tobytes()
    files = {}
    for name, dataset in written.items():
        buffer = io.BytesIO()
        syntax = dataset.file_meta.TransferSyntaxUID
        little, implicit = syntax != uid.ExplicitVRBigEndian, syntax == uid.ImplicitVRLittleEndian
        pydicom.dcmwrite(buffer, dataset, little_endian=little, implicit_vr=implicit, force_encoding=True)
        files[name] = buffer.getvalue()
    files["JPEG lossless"] = _compress_with_gdcm(source, folder / "jpeg_lossless.dcm")
    return [_take_apart(name, content) for name, content in files.items()]


def _nest(dataset: Dataset) -> Dataset:
    """Adds sequences of undefined length in each other, and private elements."""
    inner, outer = Dataset(), Dataset()
    inner.PatientID, inner.Rows = "inner", 3
    inner.is_undefined_length_sequence_item = outer.is_undefined_length_sequence_item = True
    outer.SourceImageSequence = [inner, inner]
    outer["SourceImageSequence"].is_undefined_length = True
    dataset.ReferencedStudySequence = [outer, outer]
    dataset["ReferencedStudySequence"].is_undefined_length = True
    dataset.add_new(0x00090010, "LO", "PRIVATE")
    dataset.add_new(0x00091001, "OB", bytes(6000))  # beyond what is read of a file at first
    return dataset


def _compress_with_gdcm(source: Path, out: Path) -> bytes:
    import gdcm  # its own library, as pydicom only decodes this one

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(source))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(out))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return out.read_bytes()


def _take_apart(name: str, content: bytes) -> Base:
    file = io.BytesIO(content)
    meta = pydicom.filereader.read_preamble(file, force=False), pydicom.filereader._read_file_meta_info(file)
    syntax = meta[1].TransferSyntaxUID
    head, body = content[: file.tell()], content[file.tell() :]
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        body = zlib.decompress(body, -zlib.MAX_WBITS)
    implicit, order = syntax == uid.ImplicitVRLittleEndian, "little" if syntax.is_little_endian else "big"
    elements = []
    for raw in data_element_generator(io.BytesIO(body), implicit, syntax.is_little_endian):
        value = getattr(raw, "value_tell", None) or raw.file_tell
        is_long = implicit or raw.VR in ("OB", "OW", "SQ", "UN", "UT", "UC", "UR", "OF", "OD", "OL", "OV")
        length, size = (value - 4, 4) if is_long else (value - 2, 2)
        vr = None if implicit else value - (8 if is_long else 4)
        present = len(body) - value if raw.tag == PIXEL_DATA else min(getattr(raw, "length", 0), 4096)
        elements.append(Element(int(raw.tag), value, present, vr, length, size))
    return Base(
        name, head, bytearray(body), head.find(syntax.encode()) > 0 and syntax.is_deflated, order, elements
    )


Mutation = Callable[[Base, bytearray, Random], None]


def change_values(base: Base, body: bytearray, rng: Random) -> None:
    """Writes over bytes of the values in the header."""
    for element in rng.choices(
        [e for e in base.elements if e.size and e.tag != PIXEL_DATA], k=rng.randint(1, 3)
    ):
        for _ in range(rng.randint(1, element.size if element.size < 8 else 8)):
            body[element.value + rng.randrange(element.size)] = rng.choice(
                (rng.randrange(256), *b"0919-.\\ \0")
            )


def change_bytes(base: Base, body: bytearray, rng: Random) -> None:
    """Writes over bytes anywhere in the header, tags included."""
    end = base.elements[-1].value
    for _ in range(rng.randint(1, 8)):
        body[rng.randrange(end)] = rng.randrange(256)


def change_length(base: Base, body: bytearray, rng: Random) -> None:
    """Gives elements another length."""
    for element in rng.choices(base.elements, k=rng.randint(1, 2)):
        odd = rng.choice(
            (*ODD_NUMBERS, rng.getrandbits(8), rng.getrandbits(16), rng.getrandbits(32), element.size + 2)
        )
        number = odd & (1 << 8 * element.length_size) - 1
        body[element.length : element.length + element.length_size] = number.to_bytes(
            element.length_size, base.order
        )


def change_vr(base: Base, body: bytearray, rng: Random) -> None:
    """Gives elements another value representation."""
    for element in rng.choices(base.elements, k=rng.randint(1, 3)):
        if element.vr is not None:
            body[element.vr : element.vr + 2] = rng.choice((*VRS, rng.randbytes(2)))


def change_pixels(base: Base, body: bytearray, rng: Random) -> None:
    """Writes over bytes of the pixel data, mostly near their start, where the codecs' headers are."""
    start, end = base.elements[-1].value, len(body)
    near = min(end, start + rng.choice((40, 200, 1 << 20)))
    for _ in range(rng.choice((1, 2, 4, 16, 256))):
        body[rng.randrange(start, near)] = rng.choice((rng.randrange(256), 0, 0xFF, 0x7F))


def cut(base: Base, body: bytearray, rng: Random) -> None:
    """Loses the end."""
    place = rng.choice((rng.randrange(len(body)), len(body) - rng.randint(1, 64), base.elements[-1].value))
    del body[max(place, 0) :]


def move_bytes(_: Base, body: bytearray, rng: Random) -> None:
    """Loses, repeats or gains a run of bytes."""
    place, size = rng.randrange(len(body)), rng.choice((1, 2, 8, 64, 1000))
    if (way := rng.randrange(3)) == 0:
        del body[place : place + size]
    else:
        body[place:place] = body[place : place + size] if way == 1 else rng.randbytes(size)


MUTATIONS: tuple[Mutation, ...] = (
    *(change_values, change_bytes, change_length, change_vr, change_pixels, change_pixels, cut, move_bytes),
)


def mutate(bases: list[Base], seed: int, number: int) -> tuple[Base, bytes]:
    """The file of a number, which takes turns between the bases."""
    rng = Random(f"{seed}/{number}")
    base = bases[number % len(bases)]
    body = bytearray(base.body)
    for mutation in rng.choices(MUTATIONS, k=rng.choice((1, 1, 2, 3))):
        if len(body) >= len(base.body):  # places are those of the base
            mutation(base, body, rng)
    content = bytearray(base.join(bytes(body)))
    if rng.random() < 0.1:  # the file meta information and, of a deflated file, what is deflated
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(128, len(content) if base.deflated else len(base.head))] = rng.randrange(
                256
            )
    return base, bytes(content)


def read(path: Path) -> str:
    """What comes of a file: read, the code of its refusal, or what is not to happen."""
    outcomes = []
    for function in (read_header, read_hu):
        try:
            function(path)
            outcomes.append("read")
        except ReadError as error:
            outcomes.append(error.code if error.code in set(Refusal) else f"! unknown code {error.code}")
        except BaseException as error:
            outcomes.append(f"! {type(error).__name__}: {error}")
    if outcomes[0] not in ("read", outcomes[1]):
        return f"! its header is {outcomes[0]}, its pixels are {outcomes[1]}"
    return outcomes[1]


def read_all(bases: list[Base], seed: int, numbers: range, results: Connection) -> None:
    """Reads the files of some numbers; the process's whole life."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slice.dcm")
        for number in numbers:
            _, content = mutate(bases, seed, number)
            path.write_bytes(content)
            start = time.monotonic()
            outcome = read(path)
            results.send((outcome, time.monotonic() - start))


def read_in_processes(bases: list[Base], seed: int, numbers: range) -> Iterator[tuple[int, str, float]]:
    """Yields number, outcome and seconds; a reader that dies or hangs is an outcome too."""
    context = multiprocessing.get_context("spawn")
    left = numbers
    while left:
        results, theirs = context.Pipe(duplex=False)
        reader = context.Process(target=read_all, args=(bases, seed, left, theirs))
        reader.start()
        theirs.close()
        for number in left:
            try:
                outcome = results.recv() if results.poll(PATIENCE) else ("! hangs", PATIENCE)
            except EOFError:
                reader.join()
                outcome = (f"! the process ended with {reader.exitcode}", 0.0)
            yield number, *outcome
            left = left[1:]
            if outcome[0].startswith(("! hangs", "! the process")):
                reader.kill()
                break
        reader.join()


def run(args: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        bases = make_bases(Path(folder, "phantom"))
    for base in bases:  # what is not readable whole tells nothing when it is broken
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "slice.dcm")
            path.write_bytes(base.join(bytes(base.body)))
            read_hu(path)
    counts, faults, slowest = Counter[str](), list[str](), 0.0
    numbers = range(args.first, args.first + args.count)
    results = read_in_processes(bases, args.seed, numbers)
    start = time.monotonic()
    for number, outcome, seconds in track(
        results, "Reading", args.count, console=CONSOLE, disable=not sys.stdout.isatty()
    ):
        slowest = max(slowest, seconds)
        counts["! over 10 s" if seconds > SLOW else outcome.partition(":")[0]] += 1
        if outcome.startswith("!") or seconds > SLOW:
            faults.append(f"{number} ({bases[number % len(bases)].name}): {outcome}, {seconds:.1f} s")
    # Of the largest process, readers and decoders: all of them have ended and were waited for. KiB on Linux.
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    print(
        f"{args.count} files from {args.first} on, seed {args.seed}, of {len(bases)} bases: "
        f"{', '.join(base.name for base in bases)}"
    )
    for outcome, number in counts.most_common():
        print(f"  {outcome}: {number}")
    print(
        f"slowest {slowest:.2f} s; largest process {memory / 2**20:.0f} MiB; "
        f"{time.monotonic() - start:.0f} s in all"
    )
    print(*faults[:20], sep="\n")
    return not faults and memory < MOST_MEMORY


def add_command(commands: Any) -> None:
    parser = commands.add_parser("files", help="mutated DICOM files: read or refused, and nothing else")
    parser.add_argument("--count", type=int, default=100_000, help="files (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)
