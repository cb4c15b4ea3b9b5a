"""The service under load.

    python benchmarks/serve.py receive --associations 50 --studies 50   # objects a second, beside storescp
    python benchmarks/serve.py hostile                                  # a good sender among hostile peers
    python benchmarks/serve.py latency --studies 20                     # last slice to report, and the rate
    python benchmarks/serve.py kills --kills 100                        # kill -9 of its processes under load

Senders are DCMTK's storescu, so DCMTK has to be installed. All traffic stays on this machine.
"""

import argparse
import os

import serve_hostile
import serve_kills
import serve_reading
import serve_receive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for part in (serve_receive, serve_hostile, serve_reading, serve_kills):
        part.add_command(commands)
    arguments = parser.parse_args()
    print(f"load over a minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    arguments.run(arguments)


if __name__ == "__main__":
    main()
