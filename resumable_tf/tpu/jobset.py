"""The same job as a manifest for Google Kubernetes Engine.

    manifest = jobset_manifest(settings, image="europe-docker.pkg.dev/p/r/train:1")
    json.dumps(manifest)            # kubectl takes JSON as well as YAML

A JobSet (sigs.k8s.io/jobset, v1alpha2) of one indexed Job with a pod for each host of
the slice. It starts all pods again together when one fails; exit codes 2 (wrong usage)
and 70 (a crash loop) end it. GKE is also where TPU7x is to be had, which Cloud TPU's
API does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resumable_tf.errors import EXIT_CRASH_LOOP, EXIT_USAGE, UsageError
from resumable_tf.tpu.jobs import JobSettings, training_line
from resumable_tf.tpu.pod_worker import PORT
from resumable_tf.tpu.secrets import is_secret_name

GRACE_SECS = 25
"""What a spot node leaves a pod to end in."""
STOP_SECS = 20
"""What the supervisor leaves training of that."""
_MAX_RESTARTS = 1000
_JOB = "slice"
_FAILURE_POLICY = {
    "maxRestarts": _MAX_RESTARTS,
    "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
}


def jobset_manifest(
    settings: JobSettings, *, image: str, env: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the manifest; a secret variable is taken from a Kubernetes Secret.

    Args:
        settings: The job; what only Cloud TPU's API has means nothing here.
        image: Container image with the project in its working directory.
        env: Environment of training.

    Raises:
        UsageError: If GKE does not have the accelerator, or no such shape of it.
    """
    accelerator = settings.accelerator
    if not accelerator.generation.gke_label:
        raise UsageError(
            f"--accelerator-type {settings.accelerator_type}: no GKE node pool for it "
            "is known.\nUse `create`, or v4, v5litepod, v5p, v6e or tpu7x."
        )
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": settings.name,
            "annotations": {
                # All pods of a slice in the node pool that is the slice.
                "alpha.jobset.sigs.k8s.io/exclusive-topology": (
                    "cloud.google.com/gke-nodepool"
                )
            },
        },
        "spec": {
            "failurePolicy": _FAILURE_POLICY,
            # The client connects while the other hosts still start.
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "replicatedJobs": [
                {
                    "name": _JOB,
                    "replicas": 1,
                    "template": {"spec": _job(settings, image, env)},
                }
            ],
        },
    }


def _job(settings: JobSettings, image: str, env: Mapping[str, str]) -> dict[str, Any]:
    num_hosts = settings.accelerator.num_hosts
    return {
        "completionMode": "Indexed",
        "completions": num_hosts,
        "parallelism": num_hosts,
        "backoffLimit": 0,
        # The client is done when training is; the workers would answer for ever.
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "train",
                        "operator": "In",
                        "values": [EXIT_USAGE, EXIT_CRASH_LOOP],
                    },
                }
            ]
        },
        "template": {"spec": _pod(settings, image, env)},
    }


def _pod(settings: JobSettings, image: str, env: Mapping[str, str]) -> dict[str, Any]:
    accelerator = settings.accelerator
    selector = {
        "cloud.google.com/gke-tpu-accelerator": accelerator.generation.gke_label,
        "cloud.google.com/gke-tpu-topology": accelerator.topology,
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECS,
        "nodeSelector": selector,
        "containers": [_container(settings, image, env)],
    }
    if settings.is_spot:
        selector["cloud.google.com/gke-spot"] = "true"
        pod["tolerations"] = [
            {
                "key": "cloud.google.com/gke-spot",
                "operator": "Equal",
                "value": "true",
                "effect": "NoSchedule",
            }
        ]
    if settings.service_account is not None:
        # Of Kubernetes, bound to Google's by Workload Identity.
        pod["serviceAccountName"] = settings.service_account.partition("@")[0]
    return pod


def _container(
    settings: JobSettings, image: str, env: Mapping[str, str]
) -> dict[str, Any]:
    accelerator = settings.accelerator
    chips = accelerator.num_chips // accelerator.num_hosts
    return {
        "name": "train",
        "image": image,
        "command": ["bash", "-c", container_script(settings)],
        "ports": [{"containerPort": PORT}],
        "env": [_variable(settings.name, name, env[name]) for name in env],
        "resources": {"limits": {"google.com/tpu": chips}},
    }


def _variable(job: str, name: str, value: str) -> dict[str, Any]:
    if not is_secret_name(name):
        return {"name": name, "value": value}
    reference = {"name": f"{job}-secrets", "key": name}
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def container_script(settings: JobSettings) -> str:
    """Returns what each container runs: the client on host 0, a worker on all."""
    command = training_line(settings, stop_secs=STOP_SECS)
    if not settings.accelerator.is_pod:
        return command
    worker = "python -m resumable_tf.tpu.pod_worker --task-index"
    # The host names that JobSet gives its pods.
    hosts = [
        f"grpc://{settings.name}-{_JOB}-0-{index}.{settings.name}:{PORT}"
        for index in range(settings.accelerator.num_hosts)
    ]
    return "\n".join(
        [
            'if [ "$JOB_COMPLETION_INDEX" != 0 ]; then',
            f'  exec {worker} "$JOB_COMPLETION_INDEX"',
            "fi",
            f"{worker} 0 &",
            f"export TPU_LOAD_LIBRARY=0 TPU_NAME={','.join(hosts)}",
            command,
        ]
    )
