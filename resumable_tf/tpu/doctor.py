"""Says whether a machine is ready to train on a TPU: a verdict and a mend each.

    for finding in examine(gather_facts(bucket="gs://bucket/run")):
        print(finding.name, finding.verdict, finding.found, finding.mend)

Every check is a pure function of facts; `doctor_facts` gathers them. TensorFlow is not
imported: without a TPU, or with the wrong libtpu, that import may end the process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

OK, WARN, FAIL, NOT_APPLICABLE = "ok", "warn", "fail", "not applicable"

Version = tuple[int, ...]

# By TensorFlow's minor version: the libtpu versions from (inclusive) and to (exclusive)
# that its wheel asks for. 2.20.0 with a later libtpu aborts at import.
LIBTPU_RANGES: Mapping[Version, tuple[str, str]] = {
    (2, 19): ("0.0.10", "0.0.11"),
    (2, 20): ("0.0.14", "0.0.32"),
}
OLDEST_WHEEL, NEWEST_WHEEL = (2, 16), (2, 20)
RECOMMENDED = "tensorflow-tpu 2.19.1"
_REINSTALL = (
    "pip uninstall --yes tensorflow tensorflow-cpu tensorflow-tpu, then "
    "pip install --no-deps -r requirements-tpu.txt"
)
_CLOCK_WARN_SECS, _CLOCK_FAIL_SECS = 10.0, 300.0


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        name: Of the check.
        verdict: `ok`, `warn`, `fail` or `not applicable`.
        found: What was looked for, and what was there.
        mend: What to do; empty if nothing is to be done.
    """

    name: str
    verdict: str
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Facts:
    """What there is on a machine.

    Attributes:
        python: Version of the interpreter.
        distributions: Versions of the installed packages that matter, by name.
        device_files: TPU devices among the device files.
        tpu_name: `TPU_NAME`, empty for the TPU of this host.
        load_library: `TPU_LOAD_LIBRARY`, None if not set.
        is_google_vm: Whether the metadata server answered.
        accelerator: Type of TPU by the metadata server, None if it names none.
        credentials: Where Google credentials come from, None if there are none.
        credentials_error: What is wrong with them, None if nothing is.
        bucket: URL that was tried, None if none was given.
        bucket_error: What went wrong when a file was written, read and deleted there.
        clock_offset_secs: How far this clock is ahead of Google's; None if unknown.
    """

    python: Version
    distributions: Mapping[str, str]
    device_files: Sequence[str] = ()
    tpu_name: str = ""
    load_library: str | None = None
    is_google_vm: bool = False
    accelerator: str | None = None
    credentials: str | None = None
    credentials_error: str | None = None
    bucket: str | None = None
    bucket_error: str | None = None
    clock_offset_secs: float | None = None

    @property
    def expects_tpu(self) -> bool:
        """Whether a TPU is here, or named."""
        return bool(self.device_files or self.tpu_name or self.accelerator)


def parse_version(text: str) -> Version:
    """Returns the leading numbers of a version: `0.0.42.1` is (0, 0, 42, 1)."""
    numbers = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def examine(facts: Facts) -> list[Finding]:
    """Returns the findings of all checks."""
    checks = (
        check_wheels,
        check_libtpu,
        check_devices,
        check_pod_settings,
        check_versions,
        check_credentials,
        check_bucket,
        check_clock,
    )
    return [check(facts) for check in checks]


def check_wheels(facts: Facts) -> Finding:
    """Checks that TensorFlow is the one with TPU support, and nothing lies over it."""
    name, installed = "wheels", facts.distributions
    tpu = installed.get("tensorflow-tpu")
    others = [
        f"{other} {installed[other]}"
        for other in ("tensorflow", "tensorflow-cpu")
        if other in installed
    ]
    if tpu is None:
        found = f"no tensorflow-tpu; {', '.join(others) or 'no TensorFlow at all'}"
        if not facts.expects_tpu:
            return Finding(name, NOT_APPLICABLE, f"{found}; no TPU here to need it")
        return Finding(name, FAIL, found, _REINSTALL)
    if others:
        found = f"tensorflow-tpu {tpu} and {', '.join(others)} in the same place"
        return Finding(name, FAIL, f"{found}: one lies over the other", _REINSTALL)
    minor = parse_version(tpu)[:2]
    if not OLDEST_WHEEL <= minor <= NEWEST_WHEEL:
        found = f"tensorflow-tpu {tpu}; known are 2.16 to 2.20"
        return Finding(name, WARN, found, f"install {RECOMMENDED}")
    return Finding(name, OK, f"tensorflow-tpu {tpu}, no other TensorFlow")


def check_libtpu(facts: Facts) -> Finding:
    """Checks that libtpu is in the range that TensorFlow's wheel asks for."""
    name, libtpu = "libtpu", facts.distributions.get("libtpu")
    tensorflow = facts.distributions.get("tensorflow-tpu")
    if tensorflow is None:
        found = f"libtpu {libtpu or 'not installed'}, without tensorflow-tpu"
        return Finding(name, NOT_APPLICABLE, found)
    bounds = LIBTPU_RANGES.get(parse_version(tensorflow)[:2])
    if libtpu is None:
        wanted = f"libtpu>={bounds[0]},<{bounds[1]}" if bounds else "libtpu"
        return Finding(name, FAIL, "not installed", f"pip install '{wanted}'")
    if bounds is None:
        found = f"libtpu {libtpu}; no range is known for tensorflow-tpu {tensorflow}"
        return Finding(name, WARN, found, f"install {RECOMMENDED}")
    low, high = bounds
    found = f"libtpu {libtpu}; tensorflow-tpu {tensorflow} wants >={low},<{high}"
    if parse_version(low) <= parse_version(libtpu) < parse_version(high):
        return Finding(name, OK, found)
    return Finding(name, FAIL, found, f"pip install 'libtpu>={low},<{high}'")


