"""How fast blocks are made for training, and what it costs to open a store.

    python benchmarks/data.py                                   # some minutes, and 3 GB of disk
    python benchmarks/data.py --sizes 1e5 1e6 --blocks 256      # small

Speed is that of what the trainer takes from its data-loader, in one process, from a store in the page cache,
by the second of the CPU; views take turns, a figure is the median over the turns. Beside them the least that
a loader can do: slices of the file of tokens, without documents, order or scores (the way of nanoGPT). A
store is opened in a process of its own, up to its first block of the plain, shuffled view, by the clock;
memory is what the process has more than before.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from synthetic import SCORER, write_store
from torch.utils.data import DataLoader

from objectives.view import Tags, View
from phf.blocks.datamodule import StepBlocks, TrainingBlocks
from phf.blocks.packed import PackedView
from phf.store.store import StoreSplit, TokenStore

BATCH = 64


def packed(split: StoreSplit, view: View, context_length: int) -> PackedView:
    return PackedView(
        split, view, scorer=SCORER, context_length=context_length, seed=0, eos_id=0, tag_ids=[[1], [2]]
    )  # fmt: skip


def training_batches(view: PackedView) -> Iterator[object]:
    """As the trainer's data module makes them, for one process."""
    return iter(
        DataLoader(
            TrainingBlocks(view, 0, BATCH),
            batch_sampler=StepBlocks(0, BATCH, BATCH, 0, 1),
            collate_fn=lambda batch: batch,
        )
    )


def slices(split: StoreSplit, context_length: int) -> Iterator[object]:
    """Blocks from random places of the file of tokens."""
    rng = np.random.default_rng(0)
    while True:
        starts = rng.integers(split.num_tokens - context_length - 1, size=BATCH)
        rows = [split.tokens[i : i + context_length + 1].astype(np.int64) for i in starts]
        yield torch.from_numpy(np.stack(rows))


def speed(tokens: float, blocks: int, context_length: int, repeats: int) -> dict[str, object]:
    """Prints and returns tokens/s of each view, for segments as long as sentences and as lines of code."""
    results: dict[str, object] = {}
    for segment_tokens in (25, 10):
        with tempfile.TemporaryDirectory() as folder:
            write_store(Path(folder, "store"), tokens, segment_tokens=segment_tokens)
            split = TokenStore(Path(folder, "store")).split("train")
            views = {
                "plain": View(),
                "filtered": View(keep_below=float(np.median(split.document_scores(SCORER)))),
                "conditional": View(tags=Tags((float(np.quantile(split.scores(SCORER), 0.05)),), 0.01)),
            }
            loaders = {"slices": slices(split, context_length)} | {
                name: training_batches(packed(split, view, context_length)) for name, view in views.items()
            }
            rates: dict[str, list[float]] = {name: [] for name in loaders}
            for turn in range(repeats + 1):
                for name, batches in loaders.items():
                    start = time.process_time()
                    for _ in islice(batches, blocks // BATCH):
                        pass
                    if turn:  # the first one fills the page cache
                        count = blocks // BATCH * BATCH * context_length
                        rates[name].append(count / (time.process_time() - start))
            for name, values in rates.items():
                rate = statistics.median(values)
                results[f"{name}, segments of {segment_tokens}"] = rate
                print(f"segments of {segment_tokens:>3} tokens  {name:<12}{rate / 1e6:>8.1f} M tokens/s")
    return results


def opening(sizes: list[float], context_length: int, repeats: int) -> list[dict[str, float]]:
    """Prints and returns what it takes to open stores; the largest also with fewer documents and segments."""
    largest = max(sizes)
    shapes = [(size, 1000, 25) for size in sizes] + [(largest, 1000, 100), (largest, 100_000, 25)]
    columns = ("tokens", "documents", "segments", "milliseconds", "MiB")
    print("".join(f"{column:>15}" for column in columns))
    rows = []
    for size, document_tokens, segment_tokens in shapes:
        with tempfile.TemporaryDirectory() as folder:
            counts = write_store(
                Path(folder, "store"), size, document_tokens=document_tokens, segment_tokens=segment_tokens
            )
            command = [
                sys.executable,
                __file__,
                "--open",
                f"{folder}/store",
                "--context",
                str(context_length),
            ]
            measured = [
                json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                for _ in range(repeats)
            ]
        seconds, mib = map(statistics.median, zip(*measured, strict=True))
        rows.append({**asdict(counts), "seconds": seconds, "mib": mib})
        numbers = (counts.tokens, counts.documents, counts.segments)
        print("".join(f"{number:>15,}" for number in numbers) + f"{seconds * 1e3:>15.1f}{mib:>15.1f}")
    return rows


def open_once(path: str, context_length: int) -> tuple[float, float]:
    """Seconds, and MiB of resident memory, mapped files included."""
    before, start = resident_mib(), time.perf_counter()
    view = packed(TokenStore(path).split("train"), View(), context_length)
    view.block(*view.locate(0))
    return time.perf_counter() - start, resident_mib() - before


def resident_mib() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--sizes", nargs="+", type=float, default=[1e6, 1e7, 1e8, 1e9], help="stores, in tokens"
    )
    parser.add_argument("--tokens", type=float, default=1e7, help="of the store that is read (default: 1e7)")
    parser.add_argument("--blocks", type=int, default=2048, help="read in each turn (default: 2048)")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5, help="turns that count, and openings (default: 5)")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    parser.add_argument("--open", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(open_once(arguments.open, arguments.context)))
        return
    print(f"{date.today()}, Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}")
    results = {
        "tokens/s": speed(arguments.tokens, arguments.blocks, arguments.context, arguments.repeats),
        "opening": opening(arguments.sizes, arguments.context, arguments.repeats),
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
