"""Decodes compressed pixels, and reads odd files with pydicom, in separate processes.

A codec in C may end its process, hang or take all memory on a damaged frame, and pydicom may do the last two.
Each thread therefore has its own process, which starts on first use, lives as long as this one, and is
replaced if a file ends it. It is a plain program with two pipes. ``multiprocessing`` would import the main
script again, and torch with it.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ich.dicom.by_pydicom import Walked, from_json, to_json, walk
from ich.dicom.codecs import decode
from ich.dicom.pixel_format import PixelFormat
from ich.dicom.refusal import RefusedError
from ich.schema import UserError
from ich.schema.codes import Refusal

TIME_LIMIT = 8.0  # seconds to decode a slice, which takes 0.01 to 0.1
MEMORY_LIMIT = 1 << 29  # bytes that decoding may add: sixteen times the pixels of the largest slice
_START_LIMIT = 60.0  # seconds until a process is ready, mostly one

_COMMAND = [sys.executable, "-P", "-W", "ignore", "-c", "from ich.dicom.decoding import serve; serve()"]
_REQUEST = struct.Struct("<II")  # bytes of a JSON description, of the value of Pixel Data
_REPLY = struct.Struct("<BI")  # one of the next three, bytes that follow
_DONE, _FAILED, _NO_MEMORY = range(3)
_READY = b"\1"
_MOST_TEXT = 1000  # bytes of what a codec says of a failure
_MOST_WALKED = 1 << 20  # bytes of the values that pydicom finds; few of them may be long
_PIPE_SIZE = 1 << 20  # bytes; with the usual 64 KiB the two sides wait for each other more often


def decode_apart(data: bytes, syntax: str, vr: str, pixel_format: PixelFormat) -> np.ndarray:
    """Runs ``codecs.decode`` in another process; threads do not wait for each other.

    Raises:
        RefusedError: If the codec fails, ends its process twice, or exceeds ``TIME_LIMIT`` or
            ``MEMORY_LIMIT``.
        UserError: If no process can be started.
    """
    how = {"syntax": syntax, "vr": vr, "pixel_format": asdict(pixel_format)}
    reply = _ask(how, data, pixel_format.size)
    if len(reply) != pixel_format.size:
        raise RefusedError(Refusal.CORRUPT, "decodes to another size than its header says")
    stored = np.frombuffer(reply, pixel_format.dtype)
    return stored.reshape(pixel_format.rows, pixel_format.columns)


def walk_apart(data: bytes, tags: Collection[int]) -> Walked:
    """Runs ``by_pydicom.walk`` in another process, in the same way.

    Raises:
        RefusedError: If pydicom fails, ends its process twice, or exceeds a limit.
        UserError: If no process can be started.
    """
    return from_json(_ask({"tags": list(tags)}, data, _MOST_WALKED))


def _ask(how: dict[str, Any], data: bytes, most: int) -> bytearray:
    # A process may end for another reason than the file, such as a signal, so a fresh one tries again.
    for find in (_take, _Worker):
        worker = find()
        try:
            return worker.ask(how, data, most)
        except (EOFError, BrokenPipeError):
            continue
        finally:
            _put(worker)
    raise RefusedError(Refusal.CRASHED, "it ends the process that reads it")


class _Worker:
    """A process that decodes frames one by one.

    Attributes:
        is_idle: Whether it waits for a frame; otherwise it cannot be used any more.
    """

    def __init__(self) -> None:
        paths = os.pathsep.join(path or "." for path in sys.path)
        # One thread is enough to import NumPy, and each takes address space.
        environment = os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pipesize=_PIPE_SIZE,
                bufsize=0,
                env=environment,
                start_new_session=True,  # an interrupt is for this process to handle
            )
        except OSError as error:
            raise _cannot_start(error.strerror or str(error)) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        self.is_idle = False
        try:
            self._receive(1, time.monotonic() + _START_LIMIT)
        except (EOFError, RefusedError) as error:
            self.close()
            raise _cannot_start(f"it ended with {self._process.returncode}") from error
        except BaseException:  # also of Ctrl-C: no process is left behind
            self.close()
            raise
        self.is_idle = True

    def ask(self, how: dict[str, Any], data: bytes, most: int) -> bytearray:
        """Sends a request, and returns a reply of at most ``most`` bytes.

        Raises:
            RefusedError: If the request fails.
            EOFError: If the process ends, as does ``BrokenPipeError``.
        """
        self.is_idle = False
        limit = time.monotonic() + TIME_LIMIT
        request = json.dumps(how).encode()
        self._send(_REQUEST.pack(len(request), len(data)) + request, limit)
        self._send(data, limit)
        status, size = _REPLY.unpack(self._receive(_REPLY.size, limit))
        if size > max(most, _MOST_TEXT):  # it is not to be trusted after its codec went astray
            raise EOFError
        reply = self._receive(size, limit)
        self.is_idle = True
        if status == _DONE:
            return reply
        code = Refusal.TOO_LARGE if status == _NO_MEMORY else Refusal.CORRUPT
        raise RefusedError(code, reply.decode("utf-8", "replace"))

    def close(self) -> None:
        """Ends the process and waits for its end."""
        self._process.kill()
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Releases a process of the parent after a fork."""
        self._process.returncode = self._process.returncode or 0
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self, data: bytes, limit: float) -> None:
        left = memoryview(data)
        while left:
            self._wait(self._requests, select.POLLOUT, limit)
            left = left[os.write(self._requests, left) :]

    def _receive(self, size: int, limit: float) -> bytearray:
        received = bytearray(size)
        left = memoryview(received)
        while left:
            self._wait(self._replies, select.POLLIN, limit)
            count = os.readv(self._replies, [left])
            if count == 0:
                raise EOFError
            left = left[count:]
        return received

    def _wait(self, pipe: int, event: int, limit: float) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(max(0, 1000 * (limit - time.monotonic()))):
            raise RefusedError(Refusal.TIMEOUT, f"takes more than {TIME_LIMIT:g} s to decode")


