"""SIGINT held back, let through, and kept out of updates."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from foretune.engine import hold_interrupts
from foretune.estimators import TwoSided
from foretune.journal import Journal
from foretune.optimizer import Optimizer
from foretune.types import Change, UpdateContext
from foretune.updates import SGD


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _keyboard_interrupts():
    """The handler of an interactive run: a background process may have inherited one that ignores SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def test_sigint_arrives_when_the_block_is_over() -> None:
    handler, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), hold_interrupts():
        press_ctrl_c()
        press_ctrl_c()
        done.append("after it")
    assert done == ["after it"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_error_in_the_block_is_kept_as_the_context() -> None:
    with pytest.raises(KeyboardInterrupt) as raised, hold_interrupts():
        press_ctrl_c()
        raise RuntimeError("also")
    assert isinstance(raised.value.__context__, RuntimeError)
    with pytest.raises(RuntimeError, match="alone"), hold_interrupts():
        raise RuntimeError("alone")


def test_nested_blocks_hold_until_the_outermost_is_over() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), hold_interrupts():
        with hold_interrupts() as inner:
            inner.let_through()
            press_ctrl_c()
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_one_sigint_is_let_through_and_the_next_is_held() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), hold_interrupts() as held:
        for let, press in ((False, False), (True, True)):
            if let:
                held.let_through()
            try:
                if press:
                    press_ctrl_c()
            except KeyboardInterrupt:
                done.append("first, at once")
        press_ctrl_c()
        done.append("second, held")
    assert done == ["first, at once", "second, held"]


def test_what_was_held_is_delivered_by_letting_through() -> None:
    with hold_interrupts() as held:
        press_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            held.let_through()
        held.hold_again()


def test_a_handler_of_the_users_own_is_called() -> None:
    calls: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        with hold_interrupts():
            press_ctrl_c()
            assert calls == []
        assert calls == [signal.SIGINT]
        with hold_interrupts() as held:
            held.let_through()
            press_ctrl_c()
            assert len(calls) == 2
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with hold_interrupts() as held:
            held.let_through()
            press_ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_the_default_action_still_ends_the_process() -> None:
    code = (
        "import os, runpy, signal\n"
        f"hold_interrupts = runpy.run_path({inspect.getfile(hold_interrupts)!r})['hold_interrupts']\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "with hold_interrupts():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('held', flush=True)\n"
        "print('survived', flush=True)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout == "held\n"
    assert run.returncode == -signal.SIGINT


def test_other_threads_leave_signals_alone() -> None:
    handler, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with hold_interrupts() as held:
            held.let_through()
            held.hold_again()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]


# ---------------------------------------------------------------- updates


@dataclass(frozen=True, kw_only=True)
class PressingSGD(SGD):
    """Plain descent, with Ctrl-C pressed between the first tensor and the second."""

    def apply(self, context: UpdateContext) -> Change:
        press_ctrl_c()
        return super().apply(context)


def test_an_update_and_its_record_are_complete_before_ctrl_c_arrives(tmp_path) -> None:
    def make(update: SGD) -> tuple[nn.Module, Optimizer]:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        return model, Optimizer(model, estimator=TwoSided(zo_eps=1e-2), update=update, lr=0.1)

    x = torch.ones(2, 4)
    model, interrupted = make(PressingSGD())
    interrupted.record_to(tmp_path / "journal")
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted.step(lambda: model(x).square().mean())
    finally:
        interrupted.journal.close()
    whole_model, whole = make(SGD())
    whole.step(lambda: whole_model(x).square().mean())

    for name, parameter in whole_model.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    assert interrupted.num_steps == 1
    assert interrupted.last_record == whole.last_record
    assert Journal.read(tmp_path / "journal").records == [whole.last_record]
