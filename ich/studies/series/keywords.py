"""Interprets the words in a header: part of the body, kernel, contrast, kind of image.

People type descriptions in their own language. English, German, French, Spanish, Portuguese and Italian are
known. Only whole words count, so *cap* (chest, abdomen, pelvis) is not found in *capo*. An asterisk stands
for any following letters, so ``crani*`` matches *cranial*, *cranio* and *craniano*.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_MANY = 4096  # texts that are kept: those of a series' files are mostly the same


@lru_cache(_MANY)
def simplify(text: str) -> str:
    """Returns a text in lower case without accents; signs other than plus and slash become spaces."""
    folded = unicodedata.normalize("NFKD", text.lower().replace("ß", "ss"))
    bare = "".join(c for c in folded if not unicodedata.combining(c))
    spaced = re.sub(r"[^a-z0-9+/]+", " ", bare)
    return re.sub(r"(?<=[a-z]{3})(?=\d)|(?<=\d)(?=[a-z]{3})", " ", spaced).strip()


class Words:
    """Words with one meaning.

    Args:
        *words: Words between commas; a word of several parts counts only as a whole.
    """

    def __init__(self, *words: str) -> None:
        listed = [word.strip() for some in words for word in some.split(",")]
        either = "|".join(re.escape(word).replace(r"\*", "[a-z]*") for word in listed)
        self._pattern = re.compile(rf"(?<![a-z0-9])(?:{either})(?![a-z0-9])")

    def find(self, text: str) -> str:
        """Finds the first of the words in a text; empty if there is none."""
        found = self._pattern.search(simplify(text))
        return found[0] if found else ""

    def remove(self, text: str) -> str:
        """Removes the words from a text."""
        return self._pattern.sub(" ", simplify(text))


HEAD = Words(
    "head*, brain*, skull*, cereb*, crani*, neuro*, encephal*, stroke*, hct, ncct",
    "kopf*, schadel*, schaedel*, hirn*, gehirn*, cct, ccct, crane*, tete, cerveau",
    "cabeza, cabeca, encefal*, testa, capo",
)
OTHER_PART = Words(
    # Parts of the head. A scan of one does not show the whole brain.
    "face, facial*, faces, orbit, orbits, orbita, orbitas, orbite*, orbital*, sinus, sinuses, pns, nnh",
    "temporal*, petro*, petrous, mastoid*, felsenbein*, rocher*, penasco*, inner ear, iac, ear, ohr",
    "maxill*, mandib*, dental*, jaw, kiefer*, tmj, pituitar*, hypophys*, sella, nase*, nasal*",
    "headneck, neck, hals*, cou, cuello, pescoco, collo, carotid*, larynx, cervical*, cervico*",
    "spine, cspine, tspine, lspine, sspine, spinal*, hws, bws, lws, wirbel*, rachis, columna, coluna",
    "colonna, vertebr*, lumb*, thora*, torax, torace, chest, lung*, pulm*, poumon*, heart, cardia*",
    "coronary, coronari*, aort*, abdom*, bauch*, pelvi*, becken*, bassin, bacino, cap, tap, liver, leber",
    "kidney*, renal*, uro*, kub, colon, pancrea*, hip, hips, huft*, femur*, femor*, knee*, knie*, tibia*",
    "ankle*, foot, feet, fuss*, leg, legs, hand, wrist*, elbow*, shoulder*, schulter*, humer*, arm",
    "extremit*, genou*, hanche*, epaule*, cheville*, rodilla*",
    "cadera*, hombro*, joelho*, quadril, ombro*, ginocchi*, anca, spalla*",
)
WHOLE_BODY = Words("whole body, wholebody, ganzkorper*, polytrauma*")
BONE = Words(
    "bone*, bony, sharp*, knochen*, os, osseu*, osse*, hueso*, oseo*, osea*, osso, ossi, ossa, osteo*"
)
SOFT = Words(
    "soft*, brain*, cereb*, std, standard, weich*, hirn*, parenchym*, tissu*, mou, mous, blando*, blanda*",
    "moles, molli",
)
LOCALIZER = Words("scout*, topogram*, topo, localiz*, localis*, lokali*, surview*, scano*, pilot, ubersicht*")
DOSE = Words("dose*, dosis*, dosim*, patient protocol, protocole patient, patientenprotokoll")
RENDERED = Words(
    "mip, minip, maxip, 3d, vrt, vr, ssd, mpvr, render*, screen save, subtract*, dsa, fusion, overlay",
    "cbf, cbv, mtt, ttp, tmax, rcbf, rcbv, perf*, iodine*, iodmap, vnc, eff z, material*",
)
REFORMATTED = Words("mpr, reformat*, reformed, rekon*, reconstructed plane")
NOT_AXIAL = Words("cor, coronal*, koronar*, coronale*, sag, sagit*, sagg*, frontal*, oblique")

_NOT = "without, w/o, wo, non, no, sans, ohne, sin, sem, senza, s/, pre, before, vor, avant"
_MEDIUM = ("contrast*", "kontrast*", "contr", "km", "mdc", "iv", "inject*", "enhanc*", "c")
WITHOUT = Words(
    *(f"{word.strip()} {medium}" for word in _NOT.split(",") for medium in _MEDIUM),
    "noncontrast*, noncon, ncct, nect, unenhanced, plain, nativ*, basal*, blanco",
    "without, w/o, wo, ohne, sans, senza, sem, sin, s/c, smdc",
)
CONTRAST = Words(
    "contrast*, kontrast*, km, mdc, c+, +c, cect, iv, inject*, inyect*, iniett*, enhanc*, bolus, monitoring",
    "angio*, cta, ctv, ctp, perf*, venogra*, arterial*, arteri*, venous, venos*, veneu*, veineu*, portal*",
)
_CONVERTED = Words("enhanced conversion")
"""Words that highdicom adds to a description when it joins many files into one; they describe the file."""

_WITH = Words("with, w, avec, mit, con, com")


def tell_contrast(text: str) -> bool | None:
    """Whether a text says with or without contrast medium; None if it says neither or both."""
    text = _CONVERTED.remove(text)
    rest = WITHOUT.remove(text)
    if not WITHOUT.find(text):
        return True if CONTRAST.find(text) else None
    return None if CONTRAST.find(rest) or _WITH.find(rest) else False


# Siemens names a kernel by its purpose and sharpness (H30s, Hr40f, J40s, B70f), Canon by a number.
_SIEMENS, _CANON = re.compile(r"[A-Z][a-z]?(\d\d)[a-z]*"), re.compile(r"FC(\d\d)")
_SHARP_FROM = 50  # of Siemens: soft tissue up to 48, bone from 60
_SHARP_TENS = (3, 5, 8)  # of Canon: inner ear, lung, bone; 2 is a head, 0, 1, 4 and 6 soft tissue
_SHARP = frozenset(("BONE", "BONEPLUS", "BONE+", "EDGE", "LUNG", "DETAIL", "ULTRA")) | frozenset(  # GE
    ("C", "D", "E", "EB", "EC", "UD", "L", "YA", "YB", "YC", "YD", "YE")  # Philips
)
_SMOOTH = frozenset(("STANDARD", "STND", "SOFT", "SMOOTH", "A", "B", "EA", "SA", "SB", "UA", "UB", "UC"))


def is_sharp(kernel: str, description: str) -> bool | None:
    """Whether a series has a bone kernel rather than a soft-tissue kernel.

    The vendors' names of kernels decide, or the words of the description if the name is unknown.

    Args:
        kernel: ConvolutionKernel; only its first value counts.
        description: SeriesDescription.

    Returns:
        None if neither shows it.
    """
    name = kernel.partition("\\")[0].strip()
    if name.upper() in _SHARP | _SMOOTH:
        return name.upper() in _SHARP
    if found := _CANON.match(name.upper()):
        return int(found[1]) // 10 in _SHARP_TENS
    if found := _SIEMENS.fullmatch(name):
        return int(found[1]) >= _SHARP_FROM
    for text in (name, description):
        if SOFT.find(text) or BONE.find(text):
            return not SOFT.find(text)
    return None