def _cannot_start(why: str) -> UserError:
    return UserError(
        f"the process that decodes compressed pixels cannot be started: {why}; "
        "make memory free, or use fewer threads (data.num_workers)"
    )


_idle: list[_Worker] = []


def _take() -> _Worker:
    with suppress(IndexError):  # in one step, as other threads take them too
        return _idle.pop()
    return _Worker()


def _put(worker: _Worker) -> None:
    if worker.is_idle:
        _idle.append(worker)
    else:
        worker.close()


@atexit.register
def _close_all() -> None:
    while _idle:
        _idle.pop().close()


def _forget_all() -> None:
    while _idle:
        _idle.pop().forget()


os.register_at_fork(after_in_child=_forget_all)


def serve() -> None:
    """Decodes requests from the standard input until it ends. The process does nothing else."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # for the process that it serves
        signal.signal(number, signal.SIG_IGN)
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that no output of a codec becomes a reply
    _limit()
    replies.write(_READY)
    replies.flush()
    while start := requests.read(_REQUEST.size):
        how, data = map(requests.read, _REQUEST.unpack(start))
        status, reply = _answer(json.loads(how), data)
        replies.write(_REPLY.pack(status, len(reply)))
        replies.write(reply)
        replies.flush()


def _limit() -> None:
    """Limits the memory of this process, if the system can, and disables core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):  # this file and this limit exist only on Linux
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY_LIMIT
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(how: dict[str, Any], data: bytes) -> tuple[int, bytes]:
    try:
        if "tags" in how:
            return _DONE, to_json(walk(data, how["tags"]))
        stored = decode(data, how["syntax"], how["vr"], PixelFormat(**how["pixel_format"]))
        return _DONE, stored.tobytes()
    except MemoryError:
        return _NO_MEMORY, f"takes more than {MEMORY_LIMIT} bytes to decode".encode()
    except BaseException as error:  # a codec in Rust panics, with a BaseException
        # What pydicom says of a file may quote it, patients included; what a codec says of pixels does not.
        detail = "" if "tags" in how else " ".join(str(error).split())
        return _FAILED, (detail or type(error).__name__).encode()[:_MOST_TEXT]
