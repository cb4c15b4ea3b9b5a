"""The sections of the service's settings. Each field's docstring is its comment in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval, MaxLen, MinLen

from ich.files import MODES
from ich.schema.formats import Expected

Port = Annotated[int, Interval(ge=1, le=65535), Expected("a port from 1 to 65535")]
Seconds = Annotated[float, Interval(ge=0, le=1e8), Expected("a number of seconds from 0")]
Several = Annotated[int, Interval(ge=1, le=10**6), Expected("a whole number from 1")]
Mode = Annotated[
    str,
    Expected(
        'permissions in quotes, such as "640": 6 for the owner; 0, 4 or 6 for the group; 0 or 4 for others',
        pattern=f"^{MODES}$",
    ),
]
Title = Annotated[str, MinLen(1), MaxLen(16), Expected("an AE title of 1 to 16 characters")]
Name = Annotated[str, Expected("a name of letters, digits, - and _", pattern=r"^[A-Za-z0-9_-]{1,64}$")]


@dataclass(frozen=True)
class Tls:
    """Encryption of a connection."""

    certificate: str
    """PEM file with the own certificate."""
    key: str
    """PEM file with its private key."""
    authority: str | None = None
    """PEM file with the certificates that peers must have; null asks for none."""


@dataclass(frozen=True)
class Peer:
    """A sender that is allowed."""

    ae_title: Title
    """Its AE title."""
    addresses: tuple[str, ...] = ()
    """Its IP addresses or networks, such as 10.0.0.0/8; none for any."""


@dataclass(frozen=True)
class Receive:
    """How studies come in over DICOM."""

    ae_title: Title = "ICH"
    """The own AE title."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all."""
    port: Port = 11112
    """Port to listen at."""
    tls: Tls | None = None
    """Encryption; null for none."""
    peers: tuple[Peer, ...] = ()
    """Senders that are allowed; none for all."""
    folders: tuple[str, ...] = ()
    """Folders whose files are taken in too."""
    most_object_mb: Several = 256
    """Largest object, MB."""
    most_objects: Several = 5000
    """Most objects of a study."""
    most_associations: Several = 100
    """Most associations at a time."""
    most_associations_of_a_peer: Several = 25
    """Most associations of one address at a time."""
    idle_seconds: Seconds = 30
    """An association that is silent for so long is ended."""
    least_free_gb: Annotated[float, Interval(ge=0, le=1e6)] = 2.0
    """With less room on the disk, objects are refused until there is more."""


@dataclass(frozen=True)
class Complete:
    """When a study is complete."""

    quiet_seconds: Seconds = 30
    """It is complete when no object came for so long and no association that brings it is open."""
    longest_seconds: Seconds = 900
    """It is read so long after its first object, even if objects still come."""


@dataclass(frozen=True)
class Read:
    """How studies are read."""

    workers: Annotated[int, Interval(ge=1, le=64)] = 1
    """Processes that read, a study at a time each."""
    spare: bool = True
    """Keeps a process that has imported PyTorch, for a reader that ends. It takes 350 MB of memory."""
    threads: Annotated[int, Interval(ge=1, le=1024)] | None = None
    """Threads of a process; null leaves it to PyTorch."""
    gpus: Annotated[int, Interval(ge=0, le=64)] | None = None
    """0 for the CPU; null takes a GPU if there is one."""
    engine: str | None = None
    """File of `ich doctor --tune` or `ich quantize` for the model, by which the CPU computes it; null for
    PyTorch in 32 bits."""
    most_kills: Several = 2
    """A study that ended so many processes is set aside."""
    shadow: str | None = None
    """A second model whose results go to the log only; null for none."""
    most_minutes: Annotated[float, Interval(gt=0, le=1e5)] = 30
    """A reader that is silent for so long is ended."""


