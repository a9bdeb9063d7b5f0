#!/usr/bin/env python3
"""Records what `treering demo` prints as a picture: docs/session.py [TREERING] > docs/session.svg

The middle of the long table is left out; all else is the program's own output, colours included. The picture is text in
the reader's own monospaced font.
"""

import re
import subprocess
import sys
from html import escape

SIZE, LINE, CHAR, PAD = 14, 19, 8.43, 18
STYLES = {"1": "b", "2": "d", "31": "r", "32": "g", "33": "y"}
CSS = f"""
text {{ font: {SIZE}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d8dee4; white-space: pre }}
.b {{ font-weight: bold; fill: #fff }} .d {{ fill: #8b949e }}
.r {{ fill: #ff7b72 }} .g {{ fill: #7ee787 }} .y {{ fill: #e3b341 }}
"""
ANSI = re.compile(r"\x1b\[([\d;]*)m")


def shortened(lines):
    """The rows of the training's table, but for the first three and the last three."""
    rows = [n for n, line in enumerate(lines) if re.match(r"demo@\d+ +\d+\.\d+ ", ANSI.sub("", line))]
    gap = rows[3:-3]
    return [("..." if gap and n == gap[0] else line) for n, line in enumerate(lines) if n not in gap[1:]]


def spans(line):
    """The line as SVG, its escapes as classes."""
    out, classes = [], ""
    for n, part in enumerate(ANSI.split(line)):
        if n % 2:
            classes = " ".join(STYLES[code] for code in part.split(";") if code in STYLES)
        elif part:
            out.append(f'<tspan class="{classes}">{escape(part)}</tspan>' if classes else escape(part))
    return "".join(out)


def picture(lines):
    width = round(max(len(ANSI.sub("", line)) for line in lines) * CHAR) + 2 * PAD
    height = len(lines) * LINE + 2 * PAD
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    yield f"<title>treering demo</title><style>{CSS}</style>"
    yield f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>'
    for n, line in enumerate(lines):
        yield f'<text x="{PAD}" y="{PAD + n * LINE + SIZE}" xml:space="preserve">{spans(line)}</text>'
    yield "</svg>"


def main(program="target/release/treering"):
    demo = subprocess.run([program, "demo", "--color", "always"], capture_output=True, text=True, check=True)
    lines = ["\x1b[32m$\x1b[0m treering demo", *demo.stdout.strip("\n").split("\n")]
    print("\n".join(picture(shortened(lines))))


main(*sys.argv[1:])
