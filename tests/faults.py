#!/usr/bin/env python3
"""Counts the rows of docs/DURABILITY.md whose tests pass: faults.py LOG-OF-CARGO-TEST DURABILITY.md"""

import re
import sys

log, page = (open(path, encoding="utf-8").read() for path in sys.argv[1:3])
rows = dict(re.findall(r"^\| (\d+) \| ([^|]+?) \|", page, re.M))
# A test may be named after several rows: f041_f071_what_it_shows.
tests = re.findall(r"^test (?:\S*::)?((?:f\d{3}_)+)\S+ \.\.\. (ok|FAILED|ignored)", log, re.M)
ran = [(row, result) for rows_of, result in tests for row in re.findall(r"\d{3}", rows_of)]
skipped = dict(re.findall(r"^f(\d{3})\S* skipped: (.*)$", log, re.M))
# Some rows cannot be shown at all: the page says why.
skipped |= dict(re.findall(r"^\| (\d+) \| [^|]+ \| skipped: ([^|]+?) \|", page, re.M))
passing, failing, missing = [], [], []
for number, fault in rows.items():
    results = {result for row, result in ran if int(row) == int(number)}
    skip = next((why for row, why in skipped.items() if int(row) == int(number)), None)
    if "FAILED" in results:
        failing.append(number)
        print(f"failing  {number:>4} {fault}")
    elif skip:
        print(f"skipped  {number:>4} {fault}: {skip}")
    elif "ok" in results:
        passing.append(number)
    else:
        missing.append(number)
        print(f"missing  {number:>4} {fault}")
left = len(rows) - len(passing) - len(failing) - len(missing)
print(f"{len(passing)} of {len(rows)} rows pass, {len(failing)} fail, {left} skipped, {len(missing)} have no test yet")
sys.exit(bool(failing))
