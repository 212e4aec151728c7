"""A stand-in for Google's `gcloud`, which knows its documented flags.

    put_on_path(tmp_path / "bin", state=tmp_path / "gcloud.json")

It refuses a command, a flag or a positional that the reference does not have, and a
missing required one. It keeps nodes, requests and buckets in a JSON file, answers
`describe` in the API's own shapes, and writes down every call. `storage cp` uploads to
the server that STORAGE_EMULATOR_HOST names.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# cloud.google.com/sdk/gcloud/reference#GLOBAL-FLAGS; those with and without a value.
WIDE_FLAGS = {"--project", "--format", "--verbosity", "--account", "--configuration"}
WIDE_SWITCHES = {"--quiet", "--help", "--log-http"}


@dataclass(frozen=True)
class Documented:
    """One page of the reference.

    Attributes:
        flags: Those with a value, apart from the wide ones.
        switches: Those without.
        required: Those that must be given; of a tuple one.
        num_positionals: How many words that are no flags.
    """

    flags: str = ""
    switches: str = ""
    required: tuple[tuple[str, ...], ...] = ()
    num_positionals: int = 1


_OF_A_SLICE = """
    --zone --boot-disk --data-disk --description --labels --metadata
    --metadata-from-file --network --range --scopes --service-account --subnetwork
    --tags --accelerator-type --topology --type
