"""Contenders that take turns: each trains in a process of its own, a few steps at a time.

So they meet the same noise of a shared machine, step by step, and each has a peak of memory of its own. The
one whose turn it is has the machine to itself: the others wait for theirs, without computing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median

import torch
from head import peak_mib
from torch import Tensor


@dataclass(frozen=True)
class Turn:
    """A few steps of one contender.

    Attributes:
        seconds: By the clock.
        losses: One a step.
        peak_mib: The most memory the process has had so far: of the GPU if it trains on one.
    """

    seconds: float
    losses: list[float]
    peak_mib: float


class Pace:
    """Called with the loss after each step of a contender; waits there at the end of a turn."""

    def __init__(self, connection: Connection, steps: int):
        self.connection = connection
        self.steps = steps
        self.losses: list[Tensor] = []
        self.start = time.perf_counter()

    def __call__(self, loss: Tensor) -> None:
        self.losses.append(loss.detach())
        if len(self.losses) < self.steps:
            return
        losses = torch.stack(self.losses).tolist()  # waits until a GPU has done all that it was asked for
        seconds = time.perf_counter() - self.start
        self.connection.send(Turn(seconds, losses, peak_mib()))
        try:
            more = self.connection.recv()
        except EOFError:  # who gives the turns has been stopped
            more = False
        if not more:
            raise _OverError
        self.losses.clear()
        self.start = time.perf_counter()


Contender = Callable[[Pace], None]
"""Trains, and calls the pace after each step. It is stopped at the end of a turn, and so never returns."""


class ContenderError(Exception):
    """What a contender failed of, in a line."""


class _OverError(BaseException):
    """There are no more turns."""


def take_turns(contenders: dict[str, Contender], *, steps: int, turns: int) -> dict[str, list[Turn]]:
    """Runs contenders, one at a time.

    Args:
        contenders: By name; functions of a module, since they are sent to other processes.
        steps: Of a turn.
        turns: That count.

    Returns:
        The turns of each. The first one does not count: in it a contender is built and compiled.

    Raises:
        ContenderError: One of them failed.
    """
    context = get_context("spawn")
    processes = []
    connections: dict[str, Connection] = {}
    results: dict[str, list[Turn]] = {name: [] for name in contenders}
    try:
        for turn in range(turns + 1):
            for name, contender in contenders.items():
                if turn:
                    connections[name].send(True)
                else:
                    connections[name], theirs = context.Pipe()
                    arguments = (contender, theirs, steps)
                    processes.append(context.Process(target=_contend, args=arguments, daemon=True))
                    processes[-1].start()
                    theirs.close()
                results[name].append(_result(name, connections[name]))
    finally:
        for connection, process in zip(connections.values(), processes, strict=False):
            with suppress(BrokenPipeError):
                connection.send(False)
            process.join(20)
            process.kill()
            process.join()
    return results


def ratio(of: list[Turn], to: list[Turn]) -> float:
    """How many times as fast one contender is as another: the median over the turns that count."""
    return median(b.seconds / a.seconds for a, b in zip(of[1:], to[1:], strict=True))


def rate(turns: list[Turn], tokens_per_step: int) -> float:
    """Tokens per second, the median over the turns that count."""
    return median(len(turn.losses) * tokens_per_step / turn.seconds for turn in turns[1:])


def losses(turns: list[Turn]) -> list[float]:
    """Of every step, those of the first turn included."""
    return [loss for turn in turns for loss in turn.losses]


def _contend(contender: Contender, connection: Connection, steps: int) -> None:
    try:
        contender(Pace(connection, steps))
    except _OverError:
        pass
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}".partition("\n")[0])
    else:
        connection.send("ended before its last turn")


def _result(name: str, connection: Connection) -> Turn:
    try:
        result = connection.recv()
    except EOFError:
        raise ContenderError(f"{name}: its process ended without a word, or for want of memory") from None
    if not isinstance(result, Turn):
        raise ContenderError(f"{name}: {result}")
    return result
