"""Synthetic runs with qualities, costs and traces, for the sections on budgets."""

from bench.records import runs, schema, store
from bench.report import published
from bench.report.rows import Material, prepare

IMAGES, VALIDATION = 200, 50


def write(results, method, fit=10.0, accuracy=0.9, trace=(), sizes=(1, 10), **more):
    """One run on `digits`. trace: by round, accuracy of the ensemble and of single networks.

    more: seed, preset, device, task, dataset, predict (seconds), memory (bytes), cpu (seconds of the fit),
    gflop, auroc, config, threads, device_name. A cost or an accuracy of None is missing.
    """
    seed, preset, task = more.get("seed", 0), more.get("preset", "quick"), more.get("task", "digits")
    config, device = more.get("config", {"beta": 1}), more.get("device", "cpu")
    run = "-".join([method, task, preset, device, str(seed), *map(str, config.values())])
    place = {"run": run, "method": method, "task": task, "train": task, "preset": preset, "seed": seed}
    place |= {"config": str(config), "commit": "abc", "device": device, "source": "run"}
    dataset, largest = more.get("dataset", "digits"), max(sizes)
    found = []

    def row(metric, value, **where):
        if value is not None:
            found.append(schema.row(metric, float(value), **place, schema=schema.SCHEMA, **where))

    for n in sizes:
        where = {"members": n, "examples": IMAGES}
        quality = None if accuracy is None else accuracy - 0.01 * (n < largest)
        row("accuracy", quality, evaluation="accuracy", dataset=dataset, **where)
        row("auroc", more.get("auroc"), evaluation="ood", dataset="letters", **where)
        row("log_likelihood_nats", more.get("likelihood"), evaluation="regression", dataset="toy", **where)
    for epoch, pair in dict(trace).items():
        where = {"evaluation": "trace", "epoch": epoch, "dataset": f"{dataset}-val", "examples": VALIDATION}
        for members, value in zip((largest, 1), pair, strict=True):
            row("accuracy", value, members=members, **where)
    row("fit_seconds", fit, evaluation="cost")
    row("fit_cpu_seconds", more.get("cpu"), evaluation="cost")
    row("fit_gflop", more.get("gflop"), evaluation="cost")
    where = {"evaluation": "cost", "members": largest}
    row("predict_seconds", more.get("predict", 2.0), examples=IMAGES, **where)
    row("peak_memory_bytes", more.get("memory", 2**30), **where)
    machine = {key: more[key] for key in ("device_name", "threads") if key in more}
    about = {"cell": run, "created": "2025-01-01T00:00:00", "config": config, "failure": None}
    store.write_run(results, run, found, {}, about | {"environment": machine})


def material(results):
    rows = runs.read(results).newest()
    abouts = {run: store.read_about(results, run) for run in set(rows["run"])}
    published.provide(results)
    return Material(results, prepare(rows, abouts), abouts, published.read(results))
