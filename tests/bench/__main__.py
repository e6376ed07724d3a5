"""`make bench`: every speed and size that is promised, beside its floor, in one run. `--quick` takes a tenth of the time.

A table, then one line of JSON. Exit status 1: something is below its bar.
"""

import argparse
import asyncio
import os
import platform
import sys
import time

from rich.console import Console
from rich.table import Table

from attestd.strict import canonical
from tests.bench import controller, fleet, governance, inside, log, measured, processes, verifier
from tests.bench.measure import Results, Row
from tests.host import Host

_MARKS = {True: "[green]✓[/]", False: "[red]✗[/]", None: ""}


def show(results: Results, seconds: float) -> None:
    table = Table(title=f"attestd bench, {seconds:.0f} s: medians, each in turns with its floor")
    for column in ("what", "measured", "bar", "", "against"):
        table.add_column(column, justify="right" if column in ("measured", "bar") else "left")
    for row in results.rows:
        table.add_row(row.what, _number(row.value, row.unit), _bar(row), _MARKS[row.reached], row.against)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, of which a busy loop got {results.share:.0f} %"
        " of one: where that is below 100, others used the machine, and rates and times are worse by about as much."
    )


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:,.1f} {unit}"


def _bar(row: Row) -> str:
    return "" if row.bar is None else f"{'≤' if row.at_most else '≥'} {_number(row.bar, row.unit)}"


def as_json(results: Results) -> bytes:
    rows = [
        {
            "what": row.what,
            "milli": round(row.value * 1000),
            "unit": row.unit,
            "bar_milli": None if row.bar is None else round(row.bar * 1000),
            "reached": row.reached,
        }
        for row in results.rows
    ]
    return canonical({"v": 1, "core_share_percent": round(results.share), "rows": rows})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a tenth of the log")
    results, began = Results(parser.parse_args().quick), time.monotonic()
    with Host.create() as host:
        processes.executions(host, results)
        asyncio.run(inside.measure(host, results))
    with (
        Host.create() as host
    ):  # whose log has no allows that nobody handed over: a start would make them void
        asyncio.run(log.append(host, results))
        log.verify(host, results)
        processes.start(host, results)
    measured.measure(results)
    governance.measure(results)
    controller.measure(results)
    verifier.measure(results)
    fleet.measure(results)
    show(results, time.monotonic() - began)
    print(as_json(results).decode())
    return 0 if all(row.reached is not False for row in results.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
