"""`phf pretrain` against the Trainer of `transformers` and a plain loop around a compiled model.

    python benchmarks/pretrain.py                                    # 4 layers x 256
    python benchmarks/pretrain.py --model gpt2-small --steps 1 --batch 2 --context 512
    python benchmarks/pretrain.py --model tiny --vocabulary 500 --batch 2 --context 16 --turns 2 --no-compile

Same GPT-2, initial weights, blocks in the same order, AdamW (fused), schedule, clipping and precision. `ours`
and the plain loop are compiled; the Trainer is not, which is its default. Contenders take turns, a few steps
each, in processes of their own. The first turn, in which a contender compiles, does not count for its speed;
its losses do. A figure is the median over the turns, a ratio that of the ratios of each turn; memory is the
peak of the process, on a GPU that of the tensors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # who waits for its turn shall not compute

from contenders import CONTENDERS, add_options, describe, run_config, save
from synthetic import write_store
from turns import Turn, losses, rate, ratio, take_turns

COLUMNS = ("tokens/s", "x Trainer", "x plain loop", "peak MiB", "of Trainer's", "loss differs")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_options(parser)
    parser.add_argument("--objectives", nargs="+", choices=("mle", "awr"), default=["mle", "awr"])
    arguments = parser.parse_args()
    print(describe(arguments))
    print(f"{'':<16}" + "".join(f"{column:>14}" for column in COLUMNS))
    results, curves = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder, "store"), 1e6, vocabulary=arguments.vocabulary)
        for objective in arguments.objectives:
            config = run_config(arguments, Path(folder), objective)
            contenders = {name: partial(work, config) for name, work in CONTENDERS.items()}
            found = take_turns(contenders, steps=arguments.steps, turns=arguments.turns)
            for name, turns in found.items():
                row = compare(turns, found, arguments.batch * arguments.context)
                print(
                    f"{objective:<4}{name:<12}{row[0]:>14,.0f}{row[1]:>14.2f}{row[2]:>14.2f}"
                    f"{row[3]:>14,.0f}{row[4]:>14.2f}{row[5]:>14.1e}",
                    flush=True,
                )
                results[f"{objective}, {name}"] = dict(zip(COLUMNS, row, strict=True))
                curves[f"{objective}, {name}"] = losses(turns)
    save(arguments.output, "pretrain.json", {"figures": results, "losses": curves})
    if arguments.output:
        plot(curves, arguments.output / "losses.png")


def compare(turns: list[Turn], all_turns: dict[str, list[Turn]], tokens_per_step: int) -> list[float]:
    """A value for each of `COLUMNS`; losses are held against those of the Trainer."""
    trainer = all_turns["Trainer"]
    return [
        rate(turns, tokens_per_step),
        ratio(turns, trainer),
        ratio(turns, all_turns["plain loop"]),
        turns[-1].peak_mib,
        turns[-1].peak_mib / trainer[-1].peak_mib,
        max(abs(a - b) for a, b in zip(losses(turns), losses(trainer), strict=True)),
    ]


def plot(curves: dict[str, list[float]], path: Path) -> None:
    """Draws the loss of each contender, step by step."""
    from matplotlib import pyplot as plt

    for number, (name, values) in enumerate(curves.items()):
        plt.plot(range(1, len(values) + 1), values, label=name, linestyle=("-", "--", ":")[number % 3])
    plt.xlabel("step")
    plt.ylabel("loss")
    plt.legend()
    plt.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
