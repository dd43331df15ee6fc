"""GPT-2 small on one GPU: tokens/s, MFU and memory, against peers, and where the rest of the time goes.

    bash benchmarks/gpu.sh                   # this, and the output head, within ten minutes
    python benchmarks/gpu.py --accelerator cpu --model tiny --vocabulary 500 --context 16 --no-compile

Contenders run one after the other, each with all the memory, in batches that grow until one does not fit.
The other objectives, and AWR of the peers, take the batch in which MLE is fastest; so does the profile. MFU
counts `6 N + 12 L D T` FLOPs a token, as PaLM and nanoGPT do, against what the device can do in 16 bits. What
is left when the time is up is not measured, and said so.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from contenders import CONTENDERS, OBJECTIVE_OPTIONS, add_options, describe, ours, run_config, save
from synthetic import write_store
from turns import ContenderError, rate, take_turns

from phf.config import Config, load_config
from phf.model.build import build_model
from phf.store.store import TokenStore
from phf.training.flops import flops_per_token, peak_flops


class Sweep:
    """Measures one contender after the other, and prints a line for each.

    Args:
        arguments: Those of the command line.
        folder: Has the store, and gets the runs.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path):
        self.arguments = arguments
        self.folder = folder
        self.deadline = time.monotonic() + 60 * arguments.minutes
        self.results: list[dict[str, object]] = []
        config = self.config("ours", "mle", 1)
        tokenizer = TokenStore(config.store.path).tokenizer()
        # Of a device whose peak is not known, as a CPU's, the MFU is NaN.
        peak = peak_flops(torch.device("cuda" if arguments.accelerator == "gpu" else "cpu"))
        flops = flops_per_token(build_model(config.model, tokenizer, 0), arguments.context)
        self.mfu_per_rate = flops / peak if peak else float("nan")

    def config(self, name: str, objective: str, batch: int) -> Config:
        arguments = argparse.Namespace(**{**vars(self.arguments), "batch": batch})
        config = run_config(arguments, self.folder, objective)
        return load_config([f"run.folder={self.folder / f'{name}-{objective}-{batch}'}"], config)

    def measure(self, name: str, objective: str, batch: int) -> float:
        """Tokens per second; 0 if it does not fit, or the time is up."""
        label = f"{name:<12}{objective:<14}{batch:>6}"
        if time.monotonic() > self.deadline:
            print(f"{label}  not measured: the time is up", flush=True)
            return 0.0
        work = {name: partial(CONTENDERS[name], self.config(name, objective, batch))}
        try:
            turns = take_turns(work, steps=self.arguments.steps, turns=self.arguments.turns)[name]
        except ContenderError as error:
            print(f"{label}  {error}", flush=True)
            return 0.0
        speed = rate(turns, batch * self.arguments.context)
        mfu, gib = speed * self.mfu_per_rate, turns[-1].peak_mib / 1024
        print(f"{label}{speed:>12,.0f}{mfu:>8.1%}{gib:>8.1f}", flush=True)
        row = {"contender": name, "objective": objective, "batch": batch}
        self.results.append({**row, "tokens/s": speed, "MFU": mfu, "GiB": gib})
        return speed

    def growing(self, name: str) -> int:
        """Measures MLE in batches that grow, and returns the one in which it is fastest."""
        speeds = {}
        for batch in self.arguments.batches:
            speeds[batch] = self.measure(name, "mle", batch)
            if not speeds[batch]:
                break
        return max(speeds, key=speeds.__getitem__)

    def profile(self, batch: int) -> str:
        """What torch's profiler says of five steps of MLE, the operations that take longest first."""
        config = load_config(["train.profile_steps=5"], self.config("profile", "mle", batch))
        # The recording begins after the first steps, and the run is at its end after two turns.
        take_turns({"profile": partial(ours, config)}, steps=self.arguments.steps, turns=self.arguments.turns)
        return Path(config.run.folder, "profile", "table.txt").read_text(encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_options(parser)
    parser.set_defaults(
        model="gpt2-small", context=1024, precision="bf16-mixed", accelerator="gpu", steps=10, turns=3
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 16, 32, 64, 128])
    others = [name for name in OBJECTIVE_OPTIONS if name != "mle"]
    parser.add_argument(
        "--objectives", nargs="*", choices=others, default=others, help="beside MLE (default: all)"
    )
    parser.add_argument("--minutes", type=float, default=7, help="start no measurement later (default: 7)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_store(folder / "store", 3e6, vocabulary=arguments.vocabulary)
        sweep = Sweep(arguments, folder)
        print(describe(arguments))
        print(f"{'':<26}{'batch':>6}{'tokens/s':>12}{'MFU':>8}{'GiB':>8}")
        best = {contender: sweep.growing(contender) for contender in CONTENDERS}
        for objective in arguments.objectives:
            sweep.measure("ours", objective, best["ours"])
            for peer in list(CONTENDERS)[1:] if objective == "awr" else ():
                sweep.measure(peer, objective, best[peer])
        save(arguments.output, "gpu.json", sweep.results)
        table = sweep.profile(best["ours"])
    print(f"\nours, mle, batch of {best['ours']}: where the time goes\n{table}")
    if arguments.output:
        (arguments.output / "profile.txt").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
