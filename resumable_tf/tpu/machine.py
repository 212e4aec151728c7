"""What this machine has of a TPU, and what stands in the way, without TensorFlow.

    settings = TpuSettings(name="local")
    prepare_environment(settings)              # before TensorFlow is imported
    check_machine(settings, find_machine())    # raises DeviceError, never crashes

TensorFlow without a TPU raises IndexError or NotFoundError or ends the process, and
some pairs of tensorflow-tpu and libtpu end it at import. So what can be known
beforehand is looked up in the installed packages and in /dev first.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from resumable_tf.errors import DeviceError, UsageError

INSTALL = """\
  pip install --no-deps --requirement requirements-tpu.txt
  pip install --no-deps --editable .
(--no-deps, since tensorflow-text and others ask for the package named tensorflow, which
would overwrite tensorflow-tpu.)"""
"""How to install wheels that work on a TPU VM."""
INSTALL_API_CLIENT = (
    "pip install 'google-api-python-client>=2' oauth2client && "
    "pip install --no-deps cloud-tpu-client==0.10"
)
"""With its requirements it would bring a google-api-core with which gcsfs can't be
imported, and a protobuf that TensorFlow can't use."""

_LOCAL = "local"
_GRPC = "grpc://"
_WHEELS = ("tensorflow", "tensorflow-tpu", "tensorflow-cpu")
_TPU_WHEEL = "tensorflow-tpu"
# Beyond what its own metadata say: 2.20.0 ends the process at import with newer ones.
_KNOWN_TO_FAIL = {"2.20": "libtpu<0.0.32"}
# What TensorFlow's own copy of cloud-tpu-client imports.
_API_CLIENT = {"google-api-python-client", "oauth2client"}
_SHARED_LIBRARY = re.compile(r"tensorflow/[^/]*\.so(\.\d+)*")
# With a number: /dev/accel and /dev/vfio/vfio are there without a TPU.
_DEVICES = ("accel[0-9]*", "vfio/[0-9]*")


@dataclass(frozen=True)
class TpuSettings:
    """Which TPU to use.

    Attributes:
        name: `local` for the chips of this machine; for a pod the name of its node in
            Cloud TPU's API, or `grpc://HOST:PORT,...` with all of its workers.
        zone: Of the node; this machine's own if None.
        project: Of the node; this machine's own if None.
    """

    name: str = _LOCAL
    zone: str | None = None
    project: str | None = None

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: If zone or project are given where nothing is looked up.
        """
        if self.needs_api:
            return
        for flag, value in (("tpu-zone", self.zone), ("gcp-project", self.project)):
            if value is not None:
                raise UsageError(
                    f"--{flag} {value} has no effect with --tpu {self.name}: nothing "
                    "is looked up in Cloud TPU's API.\nLeave it out, or give the name "
                    "of a node."
                )

    @property
    def is_local(self) -> bool:
        """Whether the chips are those of this machine."""
        return self.name == _LOCAL

    @property
    def needs_api(self) -> bool:
        """Whether the name has to be looked up in Cloud TPU's API."""
        return not self.is_local and not self.name.startswith(_GRPC)


