"""What a save and a load cost, beside what people use: one process, the contenders in turns, medians.

A GPT of 14 million parameters in fp32 with AdamW: 172 MB; `--size large`: 670 million, 8 GB in 2,000 tensors. Times
are of this machine as it is now: look at the ratios. On a CUDA device the memory copy is one to pinned memory.
A save that is waited for takes all cores; *unattended* is one that nobody waits for, as behind a training.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable

import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
import treering

Times = dict[str, list[float]]

SIZES = {"small": {"width": 384, "layers": 6}, "large": {"width": 1008, "layers": 55}}


def gpt(width: int, layers: int, vocabulary: int = 8192, context: int = 256) -> torch.nn.Module:
    block = [torch.nn.TransformerEncoderLayer(width, 6, 4 * width, batch_first=True) for _ in range(layers)]
    model = torch.nn.ModuleDict(
        {"tok": torch.nn.Embedding(vocabulary, width), "pos": torch.nn.Embedding(context, width)}
    )
    model["blocks"] = torch.nn.ModuleList(block)
    return model


def trained(model: torch.nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    step(model, optimizer)
    return optimizer


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """As an optimizer's step leaves it: every weight and moment moves a little."""
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    optimizer.step()


def tensors_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    found = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    return found


def timed(times: Times, name: str, work: Callable[[], object]) -> object:
    begun = time.perf_counter()
    result = work()
    times.setdefault(name, []).append(time.perf_counter() - begun)
    return result


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--folder", type=pathlib.Path, default=None)
    arguments.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments.add_argument("--size", choices=SIZES, default="small")
    arguments.add_argument("--before", type=int, default=0, help="saves before the first round: chains are longer then")
    arguments.add_argument("--blocked", action="store_true", help="only what keeps the training waiting")
    given = arguments.parse_args()
    warnings.filterwarnings("ignore", module="torch.*")
    torch.manual_seed(0)
    model = gpt(**SIZES[given.size]).to(given.device)
    optimizer = trained(model)
    tensors = tensors_of(model, optimizer).values()
    state = f"state of {sum(t.nbytes for t in tensors) / 1e6:.0f} MB in {len(tensors)} tensors on {given.device}"
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {state}, {given.rounds} rounds")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        times = measure(pathlib.Path(folder), model, optimizer, given)
    report(times)


def measure(
    folder: pathlib.Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, given: argparse.Namespace
) -> Times:
    times: Times = {}
    on_device = given.device.type == "cuda"
    warm = {
        name: torch.zeros(tensor.shape, dtype=tensor.dtype, pin_memory=on_device)
        for name, tensor in tensors_of(model, optimizer).items()
    }
    # A store for each: in one, the second run would find what the first has stored.
    run = treering.Store(folder / "store").run("bench", memory_limit=16 << 30)
    live = treering.Store(folder / "live").run("bench", memory_limit=32 << 30, live_base=True)
    alone = treering.Store(folder / "alone").run("bench", memory_limit=16 << 30)
    if not given.blocked:
        other = gpt(**SIZES[given.size]).to(given.device)
        others = trained(other)
    for number in range(given.before + given.rounds + 1):
        if number == given.before + 1:
            times.clear()  # the first round warms up
        step(model, optimizer)
        if number < given.before:
            run.save(number, {"model": model, "optimizer": optimizer}).wait()
            continue
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        tensors = tensors_of(model, optimizer)

        settle(given.device)

        def copy_all() -> None:
            for name, tensor in tensors.items():
                warm[name].copy_(tensor, non_blocking=True)
            settle(given.device)

        timed(times, "memory copy", copy_all)

        for name, where in (("treering save", run), ("live_base save", live), ("unattended save", alone)):

            def save() -> treering.SaveHandle:
                return where.save(number, {"model": model, "optimizer": optimizer})

            begun, processor = time.perf_counter(), time.process_time()
            handle = timed(times, f"{name}(), blocked", save)
            while where is alone and not handle.done():
                time.sleep(0.002)  # to wait would lend it all cores
            handle.wait()
            times.setdefault(f"{name}, durable", []).append(time.perf_counter() - begun)
            times.setdefault(f"{name}, processor", []).append(time.process_time() - processor)
        if given.blocked:
            continue

        file = folder / "torch.pt"
        timed(times, "torch.save", lambda: torch.save(state, file))
        timed(times, "torch.save + fsync", lambda: (torch.save(state, file), sync(file)))
        plain = folder / "plain.safetensors"
        timed(times, "safetensors.save_file", lambda: safetensors.torch.save_file(tensors, plain))
        shutil.rmtree(folder / "dcp", ignore_errors=True)
        timed(times, "dcp.save", lambda: dcp.save(tensors, checkpoint_id=folder / "dcp", no_dist=True))
        shutil.rmtree(folder / "async", ignore_errors=True)
        begun = time.perf_counter()
        future = timed(
            times,
            "dcp.async_save, blocked",
            lambda: dcp.async_save(tensors, checkpoint_id=folder / "async", no_dist=True),
        )
        future.result()
        times.setdefault("dcp.async_save, written", []).append(time.perf_counter() - begun)

        def load_torch() -> None:
            loaded = torch.load(file, weights_only=True, map_location=given.device)
            other.load_state_dict(loaded["model"])
            others.load_state_dict(loaded["optimizer"])
            settle(given.device)

        timed(times, "torch.load + load_state_dict", load_torch)

        def load() -> None:
            run.latest().load_into({"model": other, "optimizer": others})
            settle(given.device)

        timed(times, "treering load_into", load)
        assert all(a.equal(b) for a, b in zip(other.parameters(), model.parameters(), strict=True))
    for each in (run, live, alone):
        each.close()
    return times


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sync(path: pathlib.Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def report(times: Times) -> None:
    median = {name: statistics.median(each) for name, each in times.items()}
    for name, each in times.items():
        print(f"  {name:<30} {median[name] * 1e3:8.1f} ms   ({min(each) * 1e3:.1f} to {max(each) * 1e3:.1f})")
    for name, other in (
        ("treering save(), blocked", "memory copy"),
        ("dcp.async_save, blocked", "memory copy"),
        ("treering save, durable", "dcp.save"),
        ("unattended save, durable", "dcp.save"),
        ("live_base save, durable", "treering save, durable"),
        ("live_base save, processor", "treering save, processor"),
        ("treering load_into", "torch.load + load_state_dict"),
    ):
        if name in median and other in median:
            print(f"  {name} / {other}: {median[name] / median[other]:.2f}")


if __name__ == "__main__":
    sys.exit(main())
