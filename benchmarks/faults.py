"""Long runs of faults: what is killed, stopped or short of disk goes on; each section prints its counts.

python benchmarks/faults.py kills --count 50
python benchmarks/faults.py sigterm --count 20
python benchmarks/faults.py disk --count 20
"""

from __future__ import annotations

import argparse

from faults_training import add_training


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = parser.add_subparsers(required=True, metavar="SECTION")
    add_training(sections)
    args = parser.parse_args()
    raise SystemExit(args.run(args))


if __name__ == "__main__":
    main()
