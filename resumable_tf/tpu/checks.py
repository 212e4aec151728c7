"""What is asked before anything is created; nothing here has an effect.

for warning in location_warnings(bucket, zone="us-west4-a"):
    ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resumable_tf.errors import UsageError
from resumable_tf.tpu.accelerators import region_of
from resumable_tf.tpu.gcloud import Gcloud
from resumable_tf.tpu.job_files import image_warnings
from resumable_tf.tpu.jobs import JobSettings, bucket_command, describe_commands

# The multi-regions of Cloud Storage, by how the regions in them begin.
_MULTI_REGIONS = {"US": ("us-",), "EU": ("europe-",), "ASIA": ("asia-",)}


def check_before_create(
    settings: JobSettings, gcloud: Gcloud, *, previous: JobSettings | None = None
) -> list[str]:
    """Returns warnings, after asking Google whether the job can be created.

    Args:
        settings: The job.
        gcloud: Asks.
        previous: The job that was last created with this run directory.

    Raises:
        CloudError: If `gcloud` fails.
        UsageError: If there is no such bucket, or the job, or another one with the same
            run directory, is there already.
    """
    bucket = gcloud.describe(bucket_command(settings))
    if bucket is None:
        raise UsageError(
            f"--run-dir {settings.run_dir}: its bucket does not exist.\n"
            f"Make it where the TPU is: gcloud storage buckets create "
            f"gs://{settings.run_dir.split('/')[2]} "
            f"--location={region_of(settings.zone)} --uniform-bucket-level-access"
        )
    if _is_there(settings, gcloud):
        raise UsageError(
            f"--name {settings.name}: it is there already in {settings.zone}.\n"
            "Use `recreate` if it was preempted, `delete` to begin anew, or another "
            "name."
        )
    if previous is not None and _is_there(previous, gcloud):
        raise UsageError(
            f"--run-dir {settings.run_dir} belongs to {previous.name} in "
            f"{previous.zone}, which is still there.\n"
            "`delete` that one first, or use another run directory."
        )
    return image_warnings(settings) + location_warnings(bucket, zone=settings.zone)


def location_warnings(bucket: Mapping[str, Any], *, zone: str) -> list[str]:
    """Returns a warning if a bucket is not where a zone is.

    Args:
        bucket: What `gcloud storage buckets describe` says.
        zone: The TPU's zone.
    """
    location = str(bucket.get("location", ""))
    region = region_of(zone)
    places = [location, *bucket.get("data_locations", [])]
    if any(place.lower() == region for place in places):
        return []
    if region.startswith(_MULTI_REGIONS.get(location.upper(), ("-",))):
        return []
    return [
        f"the bucket is in {location or 'an unknown place'}, the TPU in {region}: "
        "checkpoints are slower to save, and traffic between them costs money."
    ]


def _is_there(settings: JobSettings, gcloud: Gcloud) -> bool:
    commands = [c for c in describe_commands(settings) if c is not None]
    return any(gcloud.describe(command) is not None for command in commands)
