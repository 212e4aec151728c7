"""What the lease file says.

record = LeaseRecord.from_bytes(storage.read_bytes(LEASE_FILE))
record.holder
"""

from __future__ import annotations

import dataclasses
import json

from resumable_tf.checkpoint.holder import Holder
from resumable_tf.checkpoint.manifest import CHECKSUM, check_seal, parse_json, seal


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
        fields = {"format_version": 1, **dataclasses.asdict(self)}
        text = json.dumps(seal(fields), indent=2, sort_keys=True)
        return (text + "\n").encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> LeaseRecord:
        """Reads the file's contents.

        Raises:
            ValueError: If they are not a lease's.
        """
        fields = parse_json(data)
        try:
            if CHECKSUM in fields:  # Leases had none before.
                check_seal(fields)
            return cls(
                token=str(fields["token"]),
                num_renewals=int(fields["num_renewals"]),
                renewed=float(fields["renewed"]),
                ttl_secs=float(fields["ttl_secs"]),
                holder=Holder.from_json(fields["holder"]),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"no lease: {error!r}") from error