@dataclass(frozen=True)
class Rules:
    """Which studies are not read although they look like heads."""

    words: tuple[str, ...] = (
        "phantom*",
        "qa",
        "qc",
        "quality assurance",
        "quality control",
        "daily check*",
        "calibrat*",
        "konstanzprufung*",
        "konstanzpruefung*",
        "catphan*",
        "test scan*",
    )
    """Words in a description that mark a scan of a phantom or a check of the scanner; * stands for any
    letters, and accents do not count."""


@dataclass(frozen=True)
class Node:
    """Where answers go."""

    name: Name
    """Its name in logs and pages."""
    kind: Literal["dicom", "stow", "webhook", "hl7", "fhir"]
    """How it takes answers."""
    address: str
    """HOST:PORT of a DICOM or HL7 node, or the URL of the others."""
    ae_title: Title | None = None
    """AE title of a DICOM node."""
    what: Annotated[tuple[Literal["sr", "sc"], ...], MinLen(1)] = ("sr", "sc")
    """What a dicom or stow node gets: the structured report, key images, or both."""
    outcomes: tuple[Literal["POSITIVE", "NEGATIVE", "INDETERMINATE"], ...] = (
        "POSITIVE",
        "NEGATIVE",
        "INDETERMINATE",
    )
    """Outcomes that are sent."""
    shows_identity: bool = False
    """Whether a webhook names the PatientID."""
    commitment: bool = False
    """Asks a DICOM node to confirm that it keeps the objects."""
    commitment_minutes: Annotated[float, Interval(gt=0, le=1e6)] = 60
    """Without its confirmation for so long, the objects are sent again."""
    tls: Tls | None = None
    """Encryption of DICOM and HL7, null for none; certificates for a URL with https, null for the usual."""
    secret_file: str | None = None
    """File with the secret that signs a webhook, or with the bearer token of a stow or fhir node."""
    give_up_hours: Annotated[float, Interval(gt=0, le=1e6)] | None = None
    """Stops trying after so many hours; null for never."""


@dataclass(frozen=True)
class Web:
    """The pages."""

    host: str = "127.0.0.1"
    """Address to listen at."""
    port: Port = 8042
    """Port to listen at."""
    tls: Tls | None = None
    """Encryption; null for none, such as behind a reverse proxy."""
    user_header: str | None = None
    """Header in which a reverse proxy names the user; null for accounts of the service's own."""
    proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    """IP addresses or networks of reverse proxies whose header counts."""
    user_roles: Mapping[str, Literal["view", "judge", "administer"]] = field(default_factory=dict)
    """Roles of users whom the proxy names, such as {alice: administer, bob: judge}."""
    user_role: Literal["view", "judge", "administer"] | None = "view"
    """Role of the other users whom the proxy names; null refuses them."""
    shows_identity: bool = False
    """Whether pages show PatientID and StudyDate."""
    session_hours: Annotated[float, Interval(gt=0, le=1e4)] = 12
    """A session that is not used for so long ends."""


@dataclass(frozen=True)
class Upkeep:
    """What the service deletes and reports."""

    keep_days: Annotated[float, Interval(gt=0, le=1e5)] | None = None
    """Deletes pixels after so many days and keeps results; null keeps all."""
    log_days: Annotated[float, Interval(gt=0, le=1e5)] = 365
    """Moves events of the audit log from the database to files after so many days."""
    alarm_url: str | None = None
    """URL that alarms are posted to; null for none."""
    alarm_secret_file: str | None = None
    """File with the secret that signs what is posted; null for no signature."""
    alarm_studies: Several = 100
    """Number of the newest studies that drift is measured on."""
    stall_minutes: Annotated[float, Interval(gt=0, le=1e5)] = 15
    """Raises an alarm when studies wait and none was read for so long."""
    stall_send_hours: Annotated[float, Interval(gt=0, le=1e5)] = 4
    """Raises an alarm when an answer waits for a node for so long."""
    metrics_from: tuple[str, ...] = ("127.0.0.1", "::1")
    """IP addresses or networks that may see the metrics, without a session and not through a proxy."""