def check_devices(facts: Facts) -> Finding:
    """Checks that a TPU is here, or that another node's is named."""
    name = "devices"
    if facts.tpu_name:
        found = f"TPU_NAME={facts.tpu_name}: the devices are on that node's hosts"
        return Finding(name, OK, found)
    if facts.device_files:
        return Finding(name, OK, ", ".join(facts.device_files))
    found = "looked for /dev/accel* and /dev/vfio/*: none; TPU_NAME is not set"
    if facts.accelerator:
        mend = "restart the machine; a TPU VM of this type has device files"
        found = f"{found}; the metadata server names a {facts.accelerator}"
        return Finding(name, FAIL, found, mend)
    mend = "use a Cloud TPU VM, set TPU_NAME for a pod, or train with --strategy one"
    return Finding(name, NOT_APPLICABLE, f"{found}: no TPU on this machine", mend)


def check_pod_settings(facts: Facts) -> Finding:
    """Checks that the one client of a pod leaves the TPU to the workers."""
    name = "pod settings"
    if not facts.tpu_name:
        return Finding(name, NOT_APPLICABLE, "TPU_NAME is not set: one host")
    if facts.load_library == "0":
        return Finding(name, OK, "TPU_LOAD_LIBRARY=0")
    found = f"TPU_LOAD_LIBRARY={facts.load_library}: this process would take the TPU"
    return Finding(name, FAIL, found, "export TPU_LOAD_LIBRARY=0 on the first worker")


def check_versions(facts: Facts) -> Finding:
    """Checks Python, and that what builds on TensorFlow is of its minor version."""
    name, installed = "versions", facts.distributions
    python = ".".join(map(str, facts.python))
    if not (3, 10) <= facts.python[:2] <= (3, 13):
        found = f"Python {python}; 3.10 to 3.13 are supported"
        return Finding(name, FAIL, found, "make the environment with another Python")
    own = next(
        (
            (distribution, installed[distribution])
            for distribution in ("tensorflow-tpu", "tensorflow", "tensorflow-cpu")
            if distribution in installed
        ),
        None,
    )
    if own is None:
        return Finding(name, FAIL, f"Python {python}, no TensorFlow", _REINSTALL)
    minor = parse_version(own[1])[:2]
    wrong = [
        f"{follower} {installed[follower]}"
        for follower in ("tensorflow-text", "tf-keras")
        if follower in installed and parse_version(installed[follower])[:2] != minor
    ]
    found = f"Python {python}, {own[0]} {own[1]}"
    if wrong:
        wanted = ".".join(map(str, minor))
        mend = f"pip install --no-deps 'tensorflow-text=={wanted}.*' and the like"
        return Finding(name, FAIL, f"{found}, but {', '.join(wrong)}", mend)
    if facts.python[:2] > (3, 12) and own[0] == "tensorflow-tpu":
        mend = "make the environment with Python 3.10 to 3.12"
        return Finding(name, WARN, f"{found}: it has no wheel for this Python", mend)
    return Finding(name, OK, found)


def check_credentials(facts: Facts) -> Finding:
    """Checks that there are Google credentials."""
    name = "credentials"
    if facts.credentials_error is not None:
        mend = "gcloud auth application-default login, or mend the file"
        return Finding(name, FAIL, facts.credentials_error, mend)
    if facts.credentials is not None:
        return Finding(name, OK, facts.credentials)
    found = (
        "none: GOOGLE_APPLICATION_CREDENTIALS is not set, gcloud left no default, and "
        "no metadata server answered"
    )
    mend = "gcloud auth application-default login, or give the VM a service account"
    needs_them = facts.expects_tpu or (facts.bucket or "").startswith("gs://")
    return Finding(name, FAIL if needs_them else NOT_APPLICABLE, found, mend)


def check_bucket(facts: Facts) -> Finding:
    """Checks that a file could be written, read and deleted."""
    name = "bucket"
    if facts.bucket is None:
        mend = "name the run directory: --bucket gs://bucket/run"
        return Finding(name, NOT_APPLICABLE, "no --bucket was given", mend)
    if facts.bucket_error is None:
        return Finding(name, OK, f"{facts.bucket}: wrote, read and deleted a file")
    mend = "give this account roles/storage.objectUser on the bucket"
    return Finding(name, FAIL, f"{facts.bucket}: {facts.bucket_error}", mend)


def check_clock(facts: Facts) -> Finding:
    """Checks the clock against Google's: tokens are refused when it is far off."""
    name, offset = "clock", facts.clock_offset_secs
    if offset is None:
        found = "nothing to compare with: no metadata server answered"
        return Finding(name, NOT_APPLICABLE, found)
    found = f"{offset:+.1f} s against Google's"
    mend = "turn on time synchronisation: sudo systemctl enable --now chrony"
    if abs(offset) >= _CLOCK_FAIL_SECS:
        return Finding(name, FAIL, found, mend)
    if abs(offset) >= _CLOCK_WARN_SECS:
        return Finding(name, WARN, found, mend)
    return Finding(name, OK, found)
