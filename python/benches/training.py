"""What a save every ten steps costs a training: one process, the contenders in turns, medians of rounds.

A GPT of 14 million parameters in fp32 with AdamW (172 MB) is trained on CPUs. In each round every contender has a turn
of ten steps that begins with its save; what is left of the save after these is waited for, as the next save would.
A turn's time beside that of the turn without a save, in the same round, is the whole slow-down. The processor time of
the training's own thread says more where the machine has other work: waiting for a core does not count there, what the
save takes from it, and from its caches and memory, does.

Three set-ups: training on all cores but one, so that a core is left to the saves; on all cores; and on all but one with
workers of a data loader on every core. Where other work goes on too, look at the ratios.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed.checkpoint as dcp
import treering
from save_load import SIZES, gpt, tensors_of

STEPS = 10
CONTEXT = 128
VOCABULARY = 8192


@dataclass
class Turns:
    """What the turns of one contender took, in seconds."""

    whole: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    blocked: list[float] = field(default_factory=list)
    durable: list[float] = field(default_factory=list)


#: Begins a save, and returns what waits for its end.
Save = Callable[[int], Callable[[], object]]


class Training:
    """The model, and one step of its training."""

    def __init__(self, batch: int) -> None:
        torch.manual_seed(0)
        self.batch = batch
        self.model = gpt(**SIZES["small"])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.mask = torch.nn.Transformer.generate_square_subsequent_mask(CONTEXT)

    def step(self, tokens: torch.Tensor) -> None:
        hidden = self.model["tok"](tokens) + self.model["pos"](torch.arange(CONTEXT))
        for block in self.model["blocks"]:
            hidden = block(hidden, src_mask=self.mask, is_causal=True)
        logits = hidden[:, :-1] @ self.model["tok"].weight.T
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Tokens(torch.utils.data.IterableDataset):
    """Batches that take so many seconds of a core to make."""

    def __init__(self, batch: int, seconds: float) -> None:
        self.batch = batch
        self.seconds = seconds

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            end = time.process_time() + self.seconds
            while time.process_time() < end:
                hashlib.sha256(b"treering" * 1000).digest()
            yield torch.randint(VOCABULARY, (self.batch, CONTEXT))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--batch", type=int, default=4, help=f"sequences of {CONTEXT} tokens in a step")
    arguments.add_argument("--folder", type=pathlib.Path, default=None)
    arguments.add_argument("--only", choices=("one-left", "all", "loader"), default=None)
    given = arguments.parse_args()
    warnings.filterwarnings("ignore", module="torch.*")
    cores = len(os.sched_getaffinity(0))
    print(
        f"torch {torch.__version__}, {cores} cores, a step has {given.batch} x {CONTEXT} tokens, {given.rounds} rounds"
    )
    setups = {"one-left": (max(1, cores - 1), 0), "all": (cores, 0), "loader": (max(1, cores - 1), cores)}
    for name, (threads, workers) in setups.items():
        if given.only in (None, name):
            torch.set_num_threads(threads)
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                turns = measure(pathlib.Path(folder), given.batch, given.rounds, workers)
            loader = f", {workers} workers of a data loader" if workers else ""
            print(f"\ntraining on {threads} of {cores} cores{loader}; load {os.getloadavg()[0]:.1f}")
            report(turns)


def measure(folder: pathlib.Path, batch: int, rounds: int, workers: int) -> dict[str, Turns]:
    training = Training(batch)
    tokens = batches(training, workers)
    store = treering.Store(folder / "store")
    with (
        store.run("plain", memory_limit=1 << 30) as run,
        store.run("live", memory_limit=1 << 30, live_base=True) as live,
    ):
        contenders: dict[str, Save] = {
            "no save": lambda step: lambda: None,
            "a copy of all tensors": lambda step: copying(training),
            "treering": lambda step: saving(run, training, step),
            "treering, live_base": lambda step: saving(live, training, step),
            "dcp.async_save": lambda step: dcp_saving(training, folder / "dcp"),
        }
        turns = {name: Turns() for name in contenders}
        for number in range(rounds + 1):
            for name, save in contenders.items():
                turn(training, tokens, save, number * STEPS, turns[name])
            if number == 0:
                turns = {name: Turns() for name in contenders}  # the first round warms up
    return turns


def batches(training: Training, workers: int) -> Iterator[torch.Tensor]:
    if not workers:
        return iter(Tokens(training.batch, 0.0))
    begun = time.perf_counter()
    for _ in range(3):
        training.step(torch.randint(VOCABULARY, (training.batch, CONTEXT)))
    seconds = (time.perf_counter() - begun) / 3
    # All workers together make a batch in the time of a step, and each has a core's work to do for that.
    loader = torch.utils.data.DataLoader(Tokens(training.batch, seconds * workers), None, num_workers=workers)
    return iter(loader)


def turn(training: Training, tokens: Iterator[torch.Tensor], save: Save, step: int, into: Turns) -> None:
    begun, own = time.perf_counter(), time.thread_time()
    wait = save(step)
    into.blocked.append(time.perf_counter() - begun)
    for _ in range(STEPS):
        training.step(next(tokens))
    stepped = time.perf_counter()
    durable = wait()
    into.blocked[-1] += time.perf_counter() - stepped
    into.whole.append(time.perf_counter() - begun)
    into.own.append(time.thread_time() - own)
    if isinstance(durable, float):
        into.durable.append(durable)


def copying(training: Training) -> Callable[[], object]:
    copy = {name: tensor.clone() for name, tensor in tensors_of(training.model, training.optimizer).items()}
    return copy.clear


def saving(run: treering.Run, training: Training, step: int) -> Callable[[], object]:
    handle = run.save(step, {"model": training.model, "optimizer": training.optimizer})
    return lambda: handle.wait().durable_seconds


def dcp_saving(training: Training, folder: pathlib.Path) -> Callable[[], object]:
    shutil.rmtree(folder, ignore_errors=True)
    tensors = tensors_of(training.model, training.optimizer)
    return dcp.async_save(tensors, checkpoint_id=folder, no_dist=True).result


def report(turns: dict[str, Turns]) -> None:
    nothing = turns["no save"]
    print(
        "| | ten steps | blocked | share of the time | slow-down (least, most) | its processor time | durable after |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, taken in turns.items():
        share = statistics.median(b / whole for b, whole in zip(taken.blocked, taken.whole, strict=True))
        durable = f"{statistics.median(taken.durable):.2f} s" if taken.durable else ""
        print(
            f"| {name} | {statistics.median(taken.whole):.2f} s | {statistics.median(taken.blocked) * 1e3:.0f} ms "
            f"| {share:.1%} | {slower(taken.whole, nothing.whole)} | {slower(taken.own, nothing.own)} | {durable} |",
            flush=True,
        )


def slower(taken: list[float], nothing: list[float]) -> str:
    more = [one / base - 1 for one, base in zip(taken, nothing, strict=True)]
    return f"{statistics.median(more):+.1%} ({min(more):+.1%}, {max(more):+.1%})"


if __name__ == "__main__":
    main()
