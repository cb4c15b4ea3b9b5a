"""Peers that mean no good, each kind in a process of its own and from addresses of its own."""

import multiprocessing
import random
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

_SECONDS = 2.0  # an attacker waits so long for an answer
_SENDERS = 8  # of mutated associations
_PAUSE = 0.05  # between two attacks of those that have no number
_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(190))  # how a TLS connection begins


@dataclass(frozen=True)
class Target:
    """Whom to attack.

    Attributes:
        port: Its port.
        pdus: What a good sender sends to store an object, one PDU each.
        uids: The UIDs in it.
        stop: Is set when it is over.
    """

    port: int
    pdus: tuple[bytes, ...]
    uids: tuple[bytes, ...]
    stop: "multiprocessing.synchronize.Event"


def start(target: Target, mutated: int) -> dict[str, multiprocessing.process.BaseProcess]:
    """Starts all attackers; returns them by name. ``mutated`` ends by itself."""
    context = multiprocessing.get_context("fork")
    half = target.pdus[0][: len(target.pdus[0]) // 2]
    attackers: dict[str, tuple[Callable[..., None], Sequence[object]]] = {
        "silent": (hold, (500, b"", 0)),
        "half": (hold, (100, half, 0)),
        "slow": (hold, (50, target.pdus[0], 1)),
        "titles": (repeat, (send_wrong_title,)),
        "tls": (repeat, (send_junk,)),
        "paths": (repeat, (send_paths,)),
        "mutated": (mutate, (mutated,)),
    }
    found = {
        name: context.Process(target=work, args=(target, f"127.0.{place}", *arguments), daemon=True)
        for place, (name, (work, arguments)) in enumerate(attackers.items(), 1)
    }
    for process in found.values():
        process.start()
    return found


def connect(target: Target, address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", target.port), _SECONDS, (address, 0))


def hold(target: Target, network: str, most: int, data: bytes, per_second: int) -> None:
    """Holds connections open, from 25 addresses. All of the data come at once, or some bytes a second."""
    addresses = (f"{network}.{number % 25 + 1}" for number in count())
    sockets: dict[socket.socket, int] = {}
    while not target.stop.is_set():
        while len(sockets) < most:
            with suppress(OSError):
                sock = connect(target, next(addresses))
                sock.setblocking(False)
                sockets[sock] = 0
                if not per_second:
                    sock.sendall(data)
        for sock, sent in list(sockets.items()):
            try:
                if per_second:
                    sockets[sock] += sock.send(data[sent : sent + per_second])
                is_over = not sock.recv(1024)
            except BlockingIOError:
                is_over = False
            except OSError:
                is_over = True
            if is_over:
                sock.close()
                del sockets[sock]
        time.sleep(1)


def repeat(target: Target, network: str, attack: Callable[[Target, str, random.Random], None]) -> None:
    rng = random.Random(network)
    while not target.stop.is_set():
        with suppress(OSError):
            attack(target, f"{network}.1", rng)
        time.sleep(_PAUSE)


def send_wrong_title(target: Target, address: str, _: random.Random) -> None:
    send(target, address, target.pdus[0].replace(b"ICH             ", b"OTHER           ", 1))


def send_junk(target: Target, address: str, rng: random.Random) -> None:
    send(target, address, rng.choice((_HELLO, rng.randbytes(500))))


def send_paths(target: Target, address: str, rng: random.Random) -> None:
    """Stores an object whose UIDs are paths out of the inbox, or some of them."""
    data = b"".join(target.pdus)
    for uid in target.uids:
        if rng.random() < 0.7:
            data = data.replace(uid, (b"../" * len(uid))[: len(uid) - 1] + b"x")
    send(target, address, data)


def mutate(target: Target, network: str, most: int) -> None:
    """Sends what a good sender does, with some bytes changed and sometimes cut off."""
    rng, data = random.Random(7), b"".join(target.pdus)

    def send_one(turn: int, changed: bytes) -> None:
        with suppress(OSError):
            send(target, f"{network}.{turn % 25 + 1}", changed)

    with ThreadPoolExecutor(_SENDERS) as pool:
        for turn in range(most):
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 2, 8))):
                changed[rng.randrange(rng.choice((300, len(changed))))] = rng.randrange(256)
            if turn % 5 == 0:
                del changed[rng.randrange(len(changed)) :]
            pool.submit(send_one, turn, bytes(changed))


def send(target: Target, address: str, data: bytes) -> None:
    """Sends, and waits until the receiver has answered it all."""
    with connect(target, address) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass
