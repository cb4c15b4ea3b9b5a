"""Tables of the service: what was received, read, sent and judged.

Times are seconds since 1970. A row never holds a patient attribute beyond the UIDs of DICOM; names and dates
are read from the files when they are needed.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

UID = String(64)

studies = Table(
    "studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("token", String(32), nullable=False, unique=True),  # names the study in addresses and logs
    Column("StudyInstanceUID", UID, nullable=False, unique=True),
    Column("state", String(16), nullable=False),  # of StudyState
    Column("reason", Text, nullable=False, default=""),  # why it was set aside, or why it is received again
    Column("priority", Integer, nullable=False, default=0),  # higher is read first
    Column("ranked", Boolean, nullable=False, default=False),  # whether a header was asked for the priority
    Column("generation", Integer, nullable=False, default=1),  # grows with each object that it receives
    Column("objects", Integer, nullable=False, default=0),
    Column("first_at", Float, nullable=False),  # first object since the last reading
    Column("last_at", Float, nullable=False),  # last object
    Column("kills", Integer, nullable=False, default=0),  # readers that ended while they read it
    Column("reader", String(32), nullable=False, default=""),  # the reader that has it now
    Column("claimed_generation", Integer, nullable=False, default=0),
    Column("pixels_deleted", Boolean, nullable=False, default=False),
    Index(None, "state", "priority", "first_at"),
    Index(None, "last_at"),
)

objects = Table(
    "objects",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("studies.id"), nullable=False),
    Column("SOPInstanceUID", UID, nullable=False, unique=True),
    Column("SeriesInstanceUID", UID, nullable=False),
    Column("SOPClassUID", UID, nullable=False),
    Column("syntax", UID, nullable=False),
    Column(
        "digest", String(64), nullable=False
    ),  # SHA-256 of the data set, without the file meta information
    Column("path", String(80), nullable=False),  # below the folder of the inbox
    Column("bytes", Integer, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("association_id", Integer, ForeignKey("associations.id")),
    Index(None, "study_id"),
)

conflicts = Table(  # objects with a UID that another content has already
    "conflicts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("object_id", Integer, ForeignKey("objects.id"), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("path", String(80), nullable=False),
    Column("received_at", Float, nullable=False),
    UniqueConstraint("object_id", "digest"),
)

associations = Table(
    "associations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("receiver", String(64), nullable=False),  # WAY/PROCESS; a new process closes those of the old one
    Column("peer", String(64), nullable=False),  # AE title, address, or number of a watched folder
    Column("opened_at", Float, nullable=False),
    Column("closed_at", Float),
    Index(None, "closed_at"),
)

taken_files = Table(  # files of watched folders that were taken or refused for good
    "taken_files",
    metadata,
    Column(
        "digest", String(64), primary_key=True
    ),  # SHA-256 of path, size and time: a path may name a patient
    Column("taken_at", Float, nullable=False),
)

arrivals = Table(  # which association brings which study
    "arrivals",
    metadata,
    Column("association_id", Integer, ForeignKey("associations.id"), primary_key=True),
    Column("study_id", Integer, ForeignKey("studies.id"), primary_key=True),
    Index(None, "study_id"),
)

readers = Table(  # processes that read
    "readers",
    metadata,
    Column("identity", String(32), primary_key=True),
    Column("model", String(64), nullable=False),  # SHA-256 of the file that it has loaded
    Column("shadow", Boolean, nullable=False, default=False),
    Column("beat_at", Float, nullable=False),  # when it last gave a sign of life
    Index(None, "beat_at"),
)

attempts = Table(  # each time that a reader takes a study
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("studies.id"), nullable=False),
    Column("reader", String(32), nullable=False),
    Column("started_at", Float, nullable=False),
    Index(None, "study_id"),
)

readings = Table(
    "readings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("studies.id"), nullable=False),
    Column("generation", Integer, nullable=False),  # of the study when it was claimed
    Column("shadow", Boolean, nullable=False, default=False),
    Column("model", String(64), nullable=False),  # SHA-256 of the model's file
    Column("number", Integer, nullable=False),  # of the study in its result: that of the attempt
    Column("folder", String(80), nullable=False),  # below the folder of the results
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float, nullable=False),
    Column("outcome", String(16), nullable=False, default=""),
    Column("prob", Float),  # of the label that decides
    Column("distance", Float),  # from the training data, as in the result
    Column("distance_limit", Float),  # above it the study is out of distribution
    Column("last_at", Float),  # when the last of the objects came that were read
    Column("supersedes_id", Integer, ForeignKey("readings.id")),
    UniqueConstraint("study_id", "generation", "shadow", "model"),
    Index(None, "finished_at"),
    Index(None, "supersedes_id"),
)

sends = Table(
    "sends",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("reading_id", Integer, ForeignKey("readings.id"), nullable=False),
    Column("node", String(64), nullable=False),  # name of the target in the settings
    Column("state", String(16), nullable=False),  # of SendState
    Column("sender", String(32), nullable=False, default=""),  # the process that delivers it now
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_at", Float, nullable=False),  # when it is due for another attempt
    Column("created_at", Float, nullable=False),
    Column("sent_at", Float),
    Column("confirmed_at", Float),
    Column("transaction_uid", UID, nullable=False, default=""),  # of a storage commitment
    Column("error", Text, nullable=False, default=""),
    UniqueConstraint("reading_id", "node"),
    Index(None, "state", "next_at"),
    Index(None, "transaction_uid"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("password", String(200), nullable=False),  # argon2
    Column("role", String(16), nullable=False),  # of Role
    Column("created_at", Float, nullable=False),
    Column("disabled", Boolean, nullable=False, default=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the cookie
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    Column("csrf", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Index(None, "seen_at"),
)

judgments = Table(
    "judgments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("reading_id", Integer, ForeignKey("readings.id"), nullable=False),
    Column("account", String(64), nullable=False),
    Column("verdict", String(16), nullable=False),  # of Verdict
    Column("labels", Text, nullable=False, default="{}"),  # JSON: label -> 0 or 1
    Column("slices", Text, nullable=False, default="{}"),  # JSON: SOPInstanceUID -> labels
    Column("judged_at", Float, nullable=False),
    Index(None, "reading_id"),
    Index(None, "judged_at"),
)

events = Table(  # the audit log, and what the counters are made of
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("actor", String(64), nullable=False),  # a process, peer or account
    Column("kind", String(40), nullable=False),
    Column("study", String(32), nullable=False, default=""),  # its token
    Column("detail", Text, nullable=False, default=""),
    Index(None, "at"),
    Index(None, "kind", "at"),
)

alarms = Table(  # an alarm has a row each time that it begins
    "alarms",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("number", Integer, nullable=False),  # how often it began: two processes cannot begin it at once
    Column("detail", Text, nullable=False),
    Column("began_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("began_posted", Boolean, nullable=False, default=False),
    Column("ended_posted", Boolean, nullable=False, default=False),
    UniqueConstraint("name", "number"),
)
