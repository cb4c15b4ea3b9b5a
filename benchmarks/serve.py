"""The service under load.

    python benchmarks/serve.py receive --associations 50 --studies 50   # objects a second, beside storescp
    python benchmarks/serve.py hostile                                  # a good sender among hostile peers

Senders are DCMTK's storescu, so DCMTK has to be installed. All traffic stays on this machine.
"""

import argparse
import os

import serve_hostile
import serve_receive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve_receive.add_command(commands)
    serve_hostile.add_command(commands)
    arguments = parser.parse_args()
    print(f"load over a minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    arguments.run(arguments)


if __name__ == "__main__":
    main()
