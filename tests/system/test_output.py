"""Output that cannot be written or encoded is dropped or replaced, and no exit code changes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from bench.system.output import is_terminal

SAY = """
import sys
from bench.system.output import unfailing
from bench.system.progress import Plain

with unfailing():
    for _ in range({times}):
        Plain("worker 0: ").say("accuracy · {text}")
    print("to the other stream", file=sys.stderr)
"""


def say(times=1, text="x", code=SAY, **streams):
    words = [sys.executable, "-c", code.format(times=times, text=text)]
    return subprocess.run(words, check=False, **({"capture_output": True} | streams))


def test_a_reader_that_leaves_does_not_matter():
    read, write = os.pipe()
    os.close(read)
    done = say(times=3000, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"to the other stream\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_does_not_matter():
    with open("/dev/full", "wb") as full:
        done = say(capture_output=False, stdout=full, stderr=subprocess.STDOUT)
    assert done.returncode == 0


def test_a_terminal_that_is_lost_does_not_matter():
    ours, theirs = pty.openpty()
    os.close(ours)  # writing now fails with EIO
    done = say(times=3, capture_output=False, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert done.returncode == 0


def test_closed_streams_do_not_matter():
    code = "import os; os.close(1); os.close(2)\n" + SAY
    assert say(code=code).returncode == 0
    done = subprocess.run(
        [sys.executable, "-m", "bench", "list", "methods"],
        check=False,
        preexec_fn=lambda: (os.close(1), os.close(2)),
    )
    assert done.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "ascii:surrogateescape", "latin-1"])
def test_what_cannot_be_encoded_is_replaced(encoding):
    done = say(text="²–", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"worker 0: accuracy ") and b"?" in done.stdout


def test_writing_goes_on_where_a_pipe_that_does_not_block_is_full():
    read, write = os.pipe()
    os.set_blocking(write, False)
    words = [sys.executable, "-c", SAY.format(times=1, text="y" * 100_000)]
    with subprocess.Popen(words, stdout=write, stderr=subprocess.DEVNULL) as process:
        os.close(write)
        with open(read, "rb") as file:
            assert len(file.read()) > 100_000
    assert process.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(("words", "code"), [(["list", "methods"], 0), (["run", "--seed", "x"], 2)])
def test_a_command_keeps_its_exit_code(words, code):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "bench", *words], check=False, stdout=full, stderr=full)
    assert done.returncode == code


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"])
def test_a_log_is_no_terminal_whatever_the_environment_says(name):
    code = (
        "from bench.system.progress import reporter\n"
        "with reporter() as out:\n"
        "    out.progress('fit', 1, 3, 'loss 1'); out.say('{text}')"
    )
    done = say(code=code, env={**os.environ, name: "1", "COLUMNS": "20"}, text="z" * 50)
    assert done.stdout == b"z" * 50 + b"\n"


def test_a_terminal_without_cursor_movement_is_written_to_as_a_log(monkeypatch):
    ours, theirs = pty.openpty()
    with open(theirs, "w") as stream:
        monkeypatch.setenv("TERM", "xterm")
        assert is_terminal(stream)
        monkeypatch.setenv("TERM", "dumb")
        assert not is_terminal(stream)
    os.close(ours)
    assert not is_terminal(None)