def settings_from(
    name: str | None,
    zone: str | None = None,
    project: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> TpuSettings:
    """Returns the settings that the flags mean.

    Args:
        name: `--tpu`; if None, the environment's TPU_NAME, or else `local`.
        zone: `--tpu-zone`.
        project: `--gcp-project`.
        environment: Variables; those of this process if None.

    Raises:
        UsageError: If a flag has no effect.
    """
    variables = os.environ if environment is None else environment
    return TpuSettings(name or variables.get("TPU_NAME") or _LOCAL, zone, project)


def prepare_environment(settings: TpuSettings) -> None:
    """Sets what TensorFlow reads when it is imported.

    Args:
        settings: Which TPU.
    """
    if not settings.is_local:
        # The chips belong to the workers; the client must not load the driver.
        os.environ.setdefault("TPU_LOAD_LIBRARY", "0")


@dataclass(frozen=True)
class Wheel:
    """An installed package that brings `import tensorflow`.

    Attributes:
        name: The package.
        version: Its version.
        is_intact: Whether the libraries on disk are those that it installed.
        libtpu: What it asks of the package libtpu.
    """

    name: str
    version: str
    is_intact: bool
    libtpu: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """What was found.

    Attributes:
        wheels: Packages that bring `import tensorflow`.
        libtpu: Version of the package libtpu, None without.
        devices: Files of TPU chips under /dev.
        has_api_client: Whether Cloud TPU's API can be asked.
    """

    wheels: tuple[Wheel, ...]
    libtpu: str | None
    devices: tuple[str, ...]
    has_api_client: bool

    @property
    def tpu_wheel(self) -> Wheel | None:
        """TensorFlow for TPUs."""
        return next((w for w in self.wheels if w.name == _TPU_WHEEL), None)

    @property
    def other_wheels(self) -> tuple[Wheel, ...]:
        """All others that bring `import tensorflow`."""
        return tuple(w for w in self.wheels if w.name != _TPU_WHEEL)

    @property
    def unmet(self) -> tuple[str, ...]:
        """What the wheel for TPUs asks of libtpu, and does not get."""
        wheel = self.tpu_wheel
        wanted = () if wheel is None else wheel.libtpu
        return tuple(one for one in wanted if not _meets(self.libtpu, one))

    def describe(self) -> str:
        """Returns what was looked for and what was found, a line each."""
        wheels = [f"{w.name} {w.version}{_state(w)}" for w in self.wheels]
        lines = {
            "TensorFlow": ", ".join(wheels) or "no package",
            "libtpu": self.libtpu or "not installed",
            "/dev/accel*, /dev/vfio/*": ", ".join(self.devices) or "no chip",
        }
        return "\n".join(f"  {name}: {found}" for name, found in lines.items())


def find_machine(
    *, packages: Sequence[str] | None = None, devices: Path = Path("/dev")
) -> Machine:
    """Looks at the installed packages and the device files; loads nothing.

    Args:
        packages: Directories with installed packages; `sys.path` if None.
        devices: The directory of device files.
    """
    places = list(sys.path if packages is None else packages)
    # What is found first counts, as for an import.
    found = {
        _name_of(one): one for one in reversed([*metadata.distributions(path=places)])
    }
    libtpu = found.get("libtpu")
    files = [path for pattern in _DEVICES for path in devices.glob(pattern)]
    return Machine(
        wheels=tuple(_wheel(found[name]) for name in _WHEELS if name in found),
        libtpu=None if libtpu is None else libtpu.version,
        devices=tuple(sorted(map(str, files))),
        has_api_client=_API_CLIENT <= found.keys(),
    )


def check_machine(settings: TpuSettings, machine: Machine) -> None:
    """Refuses to start TensorFlow where it would fail or end the process.

    Args:
        settings: Which TPU.
        machine: What was found.

    Raises:
        DeviceError: If there is no TPU, or not the software for one.
    """
    problem = _problem(settings, machine)
    if problem is not None:
        raise DeviceError(
            f"--strategy tpu --tpu {settings.name}: {problem}\n{machine.describe()}"
        )


def _problem(settings: TpuSettings, machine: Machine) -> str | None:
    tpu_wheel = machine.tpu_wheel
    if settings.is_local and not machine.devices:
        advice = "Run on a Cloud TPU VM, name a pod with --tpu, or use --strategy one."
        return f"this machine has no TPU.\n{advice}"
    if tpu_wheel is not None and not tpu_wheel.is_intact:
        others = [w.name for w in machine.other_wheels]
        return (
            f"{' and '.join(others) or 'another package'} was installed over "
            f"{_TPU_WHEEL}, so TensorFlow knows no TPU. Uninstall both, then:\n"
            f"{INSTALL}"
        )
    if settings.needs_api and not machine.has_api_client:
        return (
            "a node's addresses are asked of Cloud TPU's API, and its client is not "
            f"installed.\nRun {INSTALL_API_CLIENT}, or name the workers: "
            "--tpu grpc://HOST:8470,..."
        )
    if settings.is_local and tpu_wheel is None:
        return f"TensorFlow is not the one for TPUs. Install it:\n{INSTALL}"
    if settings.is_local and machine.libtpu is None:
        return f"the package libtpu, the chips' driver, is missing:\n{INSTALL}"
    if settings.is_local and tpu_wheel is not None and machine.unmet:
        return (
            f"tensorflow-tpu {tpu_wheel.version} needs {', '.join(machine.unmet)}; "
            f"with another one it can end the process. Install one that works:\n"
            f"{INSTALL}"
        )
    return None


def _meets(version: str | None, requirement: str) -> bool:
    return version is not None and Requirement(requirement).specifier.contains(
        version, prereleases=True
    )


def _state(wheel: Wheel) -> str:
    return "" if wheel.is_intact else " (its files were overwritten)"


def _name_of(package: metadata.Distribution) -> str:
    # A broken installation may have no name.
    name = package.metadata["Name"] or ""
    return re.sub(r"[-_.]+", "-", name).lower()


def _wheel(package: metadata.Distribution) -> Wheel:
    is_intact = all(_has_size(file) for file in _libraries(package.files or ()))
    wanted = [
        one for one in package.requires or () if Requirement(one).name == "libtpu"
    ]
    if _name_of(package) == _TPU_WHEEL:
        release = ".".join(package.version.split(".")[:2])
        wanted += [_KNOWN_TO_FAIL[release]] if release in _KNOWN_TO_FAIL else []
    return Wheel(_name_of(package), package.version, is_intact, tuple(wanted))


def _libraries(files: Iterable[metadata.PackagePath]) -> Iterable[metadata.PackagePath]:
    """Yields TensorFlow's own shared libraries, which every build has other ones of."""
    return (file for file in files if _SHARED_LIBRARY.fullmatch(file.as_posix()))


def _has_size(file: metadata.PackagePath) -> bool:
    path = Path(str(file.locate()))
    return path.is_file() and file.size in (None, path.stat().st_size)
