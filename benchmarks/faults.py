"""Long runs that count what happens after faults.

    python benchmarks/faults.py files --count 100000     # mutated DICOM files, twenty minutes on a core
    python benchmarks/faults.py bombs                     # small files that need much time or memory
    python benchmarks/faults.py kills --count 50          # trainings that are killed and resume
    python benchmarks/faults.py sigterm --count 20        # trainings that are stopped by a signal
    python benchmarks/faults.py disk --count 20           # saves to a full or closed disk

Each subcommand prints its counts, and exits with 1 if one is not as expected.
"""

import argparse
import sys

import faults_bombs
import faults_files
import faults_training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    faults_files.add_command(commands)
    faults_bombs.add_command(commands)
    faults_training.add_training(commands)
    args = parser.parse_args()
    sys.exit(0 if args.run(args) else 1)


if __name__ == "__main__":
    main()
