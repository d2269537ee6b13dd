"""A few random kills; `python tests/faults/kills.py --kills 100` does the full test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
from kills import command, faults, finish_or_kill, storm, values


def test_random_kills_lose_duplicate_and_change_nothing():
    tally = storm(kills=3, seed=1, methods="standard_ensemble,sgld", longest=9.0)
    assert tally.kills == 3 and tally.grids >= 1
    assert tally.faults == []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_a_worker_that_is_killed_is_replaced_and_the_grid_completes(tmp_path):
    methods = "standard_ensemble,mc_dropout"
    finish_or_kill(command(tmp_path / "calm", methods, 2), None)
    words = command(tmp_path / "hit", methods, 2)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as sweep:
        said = []
        for line in sweep.stdout:
            said.append(line)
            if " · digits · " in line and len(said) == 1:
                os.kill(workers(sweep.pid)[0], signal.SIGKILL)
    assert sweep.returncode == 0, said
    assert any("died (SIGKILL)" in line for line in said)
    assert faults(tmp_path / "hit", 2, values(tmp_path / "calm")) == []


def workers(parent: int) -> list[int]:
    """Process numbers of a sweep's workers."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_two_commands_on_one_folder_share_the_cells(tmp_path):
    methods = "standard_ensemble,mc_dropout"
    words = command(tmp_path, methods, 1)
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(list((tmp_path / "raw").glob("*.csv"))) == 2
    counted = [re.search(r"(\d+) run, (\d+) already done, 0 failed", text).groups() for text in said]
    assert [int(run) + int(before) for run, before in counted] == [2, 2]  # cells completed by either command


def listen():
    """Restores SIGINT, which background processes of a shell and their children ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_stops_all_workers_after_their_rounds(tmp_path):
    """Even if the second worker is still starting."""
    words = command(tmp_path, "standard_ensemble,hypergan,mnf", 2)
    pipes = {"stdout": PIPE, "stderr": STDOUT, "text": True}
    with subprocess.Popen(words, **pipes, start_new_session=True, preexec_fn=listen) as sweep:
        said = [sweep.stdout.readline()]
        os.killpg(sweep.pid, signal.SIGINT)
        said += sweep.stdout.readlines()
    text = "".join(said)
    assert sweep.returncode == 130 and "Traceback" not in text.partition("Exception ignored")[0], text
    assert " · digits · " in said[0] and text.count("  stopped by Ctrl-C; ") >= 1
    assert "0 run, 0 already done, 0 failed" in text and "stopped" in text and "not started" in text
    assert not list((tmp_path / "raw").glob("*.csv"))
    assert not list(tmp_path.rglob("*.part")) and not list((tmp_path / "locks").iterdir())


def test_ctrl_c_in_a_terminal_saves_a_checkpoint_where_the_same_command_goes_on(tmp_path):
    words = command(tmp_path, "standard_ensemble", 1)
    words += ["--set", "standard_ensemble.networks=2", "--set", "standard_ensemble.epochs=60"]
    with subprocess.Popen(words, stdout=PIPE, stderr=STDOUT, text=True, preexec_fn=listen) as sweep:
        deadline = time.monotonic() + 100
        while not list(tmp_path.rglob("fit.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.05)
        sweep.send_signal(signal.SIGINT)
        text = sweep.stdout.read()
    assert sweep.returncode == 130, text
    assert "0 run, 0 already done, 0 failed, 1 stopped" in text
    ((saved, rounds),) = re.findall(r"stopped by Ctrl-C; checkpoint saved at (\d+)/(\d+)", text)
    assert 0 < int(saved) < int(rounds) == 60 and not list((tmp_path / "raw").glob("*.csv"))
    again = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"fit: resuming at {saved}/60" in again and "1 run, 0 already done, 0 failed" in again
    (path,) = (tmp_path / "raw").glob("*.csv")
    assert "failed" not in path.read_text()
