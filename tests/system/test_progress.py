"""Progress: a stage knows how far it is and when it ends, in a line that fits the terminal."""

from __future__ import annotations

import itertools
import os
import pty
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from bench.system import progress
from bench.system.progress import FIT, Plain, Stage, clock_time


@pytest.fixture
def clock(monkeypatch):
    """A time that a test moves, and the work that a process has done."""
    now = SimpleNamespace(time=100.0, work=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.time))
    return now


def fit(clock, done=0, expected=None, a_round=0.0):
    stage = Stage("2/12", since=clock.time, expected=expected, work=lambda: clock.work, a_round=a_round)
    stage.update(FIT, done, 8, "")
    return stage


def spend(clock, seconds, work=0.0):
    clock.time += seconds
    clock.work += work


def test_the_part_of_a_round_is_its_share_of_the_work_of_the_round_before(clock):
    stage = fit(clock)
    spend(clock, 10, 200)
    assert stage.inside() is None and "round 1: 0 GFLOP" in stage.line(80, bar=True)
    stage.update(FIT, 1, 8, "")
    assert stage.inside() == 0.0
    spend(clock, 5, 50)
    assert stage.inside() == 0.25 and "fit 1/8 · round 2: 25%" in stage.line(80, bar=True)
    spend(clock, 50, 500)
    assert stage.inside() == 0.99


def test_a_resumed_fit_knows_its_rounds_from_before(clock):
    stage = fit(clock, done=4, a_round=100.0)
    spend(clock, 3, 50)
    assert stage.inside() == 0.5
    assert stage.left() == pytest.approx(3 * 3.5 / 0.5)
    assert stage.round_left() == pytest.approx(3)


def test_time_left_is_from_history_until_the_fits_own_rate_is_known(clock):
    stage = fit(clock, expected=80.0)
    spend(clock, 20, 100)
    assert stage.left() == 60.0
    stage.update(FIT, 1, 8, "")  # at 20 seconds a round, not 10
    assert stage.left() == pytest.approx(140)
    assert fit(clock).left() is None
    assert fit(clock, done=4, expected=80.0).left() == 40.0


@pytest.mark.parametrize("width", [20, 60, 79])
def test_a_line_fits_and_keeps_place_and_rounds(clock, width):
    stage = fit(clock)
    for done in (1, 2):
        spend(clock, 1000, 100)
        stage.update(FIT, done, 8, " · ".join(f"loss_{i} 0.12345" for i in range(9)))
    line = stage.line(width, bar=True)
    assert len(line) <= width and line.startswith("  2/12 fit 2/8"[:width])
    if width == 79:
        assert "━" in line and "33:20, 1:40:00 left" in line


def test_a_stage_that_ends_makes_way_for_the_evaluation():
    reporter = Plain()
    reporter.begin(Stage("1/1"))
    reporter.progress(FIT, 1, 2)
    assert reporter.stage.fitting
    reporter.progress(FIT, 2, 2)
    assert not reporter.stage.fitting and reporter.stage.label == progress.OTHER


def test_a_log_gets_whole_lines_and_fewer_the_longer_it_takes(clock, capsys):
    reporter = Plain()
    reporter.shown = clock.time
    for second in range(3600):
        clock.time += 1
        reporter.progress("fit", second // 10, 400, "loss 1")
    lines = capsys.readouterr().out.splitlines()
    assert 5 < len(lines) < 50 and all(line.startswith("  fit ") and "\r" not in line for line in lines)


def test_lines_of_a_worker_take_the_place_of_the_line_on_its_terminal(capsys):
    Plain("worker 0: ", shared=True).say("one\ntwo")
    assert capsys.readouterr().out == "\r\x1b[2Kworker 0: one\n\r\x1b[2Kworker 0: two\n"


def test_clock_times():
    assert [clock_time(s) for s in (0, 59.6, 3599, 3600, 90061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
    ]


COUNTING = """
import sys, time
from bench.system.progress import Stage, reporter
with reporter({quiet}) as out:
    out.begin(Stage("1/2", "evaluate"))
    out.say("a message")
    time.sleep({seconds})
print("end")
"""


def in_terminal(code, **variables):
    """What a process writes to a terminal of 80 columns, with the time of each part."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.pop("NO_COLOR", None)
        os.environ |= {"TERM": "xterm", "COLUMNS": "80", **variables}
        os.execv(sys.executable, [sys.executable, "-c", code])
    parts = []
    while True:
        try:
            parts.append((time.monotonic(), os.read(terminal, 65536).decode()))
        except OSError:  # its other end is closed
            break
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0
    return parts


def test_a_terminal_sees_the_line_move_at_least_every_two_seconds():
    parts = in_terminal(COUNTING.format(quiet=False, seconds=3))
    drawn = [at for at, text in parts if "1/2 evaluate" in text]
    assert len(drawn) >= 3 and max(b - a for a, b in itertools.pairwise(drawn)) < 2


def test_colour_is_for_terminals_that_want_it():
    code = COUNTING.format(quiet=False, seconds=0.6)
    coloured, plain = (
        "".join(text for _, text in in_terminal(code, **variables)) for variables in ({}, {"NO_COLOR": "1"})
    )
    assert "\x1b[36m" in coloured and "\x1b[36m" not in plain and "evaluate" in plain
    forced = {**os.environ, "FORCE_COLOR": "1"}
    log = subprocess.run([sys.executable, "-c", code], env=forced, capture_output=True, text=True, check=True)
    assert log.stdout == "a message\nend\n"


def test_quiet_says_warnings_alone():
    code = COUNTING.format(quiet=True, seconds=0).replace("time.sleep", "out.say('  warning: x'); time.sleep")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "warning: x\nend\n"


def test_a_process_may_fork_while_the_line_is_drawn():
    code = (
        "import multiprocessing, sys, time\n"
        "from bench.system.progress import Stage, reporter\n"
        "def child():\n    print('warning', file=sys.stderr)\n"
        "with reporter() as out:\n"
        "    out.begin(Stage(label='figures'))\n"
        "    for _ in range(30):\n"
        "        p = multiprocessing.get_context('fork').Process(target=child); p.start(); p.join(10)\n"
        "        assert p.exitcode == 0\n"
    )
    in_terminal(code)
