"""What options of the model cost in time and memory: the same run of `phf pretrain` with and without them.

    python benchmarks/options.py --context 1024 --batch 4
    python benchmarks/options.py --model tiny --vocabulary 500 --context 16 --turns 2

Each run is a process of its own. They take turns, a few steps each; the first turn, in which they compile,
does not count. Speed is the median over the turns, a ratio that of the ratios of each turn; memory is the
peak of the process, on a GPU that of the tensors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # who waits for its turn shall not compute

from contenders import add_options, describe, ours, run_config, save
from synthetic import write_store
from turns import rate, ratio, take_turns

from phf.config import load_config

OPTIONS = {
    "none": (),
    "compile": ("model.compile=true",),
    "document_mask": ("model.document_mask=true",),
    "activation_checkpointing": ("model.activation_checkpointing=true",),
    "plain head": ("model.head=plain",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_options(parser)
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    arguments = parser.parse_args()
    print(describe(arguments))
    print(f"{'':<26}{'tokens/s':>14}{'x none':>14}{'peak MiB':>14}{'of none':>14}")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder, "store"), 1e6, vocabulary=arguments.vocabulary)
        config = run_config(arguments, Path(folder), "mle")
        contenders = {}
        for name in dict.fromkeys(["none", *arguments.options]):
            overrides = ["model.compile=off", f"run.folder={folder}/{name}", *OPTIONS[name]]
            contenders[name] = partial(ours, load_config(overrides, config))
        found = take_turns(contenders, steps=arguments.steps, turns=arguments.turns)
    none = found["none"]
    for name, turns in found.items():
        results[name] = {
            "tokens/s": rate(turns, arguments.batch * arguments.context),
            "x none": ratio(turns, none),
            "peak MiB": turns[-1].peak_mib,
            "of none": turns[-1].peak_mib / none[-1].peak_mib,
        }
        speed, faster, peak, larger = results[name].values()
        print(f"{name:<26}{speed:>14,.0f}{faster:>14.3f}{peak:>14,.0f}{larger:>14.2f}")
    save(arguments.output, "options.json", results)


if __name__ == "__main__":
    main()
