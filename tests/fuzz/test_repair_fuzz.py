"""Stores with any history, damaged in any way: what a repair says that it keeps and loses is what it keeps and loses."""

from __future__ import annotations

import threading
import time

import pytest
from support.faulty_disk import Stopped
from support.fuzzing import quick_directory
from support.repair_fuzzing import RepairFuzz

from gibramdb.database import journal
from gibramdb.storage import wal


@pytest.fixture(autouse=True)
def quiet_threads_and_small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "RESERVE_BYTES", 64 * 1024)
    monkeypatch.setattr(journal, "RESERVE_LOW_BYTES", 16 * 1024)

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is not Stopped:
            threading.__excepthook__(arguments)

    monkeypatch.setattr(threading, "excepthook", hook)


def test_what_a_repair_says_is_so() -> None:
    with quick_directory() as folder:
        fuzz = RepairFuzz(folder)
        for seed in range(25):
            fuzz.run(seed)
    assert fuzz.told.total() > 20, fuzz.told


@pytest.mark.sweep
def test_ten_minutes_of_repairs() -> None:
    with quick_directory() as folder:
        fuzz = RepairFuzz(folder)
        began_s = time.monotonic()
        seed = 1_000
        while time.monotonic() - began_s < 600:
            fuzz.run(seed)
            seed += 1
    print(f"{seed - 1_000} stores", *(f"{count:6} {what}" for what, count in fuzz.told.most_common()), sep="\n")
