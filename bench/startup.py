"""How long a command takes to show its help: FTP beside TRL, alternating, in one run.

    python bench/startup.py [--runs 5] [--json]

Prints the median wall time of each command and the ratio of TRL's to FTP's. Whole processes, measured from outside.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
PAIRS = [
    (["ftp", "--help"], ["trl", "--help"]),
    (["ftp", "run", "--help"], ["trl", "sft", "--help"]),
    (["ftp", "plugins"], ["trl", "env"]),
]


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([BIN / command[0], *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for ours, theirs in PAIRS:
        times: tuple[list[float], list[float]] = ([], [])
        for run in range(options.runs + 1):
            for command, found in zip((ours, theirs), times, strict=True):
                took = seconds(command)
                if run:  # the first warms the file cache
                    found.append(took)
        a, b = (statistics.median(found) for found in times)
        results.append({"ftp": " ".join(ours), "trl": " ".join(theirs), "ftp_s": a, "trl_s": b, "trl_over_ftp": b / a})
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for r in results:
        print(f"{r['ftp']:16} {r['ftp_s']:6.2f} s   {r['trl']:16} {r['trl_s']:6.2f} s   {r['trl_over_ftp']:5.1f}x")


if __name__ == "__main__":
    main()
