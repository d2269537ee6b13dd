"""Locks: exclusive, released by the end of a process; a file system that refuses them is said in words."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from commands import run
from jobs import job_of

from bench.errors import BenchError
from bench.running import locks as locking
from bench.running import worker
from bench.running.locks import Locks
from bench.system.progress import Plain


@pytest.fixture
def refused(monkeypatch):
    """Has flock answer with an error."""

    def with_error(number):
        def flock(descriptor, operation):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    return with_error


def test_a_lock_is_exclusive_and_leaves_no_file(tmp_path):
    first, second = Locks(tmp_path, "a"), Locks(tmp_path, "b")
    with first.take("cell", "fit") as held:
        assert held
        with second.take("cell", "other") as other:
            assert not other
        with second.take("third") as free:
            assert free
    with second.take("fit", "cell") as held:
        assert held
    assert not list((tmp_path / "locks").iterdir())


def test_a_lock_is_released_when_its_process_ends(tmp_path):
    code = (
        "import sys, time, pathlib; from bench.running.locks import Locks\n"
        "with Locks(pathlib.Path(sys.argv[1]), 'a').take('cell'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    locks = Locks(tmp_path, "b")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with locks.take("a-free-one", "cell") as held:
            assert not held
            assert locks.holder() == f"process {holder.pid} on host {socket.gethostname()}"
        holder.kill()
        holder.wait()
    with locks.take("cell") as held:
        assert held


def test_attempts_are_counted_per_sweep_until_the_cell_ends(tmp_path):
    locks = Locks(tmp_path, "a")
    assert [locks.begin("cell"), locks.begin("cell"), Locks(tmp_path, "b").begin("cell")] == [0, 1, 0]
    locks.end("cell")
    assert locks.begin("cell") == 0


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_folder_that_refuses_locks_is_one_error_before_any_work(tmp_path, refused, number):
    refused(number)
    done = run(tmp_path)
    assert done.exit_code == 1
    (line,) = done.output.splitlines()
    assert line.startswith(f"Error: {tmp_path / 'locks'}: expected a folder where files can be locked")
    assert os.strerror(number) in line and "--results" in line
    assert not list(tmp_path.rglob("*.csv"))


def test_without_flock_locks_are_files_and_a_sweep_says_so(tmp_path, refused):
    refused(errno.ENOSYS)
    done = run(tmp_path)
    assert done.exit_code == 0 and "1 run" in done.output
    assert "has no flock" in done.output and "filelock" not in done.output
    assert not list((tmp_path / "locks").iterdir())


def test_a_lock_file_left_on_another_host_is_named_with_what_to_do(tmp_path, refused, monkeypatch):
    refused(errno.ENOSYS)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    left = Locks(tmp_path, "a").take("cell")
    assert left.__enter__()
    monkeypatch.undo()
    refused(errno.ENOSYS)
    locks = Locks(tmp_path, "b")
    with locks.take("cell") as held:
        assert not held
    path = tmp_path / "locks" / "cell.lock"
    assert locks.holder() == f"process {os.getpid()} on host elsewhere; if that has ended, remove {path}"
    path.unlink()
    with locks.take("cell") as held:
        assert held
    left.__exit__(None, None, None)


def test_a_wait_says_once_who_is_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.01)
    code = (
        "import sys, pathlib; from bench.running.locks import Locks\n"
        "with Locks(pathlib.Path(sys.argv[1]), 'a').take(sys.argv[2]):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    (key,) = job_of(tmp_path).todo
    words = [sys.executable, "-c", code, str(tmp_path), key[:16]]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        waiting = threading.Thread(target=worker.work, args=(job_of(tmp_path), Plain()))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        holder.stdin.close()
        waiting.join(30)
    said = [line for line in capsys.readouterr().out.splitlines() if "waiting" in line]
    where = f"process {holder.pid} on host {socket.gethostname()}"
    assert said == [f"waiting for standard_ensemble · stripes · smoke · seed 0: held by {where}"]
    assert len(list(tmp_path.rglob("*.csv"))) == 1


def test_a_worker_whose_folder_refuses_locks_says_so_without_a_traceback(
    tmp_path, refused, monkeypatch, capsys
):
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # of pytest's own process
    job = job_of(tmp_path)
    refused(errno.ENOLCK)
    with pytest.raises(SystemExit):
        worker.run_worker(job, "worker 0: ")
    said = capsys.readouterr()
    assert said.out.startswith("worker 0: Error: ") and said.err == ""


def test_errors_of_a_folder_are_raised(tmp_path):
    (tmp_path / "locks").write_text("")
    with (
        pytest.raises(BenchError, match="expected a folder where files can be locked"),
        Locks(tmp_path, "a").take("cell"),
    ):
        pass


def test_a_lock_that_is_waited_for_is_taken_once_it_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "POLL_SECONDS", 0.01)
    said, ended = [], []

    def wait():
        with Locks(tmp_path, "b").wait("trial", said.append):
            ended.append("waited")

    with Locks(tmp_path, "a").take("trial"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.3)
        ended.append("held")
    waiting.join(30)
    assert ended == ["held", "waited"]
    assert said == [f"waiting for trial: held by process {os.getpid()} on host {socket.gethostname()}"]
    assert not list((tmp_path / "locks").iterdir())
