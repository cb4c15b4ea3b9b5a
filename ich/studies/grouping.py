"""Groups files by study, and finds their problems."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap

import numpy as np
import pandas as pd
from pydicom.uid import MediaStorageDirectoryStorage

from ich.index.names import SLICE_SUFFIXES, is_archive, may_be_dicom, read_head
from ich.schema.codes import InputRefusal, Note, Reason, Refusal
from ich.schema.results import Remark
from ich.studies.joining import join_slices
from ich.studies.listing import Listing
from ich.studies.reading import FILE_DTYPES, Files, hash_content, looks_like_text
from ich.studies.study import Identity, Studies
from ich.studies.unpacking import Refused
from ich.tables import split_name

_DETAILS: dict[Reason | Note, str] = {
    Reason.MISSING_FILE: "images that a DICOMDIR names and that are not there: {}",
    Reason.STRAY_FILE: "damaged files beside those of the study that do not say whose they are: {}",
    Reason.CONFLICTING_COPIES: "SOPInstanceUIDs that files of different contents share: {}",
    Reason.MIXED_PATIENTS: "PatientIDs in one study: {}",
    Note.STUDY_EACH: "slices of one series that each named a study of their own: {}",
}


@dataclass
class _Strays:
    """Counts of files that may have been slices but do not name their series."""

    by_folder: Counter[str] = field(default_factory=Counter)
    by_study: Counter[str] = field(default_factory=Counter)


def group_files(files: Files, listing: Listing) -> tuple[Studies, list[Refused]]:
    """Groups files by study.

    Args:
        files: Content of ``listing.files``, in their order.
        listing: Origin of the files.

    Returns:
        The studies in order of StudyInstanceUID, and files that belong to none.
    """
    listed = [listing.files[number] for number in files.numbers]
    table = files.table.assign(
        place=[file.folder for file in listed],
        shown=[file.shown for file in listed],
        name=[file.name for file in listed],
    )
    is_owned = (table["StudyInstanceUID"] != "") & (table["SeriesInstanceUID"] != "")
    others = table[~is_owned & (table["SOPClassUID"] != MediaStorageDirectoryStorage)]
    strays = _count_strays(others, listing)
    whole, conflicts = _drop_copies(table[is_owned])
    whole, joined = join_slices(whole)
    missing = _find_missing(listing, {split_name(name)[0] for name in whole["SOPInstanceUID"]})
    codes, uids = pd.factorize(whole["StudyInstanceUID"], sort=True)
    order = np.argsort(codes, kind="stable")
    whole, starts = whole.iloc[order], np.searchsorted(codes[order], np.arange(len(uids) + 1))
    columns = [whole[c].to_list() for c in ("SOPInstanceUID", "file_size", "digest", "PatientID", "place")]
    identities: list[Identity] = []
    for uid, start, stop in zip(map(str, uids), starts[:-1], starts[1:], strict=True):
        names, sizes, digests, patients, places = (column[start:stop] for column in columns)
        count = len(set(patients))
        counts: dict[Reason | Note, int] = {
            Reason.MISSING_FILE: len(missing.get(uid, ())),
            Reason.STRAY_FILE: strays.by_study[uid] + sum(strays.by_folder[f] for f in set(places)),
            Reason.CONFLICTING_COPIES: conflicts[uid],
            Reason.MIXED_PATIENTS: count if count > 1 else 0,
            Note.STUDY_EACH: joined[uid],
        }
        remarks = tuple(Remark(code, _DETAILS[code].format(n)) for code, n in counts.items() if n)
        marks = sorted(zip(names, sizes, digests, strict=True))
        identities.append(_identify(uid, marks, patients, remarks))
    lost = missing.keys() - set(uids)
    studies = Studies(whole[list(FILE_DTYPES)], starts, identities)
    return studies, [*_list_refused(others), *_list_lost(missing, lost)]


def _list_refused(others: pd.DataFrame) -> list[Refused]:
    columns = (others[column].to_list() for column in ("path", "shown", "code", "detail"))
    return list(starmap(_refuse, zip(*columns, strict=True)))


def _list_lost(missing: Mapping[str, list[str]], lost: Collection[str]) -> list[Refused]:
    """Lists the files of studies that a DICOMDIR names but that have no file."""
    detail = "a DICOMDIR names it, but no file of its study exists"
    return [(path, InputRefusal.MISSING_FILE, detail) for uid in lost for path in missing[uid]]


def _refuse(path: str, shown: str, code: str, detail: str) -> Refused:
    """Says why a file belongs to no study; an archive is reported as one, whatever its name."""
    if code == Refusal.NOT_DICOM and is_archive(read_head(path)):
        detail = "is an archive, by its first bytes: name this file itself, or unpack it"
        return shown, str(Refusal.ARCHIVE), detail
    return shown, code, detail


def _find_missing(listing: Listing, instances: set[str]) -> dict[str, list[str]]:
    """Lists the expected places of images in a DICOMDIR, by study, without those found elsewhere."""
    return {
        study: paths
        for study, images in listing.missing.items()
        if (paths := [image.path for image in images if image.instance not in instances])
    }


def _count_strays(others: pd.DataFrame, listing: Listing) -> _Strays:
    """Counts the files that belong to no series but may have been slices."""
    strays = _Strays(Counter(listing.strays))
    columns = ("path", "name", "place", "code", "StudyInstanceUID")
    for path, name, place, code, study in zip(*(others[c].to_list() for c in columns), strict=True):
        if owner := study or listing.named.get(path, ""):
            strays.by_study[owner] += 1
        elif _may_have_been_slice(path, name, code):
            strays.by_folder[place] += 1
    return strays


def _may_have_been_slice(path: str, name: str, code: str) -> bool:
    """Whether a file without a study may have been a slice.

    It was not a slice if it is a device, has the name of another kind of file, or is text without the name of
    a slice.
    """
    if code == Refusal.NOT_FILE or not may_be_dicom(name):
        return False
    return code != Refusal.NOT_DICOM or name.lower().endswith(SLICE_SUFFIXES) or not looks_like_text(path)


def _drop_copies(table: pd.DataFrame) -> tuple[pd.DataFrame, Counter[str]]:
    """Keeps one file of each SOPInstanceUID within a study.

    Returns:
        The files, and for each study the number of SOPInstanceUIDs with several contents, even if the other
        file is in another study. Among several contents, a readable slice is kept, the first by its hash.
    """
    is_copy = (table["SOPInstanceUID"] != "") & table["SOPInstanceUID"].duplicated(keep=False)
    copies = table[is_copy]
    copies = copies.assign(refused=copies["code"] != "", hash=[hash_content(path) for path in copies["path"]])
    keys = ["StudyInstanceUID", "SOPInstanceUID"]
    contents = copies.groupby("SOPInstanceUID")["hash"].transform("nunique")
    differ = copies[contents > 1].drop_duplicates(keys)
    kept = copies.sort_values([*keys, "refused", "hash", "path"]).drop_duplicates(keys)
    whole = pd.concat([table[~is_copy], kept[table.columns]])
    order = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "digest"]
    return whole.sort_values(order, ignore_index=True), Counter(differ["StudyInstanceUID"].to_list())


def _identify(
    uid: str, marks: Sequence[tuple[str, int, str]], patients: Sequence[str], remarks: tuple[Remark, ...]
) -> Identity:
    """Identifies a study by its files: their SOPInstanceUIDs, sizes and digests."""
    counts = Counter(patients)
    patient = min(counts, key=lambda name: (-counts[name], name))
    fingerprint = hashlib.sha256(repr((uid, marks, remarks)).encode()).hexdigest()
    return Identity(uid, patient, remarks, fingerprint)
