"""Our training loop against its floor, a DataLoader loop and PyTorch Lightning; what else it costs.

The demo's network, optimizer and schedule on made-up rows of the flights' shape and number, one
epoch a round at batch 1,024 and 4,096, contenders in turns, each a process of its own; medians of
ratios of CPU and wall seconds a row. The floor is the same step on one constant batch. Lightning
has an environment of its own, made on the first run and kept under ``$XDG_CACHE_HOME``.

Then, in the demo's training: one and two ranks, what canaries, checkpoints and MLflow add, and what
an asynchronous save holds up beside one that is waited for, there and with 50 million parameters.

    python benchmarks/training.py [--quick] [--json FILE] [--check]

``--quick`` takes fewer rows and rounds, and 8 million parameters; ``--check`` ends with 1 where a
target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # before this folder, where serving.py is a benchmark

from benchmarks.serving_work.environments import python_of  # noqa: E402
from benchmarks.targets import Runs, Target, ratio, told  # noqa: E402

PEERS = ("DataLoader", "DataLoader, 2 workers", "Lightning")
SIZES = (1024, 4096)
EPOCHS, STEPS, BATCH = 6, 120, 2048  # of the demo's training
LONG = {
    "rows": 244_450, "rounds": 5, "pairs": 150, "checkpoints": 20, "saves": 9,
    "large": (3500, 5), "large saves": 3, "records": 5,
}  # fmt: skip
QUICK = {
    "rows": 61_440, "rounds": 3, "pairs": 40, "checkpoints": 5, "saves": 7,
    "large": (1600, 4), "large saves": 3, "records": 2,
}  # fmt: skip
BLOCKS = {"canaries": 4, "checkpoints": 20}  # steps, in training_work/steps.py
LOOPS = ("-m", "benchmarks.training_work.loops")
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

# What was tried where a target was missed; printed where it is missed again.
TRIED = {
    "canaries": "the gradient norm is all of it: nn.utils.get_total_norm took 380 us at the demo's "
    "network, of which the optimizer saved 30, since the gradients are in the cache then; "
    "torch._foreach_norm over the optimizer's own list takes 170, one dot product a tensor 285, "
    "the norm of all tensors laid out in one 270. Medians and limits are 10 us a step.",
    "held up by a save": "DefaultStager copies one storage after the other, each a parallel copy: "
    "9 ms of CPU and 13 on the clock at the demo's size, where torch.save takes 10 to 30; now "
    "later copies are one foreach call, .2 ms, and 1.2 ms with all else. At 8 million parameters "
    "and more the copy itself dominates.",
    "that checkpoints take": "torch.distributed.checkpoint writes each tensor by a torch.save of "
    "its own, .3 ms, which is most of the 30 ms of CPU at the demo's size; it is done beside the "
    "training, on cores that the training would use too.",
    "ours / floor": "data, canaries, phases and who looks on are 2 to 6 % together. Brackets as "
    "index cost three times what index_select does. Not taken: AdamW(fused=True), .85 ms instead "
    "of 2.1, since it is the floor's and the peers' as well.",
}
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(os.cpu_count()),
}  # fmt: skip


@dataclass
class Contender:
    """A process that trains when it is told to."""

    process: subprocess.Popen[str]

    def train(self, batch: int) -> dict[str, float]:
        """One epoch; seconds a row. ``wall`` and ``cpu``."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{batch}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended with {self.process.wait()}")
        cost = json.loads(line)
        return {what: cost[what] / cost["rows"] for what in ("wall", "cpu")}


