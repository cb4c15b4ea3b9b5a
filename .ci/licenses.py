"""Refuses a GPL or AGPL in the default install of this package: all that it requires, without extras.

python .ci/licenses.py [PACKAGE]    reads the metadata of what is installed beside the running Python

The LGPL and licenses that only name the GPL as one of several to choose from are let through. What states no
license at all has to be looked up by a person and listed in ``LOOKED_UP``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOOKED_UP = {
    "cuda-toolkit": "NVIDIA's license for CUDA; the package is empty and names others",  # 2026-11, of torch
}

COPYLEFT = re.compile(r"(?<![\w-])A?GPL|(?<!Lesser )General Public License|Affero", re.IGNORECASE)


def list_required(name: str) -> Iterator[Distribution]:
    """Yields a package and, once each, all that it requires on this machine."""
    seen, waiting = set[str](), [name]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        package = distribution(name)
        yield package
        requirements = map(Requirement, package.requires or ())
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


def read_license(package: Distribution) -> str:
    """What the metadata of a package says of its license; empty where it says nothing.

    ``License`` may hold the whole text of a license, whose later lines name others.
    """
    fields = package.metadata
    classifiers = [c for c in fields.get_all("Classifier", []) if c.startswith("License ::")]
    first_line = (fields.get("License") or "").strip().partition("\n")[0]
    return "; ".join(filter(None, [fields.get("License-Expression"), first_line, *classifiers]))


def is_refused(terms: str) -> bool:
    """Whether no choice is left but the GPL or AGPL."""
    return all(COPYLEFT.search(choice) for choice in re.split(r"\bOR\b", terms))


def find_faults(name: str) -> list[str]:
    """One line for each package that may not be there."""
    faults = []
    for package in list_required(name):
        known = canonicalize_name(package.name)
        terms = read_license(package) or LOOKED_UP.get(known, "")
        if not terms:
            faults.append(f"{known} {package.version} states no license: look it up and list it in LOOKED_UP")
        elif is_refused(terms):
            faults.append(f"{known} {package.version} is under {terms}")
    return faults


def main() -> None:
    """Prints what is wrong, and then exits with 1."""
    try:
        faults = find_faults(sys.argv[1] if len(sys.argv) > 1 else "ich")
    except PackageNotFoundError as error:
        sys.exit(f"{error.name} is required and not installed beside this Python")
    if faults:
        sys.exit("\n".join(faults))
    print("no GPL or AGPL in the default install")


if __name__ == "__main__":
    main()