"""
_TPUS = "compute tpus"
# The page of each: cloud.google.com/sdk/gcloud/reference/ and its words, "/" between.
COMMANDS = {
    f"{_TPUS} tpu-vm create": Documented(
        _OF_A_SLICE + "--version --queue-count",
        "--async --internal-ips --preemptible --reserved --shielded-secure-boot --spot",
        required=(("--version",), ("--zone",)),
    ),
    f"{_TPUS} tpu-vm delete": Documented("--zone", "--async", (("--zone",),)),
    f"{_TPUS} tpu-vm describe": Documented("--zone", "", (("--zone",),)),
    f"{_TPUS} tpu-vm stop": Documented("--zone", "--async", (("--zone",),)),
    f"{_TPUS} tpu-vm start": Documented("--zone", "--async", (("--zone",),)),
    f"{_TPUS} tpu-vm ssh": Documented(
        """--ssh-flag --ssh-key-file --strict-host-key-checking --worker --zone
        --command --output-directory --ssh-key-expiration --ssh-key-expire-after""",
        "--dry-run --force-key-file-overwrite --internal-ip --plain",
    ),
    f"{_TPUS} queued-resources create": Documented(
        _OF_A_SLICE
        + """--runtime-version --node-id --node-count --node-prefix
        --valid-after-duration --valid-after-time --valid-until-duration
        --valid-until-time --reservation-host-folder --reservation-host-organization
        --reservation-host-project""",
        """--async --guaranteed --internal-ips --reserved --shielded-secure-boot
        --spot""",
        required=(
            ("--runtime-version",),
            ("--accelerator-type", "--topology"),
            ("--node-id", "--node-count"),
            ("--zone",),
        ),
    ),
    f"{_TPUS} queued-resources delete": Documented(
        "--zone", "--async --force", (("--zone",),)
    ),
    f"{_TPUS} queued-resources describe": Documented("--zone", "", (("--zone",),)),
    f"{_TPUS} tpu-vm accelerator-types list": Documented(
        "--zone --filter --limit --page-size --sort-by", "--uri", (), 0
    ),
    "storage cp": Documented(
        """--storage-class --cache-control --content-type --custom-metadata
        --if-generation-match""",
        "--recursive --no-clobber",
        num_positionals=2,
    ),
    "storage buckets describe": Documented("", "--raw"),
    "storage buckets create": Documented(
        "--location --default-storage-class --placement --soft-delete-duration",
        "--uniform-bucket-level-access --public-access-prevention",
    ),
    "storage buckets add-iam-policy-binding": Documented(
        "--member --role --condition", "", (("--member",), ("--role",))
    ),
    "auth login": Documented("", "--no-launch-browser", (), 0),
    "auth application-default login": Documented("", "--no-launch-browser", (), 0),
    "projects create": Documented("--name --folder --organization --labels"),
    "projects add-iam-policy-binding": Documented(
        "--member --role --condition", "", (("--member",), ("--role",))
    ),
    "billing projects link": Documented(
        "--billing-account", "", (("--billing-account",),)
    ),
    "services enable": Documented("", "--async"),
    "iam service-accounts create": Documented("--description --display-name"),
}


class Refused(Exception):
    """What gcloud would refuse."""


@dataclass
class Call:
    """A command line, taken apart."""

    command: str
    positionals: list[str]
    flags: dict[str, str]


def parse(argv: list[str]) -> Call:
    """Takes a command line apart by the table."""
    for length in range(min(5, len(argv)), 0, -1):
        command = " ".join(argv[:length])
        if command in COMMANDS:
            return _check(command, argv[length:])
    raise Refused(f"Invalid choice: {' '.join(argv[:4])!r}.")


def _check(command: str, rest: list[str]) -> Call:
    page = COMMANDS[command]
    flags = WIDE_FLAGS | set(page.flags.split())
    switches = WIDE_SWITCHES | set(page.switches.split())
    call = Call(command, [], {})
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("--"):
            call.positionals.append(word)
        elif name in flags and equals and value:
            call.flags[name] = value
        elif name in switches and not equals:
            call.flags[name] = ""
        elif name in flags | switches:
            raise Refused(
                f"argument {name}: expected {'one' if name in flags else 'no'} argument"
            )
        else:
            raise Refused(f"unrecognized arguments: {name}")
    if len(call.positionals) != page.num_positionals:
        raise Refused(f"{command}: {len(call.positionals)} positionals")
    for choices in page.required:
        if not any(choice in call.flags for choice in choices):
            raise Refused(f"argument {choices[0]}: Must be specified.")
    return call


class FakeGcloud:
    """Answers one call."""

    def __init__(self, state_file: Path) -> None:
        self._file = state_file
        self._state = json.loads(state_file.read_text("utf-8"))

    def answer(self, argv: list[str]) -> int:
        self._state["calls"].append(argv)
        try:
            call = parse(argv)
            text = self._do(call)
        except Refused as refusal:
            dotted = ".".join(word for word in argv[:4] if word.isidentifier())
            print(f"ERROR: (gcloud.{dotted}) {refusal}", file=sys.stderr)
            return 2 if "argument" in str(refusal) else 1
        finally:
            self._file.write_text(json.dumps(self._state), "utf-8")
        print(text, end="")
        return 0

    def _do(self, call: Call) -> str:
        if call.command == "storage cp":
            return self._upload(*call.positionals)
        if call.command == "storage buckets describe":
            bucket = self._state["buckets"].get(call.positionals[0])
            if bucket is None:
                raise Refused(f"{call.positionals[0]} not found: 404.")
            return json.dumps(bucket)
        if call.command == "storage buckets create":
            url, location = call.positionals[0], call.flags["--location"].upper()
            self._state["buckets"][url] = bucket_answer(url, location)
            return ""
        if call.command.startswith(f"{_TPUS} tpu-vm") and call.positionals:
            return self._node(call)
        if call.command.startswith(f"{_TPUS} queued-resources"):
            return self._request(call)
        return ""

    def _upload(self, source: str, target: str) -> str:
        # Imported here: it takes as long as all the rest.
        import urllib.parse
        import urllib.request

        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        bucket, _, name = target.removeprefix("gs://").partition("/")
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        server = os.environ["STORAGE_EMULATOR_HOST"]
        request = urllib.request.Request(
            f"{server}/upload/storage/v1/b/{bucket}/o?{query}", data, method="POST"
        )
        urllib.request.urlopen(request, timeout=30).read()
        return ""

    def _node(self, call: Call) -> str:
        name, nodes = call.positionals[0], self._state["nodes"]
        verb = call.command.rpartition(" ")[2]
        if verb == "create":
            if name in nodes:
                raise Refused(f"ALREADY_EXISTS: Resource '{name}' already exists")
            create_in(self._state, call)
            return f"Created tpu [{name}].\n"
        if name not in nodes:
            raise Refused(f"NOT_FOUND: Resource 'nodes/{name}' was not found")
        if verb == "describe":
            return json.dumps(nodes[name])
        if verb == "ssh":
            num_hosts = len(nodes[name]["networkEndpoints"])
            self._must_have_unit(call, num_hosts)
            return f"worker {call.flags['--worker']}: {call.flags['--command']}\n"
        if verb == "delete":
            self._must_not_prompt(call)
            del nodes[name]
            return f"Deleted tpu [{name}].\n"
        has_many = len(nodes[name]["networkEndpoints"]) > 1
        if verb == "stop" and (has_many or "queuedResource" in nodes[name]):
            raise Refused("INVALID_ARGUMENT: Stopping is not supported for this TPU.")
        nodes[name]["state"] = "STOPPED" if verb == "stop" else "READY"
        return ""

    def _request(self, call: Call) -> str:
        name, requests = call.positionals[0], self._state["requests"]
        verb = call.command.rpartition(" ")[2]
        if verb == "create":
            if name in requests:
                raise Refused(f"ALREADY_EXISTS: Resource '{name}' already exists")
            create_in(self._state, call)
            return f"Create request issued for: [{name}]\n"
        if name not in requests:
            raise Refused(f"NOT_FOUND: Resource 'queuedResources/{name}' was not found")
        if verb == "describe":
            return json.dumps(requests[name])
        self._must_not_prompt(call)
        is_active = requests[name]["state"]["state"] == "ACTIVE"
        if is_active and "--force" not in call.flags:
            raise Refused("FAILED_PRECONDITION: it has nodes; use --force")
        for spec in requests.pop(name)["tpu"]["nodeSpec"]:
            self._state["nodes"].pop(spec["nodeId"], None)
        return f"Delete request issued for: [{name}]\n"

    def _must_have_unit(self, call: Call, num_hosts: int) -> None:
        """The start-up script writes the unit of training on worker 0 only."""
        _, stops, unit = call.flags["--command"].partition("systemctl stop ")
        workers = call.flags["--worker"]
        is_elsewhere = workers != "0" and (workers != "all" or num_hosts > 1)
        if stops and unit == "resumable-tf.service" and is_elsewhere:
            raise Refused(f"[/usr/bin/ssh] exited with return code [5]: no {unit}")

    def _must_not_prompt(self, call: Call) -> None:
        if "--quiet" not in call.flags:
            raise Refused(
                "This prompt could not be answered because you are not in an "
                "interactive session."
            )


def create_in(state: dict[str, Any], call: Call) -> None:
    """Adds what a `create` makes: a node, and the request for it."""
    name, nodes = call.positionals[0], state["nodes"]
    if "queued-resources" not in call.command:
        nodes[name] = node_answer(call, name, call.flags["--version"])
        return
    node = call.flags["--node-id"]
    nodes[node] = node_answer(call, node, call.flags["--runtime-version"])
    nodes[node]["queuedResource"] = f"{_parent(call)}/queuedResources/{name}"
    state["requests"][name] = request_answer(call, name, nodes[node])


def _parent(call: Call) -> str:
    project = call.flags.get("--project", "my-project")
    return f"projects/{project}/locations/{call.flags['--zone']}"


def node_answer(call: Call, name: str, version: str) -> dict[str, Any]:
    """The API's Node: .../tpu/docs/reference/rest/v2/projects.locations.nodes."""
    # Of the project and not of an installed one: the interpreter has no site-packages.
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from resumable_tf.tpu.accelerators import parse_accelerator

    accelerator = parse_accelerator(call.flags["--accelerator-type"])
    return {
        "name": f"{_parent(call)}/nodes/{name}",
        "acceleratorType": call.flags["--accelerator-type"],
        "runtimeVersion": version,
        "state": "READY",
        "health": "HEALTHY",
        "schedulingConfig": {"spot": True} if "--spot" in call.flags else {},
        "networkEndpoints": [
            {"ipAddress": f"10.0.0.{index + 2}", "port": 8470}
            for index in range(accelerator.num_hosts)
        ],
        "metadata": dict([call.flags["--metadata"].split("=", 1)]),
    }