@contextmanager
def started(python: Path, *arguments: str) -> Iterator[Contender]:
    """A contender that waits for its first batch size."""
    process = subprocess.Popen(
        [str(python), *arguments], cwd=ROOT, env=ENVIRONMENT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        yield Contender(process)
        assert process.stdin
        process.stdin.close()


def loops(rows: int, rounds: int) -> dict[str, Any]:
    """Costs a row of every contender, by batch size, round by round; and why one is absent."""
    import torch

    own, count = Path(sys.executable), str(rows)
    commands = {
        "floor": (own, *LOOPS, "floor", count), "ours": (own, *LOOPS, "ours", count),
        "ours, 2 ranks": (own, *LAUNCHER, *LOOPS, "ours", count),
        "DataLoader": (own, *LOOPS, "loader 0", count),
        "DataLoader, 2 workers": (own, *LOOPS, "loader 2", count),
    }  # fmt: skip
    absent = {}
    if torch.cuda.device_count() == 1:
        del commands["ours, 2 ranks"]
        absent["ours, 2 ranks"] = "there is one GPU"
    try:
        peer = python_of("lightning", ROOT / "benchmarks" / "training_peers")
        commands["Lightning"] = (peer, "-m", "benchmarks.training_peers.lightning_loop", count)
    except RuntimeError as exc:
        absent["Lightning"] = str(exc)
    with ExitStack() as stack:
        contenders = {name: stack.enter_context(started(*of)) for name, of in commands.items()}
        names, runs = list(contenders), {}
        for size in SIZES:
            runs[str(size)] = {name: [] for name in names}
            for turn in range(-1, rounds):  # the first round warms
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    cost = contenders[name].train(size)
                    if turn >= 0:
                        runs[str(size)][name].append(cost)
    return {"runs": runs, "absent": absent}


def work(name: str, *arguments: object) -> Any:
    """What a part of the benchmark prints, run as a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.training_work.{name}", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured(how_much: dict[str, Any], folder: Path) -> dict[str, Any]:
    """All figures; a line on stderr says how long each part took."""
    found: dict[str, Any] = {}
    began = time.monotonic()

    def part(name: str, figures: Any) -> None:
        nonlocal began
        found[name] = figures
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        began = time.monotonic()

    part("loops", loops(how_much["rows"], how_much["rounds"]))
    part("canaries", work("steps", "canaries", folder, how_much["pairs"], BATCH))
    part("checkpoints", work("steps", "checkpoints", folder, how_much["checkpoints"], BATCH))
    part("demo", work("saves", folder / "demo", how_much["saves"], 256, 3))
    part("large", work("saves", folder / "large", how_much["large saves"], *how_much["large"]))
    part("mlflow", [work("tracking", folder) for _ in range(1 + how_much["records"])][1:])
    return found


def added(blocks: list[dict[str, float]], what: str) -> tuple[float, float]:
    """Of blocks with and without in turns: a block without, and what a block with adds; medians."""
    pairs = list(zip(blocks[0::2], blocks[1::2], strict=True))
    extra = statistics.median(one[what] - other[what] for one, other in pairs)
    return statistics.median(other[what] for _, other in pairs), extra


def row_targets(runs: dict[str, Runs]) -> list[Target]:
    """Of our loop over the floor, and over each peer, at both sizes."""
    return [
        Target(
            name=f"{what} of ours / {other}, batch {size}",
            value=ratio(runs[size], "ours", other, kind), limit=1.3 if other == "floor" else 1.0,
        )
        for other in ("floor", *PEERS)
        for size in runs
        for what, kind in (("CPU a row", "cpu"), ("time a row", "wall"))
    ]  # fmt: skip


def save_targets(found: dict[str, Any]) -> list[Target]:
    """Of a save that is not waited for over two that are, at both sizes."""
    return [
        Target(
            name=f"held up by a save / {other}, {found[size]['parameters'] / 1e6:.1f}M parameters",
            value=ratio(found[size]["runs"], "ours, held up", other, "wall"), limit=0.3,
        )
        for size in ("demo", "large")
        for other in ("torch.save", "DCP save")
    ]  # fmt: skip


def cost_targets(found: dict[str, Any]) -> list[Target]:
    """Of canaries, checkpoints and MLflow over the demo's training."""
    step, canary = added(found["canaries"], "cpu")
    return [
        Target(name="CPU of canaries / of a step", value=canary / step, limit=0.01),
        Target(name="time that checkpoints take / run", value=lost(found, "wall"), limit=0.02),
        Target(name="CPU that checkpoints take / run", value=lost(found, "cpu"), limit=0.02),
        Target(name="CPU of MLflow's record / run", value=record(found), limit=0.01),
    ]  # fmt: skip


def lost(found: dict[str, Any], what: str) -> float:
    """Share of the demo's training that its checkpoints take: one an epoch, and the last one is
    waited for."""
    block, extra = added(found["checkpoints"], what)
    epoch = block / BLOCKS["checkpoints"] * STEPS
    waited = statistics.median(run["wall"] for run in found["demo"]["runs"]["ours, whole"])
    return ((EPOCHS - 1) * extra + waited) / (EPOCHS * epoch)


def record(found: dict[str, Any]) -> float:
    """CPU of MLflow's record over that of the demo's training; MLflow's start is not in it, which
    its process takes for the registry's sake."""
    block, _ = added(found["canaries"], "cpu")
    cost = statistics.median(run["record"]["cpu"] for run in found["mlflow"])
    return cost / (block / BLOCKS["canaries"] * STEPS * EPOCHS)


def show(found: dict[str, Any]) -> None:
    """The medians of every contender and of every save."""
    for size, runs in found["loops"]["runs"].items():
        head = f"{'batch ' + size:28}{'CPU us a row':>14}{'/ floor':>9}"
        print(f"\n{head}{'us a row':>12}{'/ floor':>9}")
        for name, of in runs.items():
            line = f"{name:28}"
            for what, width in (("cpu", 14), ("wall", 12)):
                cost = statistics.median(run[what] for run in of) * 1e6
                line += f"{cost:>{width}.2f}{ratio(runs, name, 'floor', what):>9.2f}"
            print(line)
    for name, why in found["loops"]["absent"].items():
        print(f"NOT MEASURED: {name}: {why}")
    print(
        f"\n{os.cpu_count()} CPUs, and ours has a thread on each: ranks on this machine add none."
    )
    print(
        "Two ranks have one thread each, and gloo in the place of threads that wait for each other."
    )
    print("CPUs may be threads of one core, which a virtual machine does not say: then neither way")
    print("has more arithmetic than one CPU, and time a row says little of two machines.")
    for size in ("demo", "large"):
        saves = found[size]
        head = f"{saves['parameters'] / 1e6:.1f}M parameters, {saves['tensors']} tensors"
        print(f"\n{head:36}{'ms':>9}")
        for name, of in saves["runs"].items():
            print(f"{name:36}{statistics.median(run['wall'] for run in of) * 1e3:>9.1f}")
    step, canary = (
        seconds / BLOCKS["canaries"] * 1e3 for seconds in added(found["canaries"], "cpu")
    )
    print(f"\na step of {BATCH} rows: {step:.1f} ms of CPU, and {canary:.3f} of canaries")
    wall, cpu = (added(found["checkpoints"], what)[1] * 1e3 for what in ("wall", "cpu"))
    print(f"a checkpoint, written beside the training: {wall:.0f} ms, {cpu:.0f} of CPU")


def report(found: dict[str, Any], path: Path | None) -> bool:
    """Print every ratio with its target, and write them to ``path``; whether all are met."""
    show(found)
    targets = row_targets(found["loops"]["runs"]) + save_targets(found) + cost_targets(found)
    return told(targets, TRIED, path, found)


def main(arguments: list[str]) -> int:
    """Measure, print, write; 1 where a target is missed and ``--check`` is given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds")
    parser.add_argument("--json", type=Path, help="write every ratio with its target")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="airworthy-bench-") as scratch:
        found = measured(QUICK if options.quick else LONG, Path(scratch))
    met = report(found, options.json)
    return int(options.check and not met)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
