"""``ich shard``: slices and labels in a few large files."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from ich.cli.options import add_columns, add_index_dir, join_columns
from ich.remote import parse_path
from ich.schema import DISCLAIMER, UserError
from ich.schema.labels import RSNA_LABELS, LabelSet


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "shard",
        help=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Writes the slices of a data set in Hounsfield units, with their labels, to a few large files. A training
reads them faster than many small files, above all from an object store. It draws the same slices in the
same order as from the files, so its figures are the same, and so is an exact resume.""",
        epilog=f"""\
examples:
  ich shard /data/rsna /fast/shards              then: ich train data=shards data.root=/fast/shards
  ich shard /data/rsna s3://bucket/shards        needs pip install 'ich[remote]'
  ich shard s3://bucket/rsna /fast/shards        the files may be in an object store, too
  ich shard /data/rsna /fast/shards --size 224   a fifth of the bytes, only for input.size=224

If it is interrupted, the same call continues. DESTINATION holds images and PatientIDs (see --pseudonyms):
give nobody access who must not see them. It is in litdata's format, so litdata.StreamingDataset reads it.

{DISCLAIMER}.""",
    )
    parser.add_argument(
        "root",
        type=parse_path,
        metavar="ROOT",
        help="folder of DICOM files, or an address such as s3://bucket/folder",
    )
    parser.add_argument(
        "destination", type=parse_path, metavar="DESTINATION", help="new folder, or an address of one"
    )
    parser.add_argument(
        "--labels", type=parse_path, metavar="CSV", help="label file (default: the one in ROOT, if any)"
    )
    add_columns(parser)
    parser.add_argument(
        "--names", nargs="+", metavar="LABEL", help="the labels in it, if they are not the RSNA's six"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=0,
        metavar="N",
        help="resize slices to N x N pixels, for trainings with input.size=N (default: as they are)",
    )
    parser.add_argument("--chunk-mb", type=int, metavar="MB", help="size of a file (default: 64)")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of threads, each with two files in memory (default: one per core, at most 8)",
    )
    parser.add_argument(
        "--pseudonyms",
        action="store_true",
        help="keep a keyed hash in place of PatientID, in ROOT's index too",
    )
    add_index_dir(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # It imports torch, which takes seconds, so other commands do not.
    from ich.data.sharding import CHUNK_BYTES, collect_slices, write_shards

    for option, least in (("size", 0), ("chunk_mb", 1), ("workers", 1)):
        if (value := getattr(args, option)) is not None and value < least:
            raise UserError(f"--{option.replace('_', '-')} {value}: expected {least} or more")
    if isinstance(args.root, Path):
        args.root = _find_root(args.root)
    slices = collect_slices(
        args.root,
        labels=args.labels,
        columns=join_columns(args.columns),
        label_set=RSNA_LABELS if args.names is None else LabelSet(args.names, (1.0,) * len(args.names)),
        index_dir=args.index_dir,
        pseudonyms=args.pseudonyms,
        size=args.size,
    )
    labeled = int(slices.table[list(slices.labels)].notna().any(axis=1).sum())
    chunk_bytes = CHUNK_BYTES if args.chunk_mb is None else args.chunk_mb * 1_000_000
    shards = write_shards(slices, args.destination, chunk_bytes=chunk_bytes, workers=args.workers)
    new, codes = sum(shard.is_new for shard in shards), Counter(c for s in shards for c in s.codes.values())
    total = sum(shard.size for shard in shards)
    print(
        f"{len(slices.table) - codes.total()} slices, {labeled} with labels, in {len(shards)} files of "
        f"{total / 1e9:.2f} GB in {args.destination}; {len(shards) - new} files were there"
    )
    for code, count in codes.most_common():
        print(f"  {code} {count}: cannot be read, and left out")
    print(f"train with: ich train data=shards data.root={args.destination}")


def _find_root(given: Path) -> Path:
    """Returns the folder of an index, if the index itself is given."""
    folder = given.parent if given.name == "index.parquet" else given
    return folder.parent if folder.name == ".ich" else given
