"""Signals: they ask for a save, and end the program as they would have once it is durable."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import treering


def test_a_signal_asks_for_a_save(run: treering.Run) -> None:
    run._clock._cadence = 1000
    called: list[int] = []

    def ours(*_: Any) -> None:
        called.append(1)

    before = signal.signal(signal.SIGUSR1, ours)
    try:
        run.save_on_signal(signal.SIGUSR1, notice="60s")
        assert not run.should_save(1) and not run.stop_requested
        os.kill(os.getpid(), signal.SIGUSR1)
        assert run.should_save(2) and run.stop_requested and called == [1]
        handle = run.save(2, {"x": 1}).wait()
        assert handle.in_time is True and not run.should_save(3)
        run._notice = 0.0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert run.save(3, {"x": 1}).wait().in_time is False
        run.close()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert called == [1, 1, 1] and signal.getsignal(signal.SIGUSR1) is ours
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_signals_are_asked_for_without_a_cadence_too(run: treering.Run) -> None:
    with pytest.raises(treering.InvalidError, match="no cadence"):
        run.should_save(1)
    before = signal.getsignal(signal.SIGUSR1)
    run.save_on_signal(signal.SIGUSR1)
    run.save_on_signal(signal.SIGUSR1, signal.SIGUSR2, notice=1)  # again: nothing is its own predecessor
    assert not run.should_save(1)
    signal.raise_signal(signal.SIGUSR1)
    assert run.should_save(2)
    run.close()
    assert signal.getsignal(signal.SIGUSR1) == before == signal.SIG_DFL


def test_a_notice_begins_with_the_first_signal(run: treering.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(run, "_helpers", 3)
    run.save_on_signal(signal.SIGUSR1, notice=60)
    with monkeypatch.context() as clock:
        clock.setattr(time, "monotonic", lambda: now[0])
        signal.raise_signal(signal.SIGUSR1)
        now[0] += 59
        signal.raise_signal(signal.SIGUSR1)
        assert run.should_save(1) and run._signalled == 1000.0
    handle = run.save(1, {"x": 1})
    assert handle._hurry.helpers == 3, "nobody waits, but there is little time"
    handle.wait()
    assert not run.should_save(2)


def test_a_handler_that_came_after_stays(run: treering.Run) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    run.save_on_signal(signal.SIGUSR1)
    ours = signal.getsignal(signal.SIGUSR1)

    def later(number: int, frame: Any) -> None:
        ours(number, frame)

    signal.signal(signal.SIGUSR1, later)
    try:
        run.close()
        signal.raise_signal(signal.SIGUSR1)  # passes through the handler of a closed run, whose default is not called
        assert signal.getsignal(signal.SIGUSR1) is later
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_run_that_another_thread_closed_is_not_in_the_way(store: treering.Store) -> None:
    called = []
    before = signal.signal(signal.SIGUSR1, lambda *_: called.append(1))
    try:
        run = store.run("r")
        run.save_on_signal(signal.SIGUSR1)
        closing = threading.Thread(target=run.close)
        closing.start()
        closing.join()
        assert not run.stop_requested
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert called == [1, 1] and not run.stop_requested
    finally:
        signal.signal(signal.SIGUSR1, before)


PROGRAM = """
import os, signal, sys, threading, treering
run = treering.Store(sys.argv[1]).run('r')
{}
print('ended by itself', flush=True)
"""


def program(folder: pathlib.Path, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(code), str(folder / "s")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_second_signal_does_not_end_the_program_before_the_save_is_durable(tmp_path: pathlib.Path) -> None:
    done = program(
        tmp_path,
        "run.save_on_signal(signal.SIGTERM)\n"
        "really, reached, closing = run._save_durably, threading.Event(), threading.Event()\n"
        "def held(job):\n"
        "    reached.set(); closing.wait(); os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return really(job)\n"
        "run._save_durably = held\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "assert run.should_save(1)\n"
        "handle = run.save(1, {'x': 1}); reached.wait()\n"
        "drain = run._drain\n"
        "run._drain = lambda timeout: (closing.set(), drain(timeout))\n"
        "run.close()\n"
        "assert handle.in_time and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL",
    )
    assert done.returncode == 0 and done.stdout == "ended by itself\n", done.stderr
    assert treering.Store(tmp_path / "s")["r@latest"].load() == {"x": 1}


def test_ctrl_c_asks_for_a_save_where_that_was_wished(tmp_path: pathlib.Path) -> None:
    done = program(
        tmp_path,
        # Who runs the tests in the background has them ignore it, and that is inherited.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "run.save_on_signal(signal.SIGINT)\n"
        "signal.raise_signal(signal.SIGINT)\n"
        "assert run.should_save(1) and run.stop_requested\n"
        "run.save(1, {'x': 1}); run.close()\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)",
    )
    assert done.returncode == 0 and done.stdout == "interrupted\nended by itself\n", done.stderr
    assert treering.Store(tmp_path / "s")["r@latest"].load() == {"x": 1}


def test_after_the_save_a_signal_can_end_the_program_as_it_would_have(tmp_path: pathlib.Path) -> None:
    code = (
        "import os, signal, sys, treering\n"
        "with treering.Store(sys.argv[1]).run('r', cadence=1000) as run:\n"
        "    run.save_on_signal(signal.SIGTERM)\n"
        "    for step in range(1, 100):\n"
        "        if step == 5: os.kill(os.getpid(), signal.SIGTERM)\n"
        "        if run.should_save(step): run.save(step, {'x': step})\n"
        "        if run.stop_requested: break\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "print('not reached')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGTERM and not done.stdout, done.stderr
    assert treering.Store(tmp_path / "s")["r@latest"].load() == {"x": 5}
