"""The number of threads: shared by workers, recorded, and without effect on any row, array or name."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from commands import bench, run
from threads import differences

from bench import registry
from bench.engine import parallel
from bench.running import launchers, worker
from bench.running.launchers import local
from bench.running.plan import Selection, cells
from bench.system.progress import Plain


@pytest.fixture(autouse=True)
def restored():
    yield
    parallel.use(None)


def abouts(results):
    """The JSON of each run, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((results / "raw").glob("*.json"))}


def fits(results):
    """Paths of the stored fits."""
    return sorted(str(path.relative_to(results)) for path in results.rglob("*.safetensors"))


def test_threads_are_shared_in_parts_that_differ_by_one_at_most(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [launchers.shares(2, 8), launchers.shares(3, 8), launchers.shares(4, 2)] == [
        [4, 4],
        [3, 3, 2],
        [1, 1, 1, 1],
    ]
    assert launchers.shares(2, 8, threads=3) == [2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launchers.shares(2, 8) == [3, 3]
    assert launchers.shares(2, 8, threads=3) == [2, 1]  # what the command says counts more
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert launchers.shares(2, 8) == [4, 4]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_command_uses_and_records_its_threads_and_gives_the_same_bits(tmp_path, threads):
    assert run(tmp_path / "one", "--threads", "1").exit_code == 0
    before = torch.get_num_threads()
    done = run(tmp_path / "more", "--threads", str(threads))
    assert done.exit_code == 0, done.output
    (about,) = abouts(tmp_path / "more").values()
    assert about["environment"]["threads"] == threads == parallel.threads()
    assert torch.get_num_threads() == before
    assert fits(tmp_path / "one") == fits(tmp_path / "more")
    assert not differences(tmp_path / "one", tmp_path / "more")


def test_workers_share_the_threads_and_give_the_same_bits(tmp_path):
    common = ("run", "--method", "mc_dropout,mnf", "--task", "digits-open", "--preset", "smoke")
    assert bench(*common, "--threads", "1", results=tmp_path / "one").exit_code == 0
    done = bench(*common, "--jobs", "2", "--threads", "3", results=tmp_path / "two")
    assert done.exit_code == 0, done.output
    used = [about["environment"]["threads"] for about in abouts(tmp_path / "two").values()]
    assert len(used) == 2 and set(used) <= {1, 2}
    assert fits(tmp_path / "one") == fits(tmp_path / "two")
    assert not differences(tmp_path / "one", tmp_path / "two")


def test_each_local_worker_gets_its_share_and_pools_of_that_size(tmp_path, monkeypatch):
    started = []

    class Process:
        def __init__(self, target, args):
            self.job, self.sentinel, self.exitcode = args[0], None, 0

        def start(self):
            started.append((self.job.threads, local.os.environ["OMP_NUM_THREADS"]))

        def is_alive(self):
            return False

    monkeypatch.setattr(local, "get_context", lambda kind: SimpleNamespace(Process=Process))
    monkeypatch.setattr(local.connection, "wait", lambda sentinels, timeout: None)
    job = worker.Job("s", Selection([], []), tmp_path, frozenset("abc"), frozenset(), threads=5)
    launchers.Workers(jobs=4).launch(job, Plain())
    assert started == [(2, "2"), (2, "2"), (1, "1")]  # no more workers than cells


def test_a_worker_works_in_its_share_of_threads(tmp_path):
    job = worker.Job("s", Selection([], []), tmp_path, frozenset(), frozenset(), threads=3)
    worker.work(job, Plain())
    assert parallel.threads() == 3


def test_a_fits_name_and_a_cells_key_do_not_hang_on_threads(tmp_path):
    task = registry.task("stripes")
    (cell,) = cells(Selection(["standard_ensemble"], ["stripes"], "smoke"), task, task.load(None))
    names = set()
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        parallel.use(threads)
        torch.set_num_threads(threads)
        names.add((cell.checkpoint(tmp_path), cell.key()))
    torch.set_num_threads(before)
    assert len(names) == 1


@pytest.mark.parametrize("trained", ["reused", "trained again"])
def test_verify_is_bit_for_bit_with_another_number_of_threads(tmp_path, trained):
    assert run(tmp_path, "--threads", "1").exit_code == 0
    if trained == "trained again":
        for path in tmp_path.rglob("fit.safetensors"):
            path.unlink()
    done = bench("verify", "all", "--threads", "3", results=tmp_path)
    assert done.exit_code == 0, done.output
    assert f"bit for bit · no difference · fit {trained}" in done.output
    assert parallel.threads() == 3


@pytest.mark.parametrize("command", ["run", "verify", "perf"])
def test_commands_that_compute_refuse_less_than_one_thread(command):
    assert "--threads" in bench(command, "--help").output
    done = bench(command, "--threads", "0")
    assert done.exit_code == 2 and "--threads" in done.output


class Cluster:
    """As submitit's executor on SLURM and as Ray: the cores asked for and each worker's threads."""

    cluster = "slurm"
    exceptions = SimpleNamespace(RayError=OSError)

    def __init__(self, *nodes):
        self.asked, self.cores, self.cpus = [], nodes, 0

    def update_parameters(self, cpus_per_task=0, **others):
        self.cpus = cpus_per_task

    def submit(self, call, job, *others):
        self.asked.append((self.cpus, job.threads))
        return SimpleNamespace(exception=lambda: None)

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": sum(self.cores)}

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": float(count)}} for count in self.cores]

    def remote(self, call):
        return self

    def options(self, num_cpus, **others):
        return SimpleNamespace(remote=lambda job, label: self.asked.append((num_cpus, job.threads)))

    def get(self, result):
        pass


@pytest.mark.parametrize(
    ("nodes", "jobs", "threads", "shares"),
    [
        ((4, 4), 3, None, [3, 3, 2]),
        ((4, 4), None, None, [4, 4]),  # one for each node
        ((4, 4), 1, None, [4]),  # not 8, which no node has
        ((4, 4), 2, 3, [2, 1]),
    ],
)
def test_ray_gives_each_worker_the_cores_of_its_threads(tmp_path, monkeypatch, nodes, jobs, threads, shares):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ray = Cluster(*nodes)
    monkeypatch.setitem(sys.modules, "ray", ray)
    job = worker.Job("s", Selection([], []), tmp_path, frozenset("abc"), frozenset(), threads=threads)
    launchers.Workers("ray", jobs).launch(job, Plain())
    assert ray.asked == [(share, share) for share in shares]


@pytest.mark.parametrize(("threads", "shares"), [(None, [4, 4]), (5, [3, 2])])
def test_slurm_gives_each_worker_the_cores_of_its_threads(tmp_path, monkeypatch, threads, shares):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    executor = Cluster()
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=lambda folder: executor))
    job = worker.Job("s", Selection([], []), tmp_path, frozenset("abc"), frozenset(), threads=threads)
    launchers.Workers("slurm", 2).launch(job, Plain())
    assert executor.asked == [(share, share) for share in shares]
