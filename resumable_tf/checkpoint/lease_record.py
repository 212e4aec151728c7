"""What the lease file says.

record = LeaseRecord.from_bytes(storage.read_bytes(LEASE_FILE))
record.holder
"""

from __future__ import annotations

import dataclasses

from resumable_tf.checkpoint.holder import HOLDER, Holder
from resumable_tf.checkpoint.sealed_json import SealedFile
from resumable_tf.storage.schema import COUNT, TIME, Fields, Number, Text

_MAX_TTL_SECS = 3600.0
"""No file makes a process wait for longer."""
_FILE = SealedFile(
    "the lease",
    version=1,
    fields=Fields(
        {
            "token": Text(max_length=64),
            "num_renewals": COUNT,
            "renewed": TIME,
            "ttl_secs": Number(0, _MAX_TTL_SECS),
            "holder": HOLDER,
        }
    ),
    max_bytes=2**16,
)


@dataclasses.dataclass(frozen=True)
class LeaseRecord:
    """What the lease file says.

    Attributes:
        token: Of one taking of the lease; nobody else has it.
        num_renewals: Makes each renewal another version.
        renewed: When, in seconds since 1970 of the holder's clock.
        ttl_secs: How long it lasts without another renewal.
        holder: Who has it.
    """

    token: str
    num_renewals: int
    renewed: float
    ttl_secs: float
    holder: Holder

    def to_bytes(self) -> bytes:
        """Returns the file's contents."""
        return _FILE.to_bytes(dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> LeaseRecord:
        """Reads the file's contents.

        Raises:
            ValueError: If they are not a lease's.
            CheckpointVersionError: If a newer version of this project wrote it.
        """
        fields = _FILE.parse(data)
        return cls(**{**fields, "holder": Holder(**fields["holder"])})
