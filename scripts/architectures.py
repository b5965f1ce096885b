"""Print the table of all architectures, or measure what it says of size and work.

python scripts/architectures.py              print it
python scripts/architectures.py --measure    count parameters and multiply-accumulates anew (minutes), then print
"""

from __future__ import annotations

import argparse
import json
import sys

from archbench import architecture_table
from archbench.artifacts import write_json, write_text
from archbench.command_line import run


def main(argv: list[str] | None = None) -> int:
    """Measure if asked to, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="build every architecture and count anew")
    arguments = parser.parse_args(argv)
    if arguments.measure:
        _measure()
    print(architecture_table.text_table())
    return 0


def _measure() -> None:
    found = {}
    for name in architecture_table.names():
        found[name] = architecture_table.measure(name)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    write_json(architecture_table.MEASURED, found)
    known = architecture_table.timm_models()
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in known.items())
    write_text(architecture_table.TIMM_MODELS, f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    run(main)
