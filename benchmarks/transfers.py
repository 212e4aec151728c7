"""How much faster files go to and from an object store in parts, side by side.

    python benchmarks/transfers.py --megabytes 128 --latency-secs 0.25

The server is the tests' fake Google Cloud Storage, a process of its own, which answers
each request that carries data only after `--latency-secs`: a slow link, one piece of
16 MiB (up) or 4 MiB (down) at a time on each connection. "One after the other" is the
same code with one piece at a time. Nothing here says how fast Google's servers are; it
shows what the waiting costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RUN = "gs://bucket/run"


def slow_down(server: str, match: str, secs: float) -> None:
    """Makes the server's answers to matching requests late."""
    fault = {"kind": "slow", "match": match, "secs": secs, "times": 10**9}
    data = json.dumps(fault).encode()
    urllib.request.urlopen(f"{server}/_fake/faults", data).close()


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(path: str, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each way, in alternating order."""
    from resumable_tf.storage import ObjectStorage, gcs_parts, object_store

    ways = {"one after the other": 1, "side by side": gcs_parts.NUM_PARALLEL_PARTS}
    secs: dict[str, list[float]] = {}
    for number in range(rounds):
        for way, num_parallel in ways.items():
            gcs_parts.NUM_PARALLEL_PARTS = num_parallel
            object_store._NUM_PARALLEL_READS = num_parallel
            storage = ObjectStorage(RUN)
            name = f"{number}-{num_parallel}"

            def read(storage: ObjectStorage = storage, name: str = name) -> None:
                for _ in storage.read_chunks(name):
                    pass

            up = timed(lambda s=storage, n=name: s.upload(n, path))
            secs.setdefault(f"up, {way}", []).append(up)
            secs.setdefault(f"down, {way}", []).append(timed(read))
            storage.delete(name)
    return secs


def show(secs: dict[str, list[float]], size_bytes: int) -> None:
    table = Table("way", "seconds, median", "MB/s")
    for way, found in sorted(secs.items()):
        median = statistics.median(found)
        table.add_row(way, f"{median:.2f}", f"{size_bytes / 1e6 / median:.0f}")
    console = Console()
    console.print(table)
    for direction in ("up", "down"):
        serial, parallel = (
            statistics.median(secs[f"{direction}, {way}"])
            for way in ("one after the other", "side by side")
        )
        console.print(
            f"{direction}: {serial / parallel:.2f} times as fast side by side"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=128)
    parser.add_argument("--latency-secs", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=3)
    settings = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "helpers.fake_gcs"]
    with (
        tempfile.NamedTemporaryFile() as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment
        ) as server,
    ):
        try:
            url = next(iter(server.stdout or ())).strip()
            os.environ["STORAGE_EMULATOR_HOST"] = url
            os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
            size = settings.megabytes * 10**6
            for begin in range(0, size, 10**6):
                file.write(os.urandom(min(10**6, size - begin)))
            file.flush()
            slow_down(url, "POST /upload|alt=media", settings.latency_secs)
            show(measure(file.name, settings.rounds), size)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
