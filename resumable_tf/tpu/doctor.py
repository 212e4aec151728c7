"""Says whether a machine is ready to train on a TPU: a verdict and a mend each.

    for finding in examine(gather_facts(bucket="gs://bucket/run")):
        print(finding.name, finding.verdict, finding.found, finding.mend)

Every check is a pure function of facts; `doctor_facts` gathers them. What training
asks of a machine is judged in `machine`, for both. TensorFlow is not imported: without
a TPU, or with the wrong libtpu, that import may end the process.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from packaging.version import Version

from resumable_tf.tpu.machine import INSTALL_API_CLIENT, Machine, TpuSettings

OK, WARN, FAIL, NOT_APPLICABLE = "ok", "warn", "fail", "not applicable"

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
        machine: Wheels, libtpu and devices, as training looks at them.
        settings: Which TPU training would take.
        followers: Versions of installed packages that must be of TensorFlow's minor
            version, by name.
        load_library: `TPU_LOAD_LIBRARY`, None if not set.
        accelerator: Type of TPU by the metadata server, None if it names none.
        credentials: Where Google credentials come from, None if there are none.
        credentials_error: What is wrong with them, None if nothing is.
        bucket: URL that was tried, None if none was given.
        bucket_error: What went wrong when a file was written, read and deleted there.
        clock_offset_secs: How far this clock is ahead of Google's; None if unknown.
    """

    python: tuple[int, ...]
    machine: Machine
    settings: TpuSettings
    followers: Mapping[str, str]
    load_library: str | None = None
    accelerator: str | None = None
    credentials: str | None = None
    credentials_error: str | None = None
    bucket: str | None = None
    bucket_error: str | None = None
    clock_offset_secs: float | None = None

    @property
    def expects_tpu(self) -> bool:
        """Whether a TPU is here, or named."""
        return self.is_host or not self.settings.is_local

    @property
    def is_host(self) -> bool:
        """Whether this machine has chips, or should have."""
        return bool(self.machine.devices or self.accelerator)


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
    name, wheel = "wheels", facts.machine.tpu_wheel
    others = ", ".join(f"{w.name} {w.version}" for w in facts.machine.other_wheels)
    if wheel is None:
        found = f"no tensorflow-tpu; {others or 'no TensorFlow at all'}"
        if not facts.is_host:
            return Finding(name, NOT_APPLICABLE, f"{found}; no TPU here to need it")
        return Finding(name, FAIL, found, _REINSTALL)
    found = f"tensorflow-tpu {wheel.version}"
    if not wheel.is_intact:
        found = f"{others or 'another package'} was installed over {found}"
        return Finding(name, FAIL, found, _REINSTALL)
    if others:
        found = f"{found}, and {others} in the same place, whose files it replaced"
        return Finding(name, WARN, found, _REINSTALL)
    if not OLDEST_WHEEL <= _minor(wheel.version) <= NEWEST_WHEEL:
        found = f"{found}; known are 2.16 to 2.20"
        return Finding(name, WARN, found, f"install {RECOMMENDED}")
    return Finding(name, OK, f"{found}, no other TensorFlow")


def check_libtpu(facts: Facts) -> Finding:
    """Checks that libtpu is what TensorFlow's wheel asks for."""
    name, wheel, libtpu = "libtpu", facts.machine.tpu_wheel, facts.machine.libtpu
    found = f"libtpu {libtpu or 'not installed'}"
    if wheel is None:
        return Finding(name, NOT_APPLICABLE, f"{found}, without tensorflow-tpu")
    if not facts.settings.is_local and not facts.is_host:
        return Finding(name, NOT_APPLICABLE, f"{found}; no TPU here to need it")
    wanted = wheel.libtpu or ("libtpu",)
    mend = f"pip install {shlex.join(wanted)}"
    found = f"{found}; tensorflow-tpu {wheel.version} wants {', '.join(wanted)}"
    is_right = libtpu is not None and not facts.machine.unmet
    return Finding(name, OK, found) if is_right else Finding(name, FAIL, found, mend)


def check_devices(facts: Facts) -> Finding:
    """Checks that a TPU is here, or that another node's is named."""
    name, tpu = "devices", facts.settings
    if not tpu.is_local:
        found = f"TPU_NAME={tpu.name}: the devices are on that node's hosts"
        return Finding(name, OK, found)
    if facts.machine.devices:
        return Finding(name, OK, ", ".join(facts.machine.devices))
    found = "looked for /dev/accel* and /dev/vfio/*: none; TPU_NAME names no node"
    if facts.accelerator:
        mend = "restart the machine; a TPU VM of this type has device files"
        found = f"{found}; the metadata server names a {facts.accelerator}"
        return Finding(name, FAIL, found, mend)
    mend = "use a Cloud TPU VM, set TPU_NAME for a pod, or train with --strategy one"
    return Finding(name, NOT_APPLICABLE, f"{found}: no TPU on this machine", mend)


def check_pod_settings(facts: Facts) -> Finding:
    """Checks that the one client of a pod finds the workers and leaves them the TPU."""
    name, tpu = "pod settings", facts.settings
    if tpu.is_local:
        return Finding(name, NOT_APPLICABLE, "TPU_NAME names no node: one host")
    if facts.load_library not in (None, "0"):
        found = f"TPU_LOAD_LIBRARY={facts.load_library}: training would take the TPU"
        return Finding(name, FAIL, found, "unset TPU_LOAD_LIBRARY: training sets 0")
    if tpu.needs_api and not facts.machine.has_api_client:
        found = f"TPU_NAME={tpu.name}, and no client to ask for its addresses with"
        return Finding(name, FAIL, found, INSTALL_API_CLIENT)
    is_set = "TPU_LOAD_LIBRARY=0" if facts.load_library else "training sets it to 0"
    return Finding(name, OK, f"TPU_NAME={tpu.name}; {is_set}")


def check_versions(facts: Facts) -> Finding:
    """Checks Python, and that what builds on TensorFlow is of its minor version."""
    name = "versions"
    python = ".".join(map(str, facts.python))
    if not (3, 10) <= facts.python[:2] <= (3, 13):
        found = f"Python {python}; 3.10 to 3.13 are supported"
        return Finding(name, FAIL, found, "make the environment with another Python")
    wheel = facts.machine.tpu_wheel or next(iter(facts.machine.other_wheels), None)
    if wheel is None:
        return Finding(name, FAIL, f"Python {python}, no TensorFlow", _REINSTALL)
    minor = _minor(wheel.version)
    wrong = [
        f"{follower} {version}"
        for follower, version in facts.followers.items()
        if _minor(version) != minor
    ]
    found = f"Python {python}, {wheel.name} {wheel.version}"
    if wrong:
        wanted = ".".join(map(str, minor))
        mend = f"pip install --no-deps 'tensorflow-text=={wanted}.*' and the like"
        return Finding(name, FAIL, f"{found}, but {', '.join(wrong)}", mend)
    if facts.python[:2] > (3, 12) and wheel is facts.machine.tpu_wheel:
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


def _minor(version: str) -> tuple[int, ...]:
    return Version(version).release[:2]
