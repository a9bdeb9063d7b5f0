"""A training that is killed at any moment and resumed ends as one that was never stopped: bit for bit."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import subprocess
import sys
import time

import pytest
import treering

STEPS = 60
KILLS = int(os.environ.get("TREERING_KILLS", "3"))

TRAINING = '''
"""A training as people write them: dropout, shuffled data, a schedule, and a save now and then."""
import hashlib, random, sys
import numpy, torch
import treering

torch.set_num_threads(1)
steps, every = int(sys.argv[2]), 3
for seed in (random.seed, numpy.random.seed, torch.manual_seed):
    seed(1)
model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Dropout(0.2), torch.nn.ReLU(), torch.nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps + 1)
data = torch.randn(256, 16, generator=torch.Generator().manual_seed(2))
order = numpy.random.default_rng(3)

with treering.Store(sys.argv[1]).run("killed", keep=[treering.Latest(2)]) as run:
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    resume = run.resume(state)
    begin = 0
    if resume:
        begin = resume.step
        order.bit_generator.state = resume.state["order"]
        treering.set_rng_state(resume.state["rng"])
    print("from", begin, flush=True)
    for step in range(begin + 1, steps + 1):
        batch = data[order.permutation(256)[:32]] + 0.1 * random.random() + torch.tensor(numpy.random.rand())
        loss = model(batch.float()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % every == 0:
            run.save(step, state | {"order": order.bit_generator.state, "rng": treering.rng_state()},
                     metrics={"loss": loss.item()})
            print("saved", step, flush=True)
weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
moments = b"".join(t["exp_avg_sq"].numpy().tobytes() for t in optimizer.state.values())
print("end", hashlib.sha256(weights + moments).hexdigest(), flush=True)
'''


def start(script: pathlib.Path, store: pathlib.Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(script), str(store), str(STEPS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def ended(output: str) -> str:
    return output.split("end ")[1].strip()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("training") / "train.py"
    path.write_text(TRAINING)
    return path


def test_a_killed_training_ends_as_one_that_was_not(script: pathlib.Path, tmp_path: pathlib.Path) -> None:
    whole = start(script, tmp_path / "whole")
    wanted = ended(whole.communicate(timeout=120)[0])
    chance = random.Random(int(os.environ.get("TREERING_SEED", "1")))
    began = []
    for kill in range(KILLS + 1):
        training = start(script, tmp_path / "killed")
        assert training.stdout is not None
        lines = []
        # It is killed in some save after the first, at some moment of what happens in the background.
        after = chance.randint(1, 4)
        for line in training.stdout:
            lines.append(line)
            if kill < KILLS and sum(line.startswith("saved") for line in lines) == after:
                time.sleep(chance.random() * 0.02)
                training.kill()
                break
        lines += training.stdout.readlines()
        training.wait(60)
        training.stdout.close()
        began.append(int(lines[0].split()[1]))
    assert began[0] == 0 and began == sorted(began) and began[-1] > 0, began
    assert ended("".join(lines)) == wanted
    assert treering.Store(tmp_path / "killed").verify(deep=True) == []
    assert hashlib.sha256(b"").hexdigest() != wanted
