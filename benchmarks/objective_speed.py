"""What each objective costs beside MLE: the same model, batch and trainer.

    python benchmarks/objective_speed.py
    python benchmarks/objective_speed.py --model tiny --vocabulary 500 --context 16 --turns 2

Each is a run of `phf pretrain`, from the data to the optimizer, in a process of its own. They take turns,
a few steps each; the first turn, in which they compile, does not count. Speed is the median over the turns,
a ratio that of the ratios of each turn; memory is the peak of the process, on a GPU that of the tensors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # who waits for its turn shall not compute

from contenders import OBJECTIVE_OPTIONS, add_options, describe, ours, run_config, save
from synthetic import write_store
from turns import rate, ratio, take_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_options(parser)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVE_OPTIONS, default=list(OBJECTIVE_OPTIONS))
    arguments = parser.parse_args()
    print(describe(arguments))
    print(f"{'':<14}{'tokens/s':>14}{'x MLE':>14}{'peak MiB':>14}")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder, "store"), 1e6, vocabulary=arguments.vocabulary)
        contenders = {
            name: partial(ours, run_config(arguments, Path(folder), name))
            for name in dict.fromkeys(["mle", *arguments.objectives])
        }
        found = take_turns(contenders, steps=arguments.steps, turns=arguments.turns)
    for name, turns in found.items():
        speed = rate(turns, arguments.batch * arguments.context)
        results[name] = {
            "tokens/s": speed, "x MLE": ratio(turns, found["mle"]), "peak MiB": turns[-1].peak_mib
        }  # fmt: skip
        print(f"{name:<14}{speed:>14,.0f}{results[name]['x MLE']:>14.3f}{turns[-1].peak_mib:>14,.0f}")
    save(arguments.output, "objectives.json", results)


if __name__ == "__main__":
    main()