def request_answer(call: Call, name: str, node: dict[str, Any]) -> dict[str, Any]:
    """The API's QueuedResource: .../rest/v2/projects.locations.queuedResources."""
    spec = {"parent": _parent(call), "nodeId": call.flags["--node-id"], "node": node}
    return {
        "name": f"{_parent(call)}/queuedResources/{name}",
        "createTime": "2025-11-01T10:00:00.000000000Z",
        "tpu": {"nodeSpec": [spec]},
        **({"spot": {}} if "--spot" in call.flags else {}),
        "state": {"state": "ACTIVE", "stateInitiator": "SERVICE"},
    }


def bucket_answer(url: str, location: str) -> dict[str, Any]:
    """What `gcloud storage buckets describe --format=json` prints, in part."""
    return {
        "name": url.removeprefix("gs://"),
        "storage_url": f"{url}/",
        "location": location,
        "location_type": "multi-region" if len(location) < 5 else "region",
        "default_storage_class": "STANDARD",
    }


def put_on_path(folder: Path, *, state: Path) -> None:
    """Makes `folder/gcloud`, with an empty cloud and gs://bucket in us-west4."""
    folder.mkdir(parents=True, exist_ok=True)
    buckets = {"gs://bucket": bucket_answer("gs://bucket", "US-WEST4")}
    empty = {"calls": [], "nodes": {}, "requests": {}, "buckets": buckets}
    state.write_text(json.dumps(empty), "utf-8")
    script = folder / "gcloud"
    script.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" "{state}" "$@"\n'
    )
    script.chmod(0o755)


if __name__ == "__main__":
    sys.exit(FakeGcloud(Path(sys.argv[1])).answer(sys.argv[2:]))
