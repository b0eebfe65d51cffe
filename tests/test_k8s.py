"""The deployment files: valid for Kubernetes, locked down, and about the software beside them."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from connectors.broker import kafka_version
from schemas.parse import load_pipeline

ROOT = Path(__file__).parents[1]
K8S = ROOT / "k8s"
BASE = K8S / "base"

# The oldest and the newest that the library of schemas and we both care for.
KUBERNETES_VERSIONS = ["1.33", kubernetes_validate.latest_version()]

Manifest = dict[str, Any]


def kustomization() -> Manifest:
    loaded: Manifest = yaml.safe_load((BASE / "kustomization.yaml").read_text("utf-8"))
    return loaded


def manifests() -> Iterator[tuple[str, Manifest]]:
    for name in kustomization()["resources"]:
        for document in yaml.safe_load_all((BASE / name).read_text("utf-8")):
            yield f"{document['kind']}/{document['metadata']['name']}", document


MANIFESTS = dict(manifests())
PODS = {
    name: manifest["spec"]["template"]["spec"]
    for name, manifest in MANIFESTS.items()
    if "template" in manifest["spec"]
}


def test_the_base_has_what_it_promises() -> None:
    assert set(MANIFESTS) == {
        "Deployment/eddy-worker",
        "Deployment/eddy-trainer",
        "Job/eddy-topics",
        "PersistentVolumeClaim/eddy-storage",
        "PodDisruptionBudget/eddy-worker",
        "Service/eddy-metrics",
    }
    assert set(PODS) == {"Deployment/eddy-worker", "Deployment/eddy-trainer", "Job/eddy-topics"}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_valid(name: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


def test_the_validation_notices_a_misspelling() -> None:
    wrong = {**MANIFESTS["Deployment/eddy-worker"], "sepc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSIONS[0], strict=True)


def test_the_kustomization_names_every_file_and_no_namespace() -> None:
    parts = kustomization()
    named = set(parts["resources"])
    for generator in parts["configMapGenerator"]:
        named |= set(generator["files"])
    assert named | {"kustomization.yaml"} == {path.name for path in BASE.iterdir()}
    assert "namespace" not in parts
    assert not [name for name, x in MANIFESTS.items() if "namespace" in x["metadata"]]


@pytest.mark.parametrize("name", PODS)
def test_pods_are_locked_down(name: str) -> None:
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["terminationGracePeriodSeconds"] == 30
    for key in ("hostNetwork", "hostPID", "hostIPC", "initContainers"):
        assert key not in pod
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in context
        for kind in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"][kind])


@pytest.mark.parametrize("name", PODS)
def test_pods_mount_what_exists_and_write_only_where_they_may(name: str) -> None:
    pod = PODS[name]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["pipeline"]["configMap"]["name"] == "eddy-pipeline"
    assert volumes["storage"]["persistentVolumeClaim"]["claimName"] == "eddy-storage"
    assert volumes["scratch"]["emptyDir"]["sizeLimit"]
    for container in pod["containers"]:
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert set(mounts) == set(volumes)
        assert mounts["pipeline"]["readOnly"] is True
        assert mounts["scratch"]["mountPath"] == "/tmp"
        pipeline = load_pipeline(BASE / "pipeline.yaml")
        assert mounts["storage"]["mountPath"] == pipeline.storage
        assert f"{mounts['pipeline']['mountPath']}/pipeline.yaml" in container["args"]


@pytest.mark.parametrize("name", PODS)
def test_credentials_come_from_a_secret_that_may_be_missing(name: str) -> None:
    for container in PODS[name]["containers"]:
        found = {x["name"]: x["valueFrom"].get("secretKeyRef") for x in container["env"]}
        for variable, key in {"KAFKA_USERNAME": "username", "KAFKA_PASSWORD": "password"}.items():
            assert found[variable] == {"name": "eddy-kafka", "key": key, "optional": True}


@pytest.mark.parametrize("name", ["Deployment/eddy-worker", "Deployment/eddy-trainer"])
def test_deployments_are_probed(name: str) -> None:
    (container,) = PODS[name]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]
    probes = {"liveness": "/healthz", "readiness": "/readyz", "startup": "/healthz"}
    for probe, path in probes.items():
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "http"}


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_selectors_hit_the_pods_they_mean() -> None:
    labels = {x: MANIFESTS[x]["spec"]["template"]["metadata"]["labels"] for x in PODS}
    for name in ("Deployment/eddy-worker", "Deployment/eddy-trainer"):
        selector = MANIFESTS[name]["spec"]["selector"]["matchLabels"]
        assert [x for x in PODS if selects(selector, labels[x])] == [name]
    budget = MANIFESTS["PodDisruptionBudget/eddy-worker"]["spec"]["selector"]["matchLabels"]
    assert [x for x in PODS if selects(budget, labels[x])] == ["Deployment/eddy-worker"]
    service = MANIFESTS["Service/eddy-metrics"]["spec"]
    assert {x for x in PODS if selects(service["selector"], labels[x])} == {
        "Deployment/eddy-worker",
        "Deployment/eddy-trainer",
    }
    assert service["ports"][0]["targetPort"] == "http"


def test_the_example_pipeline_loads() -> None:
    assert list(load_pipeline(BASE / "pipeline.yaml").streams) == ["payments"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_renders_the_base() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(BASE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    assert len(rendered) == len(MANIFESTS) + 1
    generated = next(x["metadata"]["name"] for x in rendered if x["kind"] == "ConfigMap")
    for manifest in rendered:
        kubernetes_validate.validate(manifest, KUBERNETES_VERSIONS[-1], strict=True)
        if manifest["kind"] in ("Deployment", "Job"):
            pod = manifest["spec"]["template"]["spec"]
            assert pod["containers"][0]["image"] == f"eddy:{project_version()}"
            assert pod["volumes"][0]["configMap"]["name"] == generated


def compose() -> Manifest:
    loaded: Manifest = yaml.safe_load((K8S / "compose.yaml").read_text("utf-8"))
    return loaded


def test_compose_runs_the_kafka_that_the_tests_run() -> None:
    services = compose()["services"]
    assert services["kafka"]["image"] == f"apache/kafka:{kafka_version()}"
    settings = services["kafka"]["environment"]
    pipeline = load_pipeline(BASE / "pipeline.yaml")
    assert f"INSIDE://{pipeline.kafka.bootstrap}" in settings["KAFKA_ADVERTISED_LISTENERS"]
    assert services["kafka"]["ports"] == ["127.0.0.1:9092:9094"]


@pytest.mark.parametrize("name", ["topics", "worker"])
def test_compose_starts_eddy_on_request_and_locked_down(name: str) -> None:
    service = compose()["services"][name]
    assert service["profiles"] == ["eddy"]
    assert service["image"] == f"eddy:{project_version()}"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert (K8S / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    for mount in service["volumes"]:
        source = mount.split(":")[0]
        assert source in compose()["volumes"] or (K8S / source).is_file()


def instructions() -> list[list[str]]:
    """The words of every instruction of the Dockerfile, continued lines joined."""
    text = (K8S / "Dockerfile").read_text("utf-8")
    lines = [x for x in text.splitlines() if not x.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line.split() for line in joined.splitlines() if line.strip()]


def test_the_image_ends_as_a_user_with_a_number() -> None:
    arguments = dict(x[1].split("=", 1) for x in instructions() if x[0] == "ARG" and "=" in x[1])
    users = [x[1] for x in instructions() if x[0] == "USER"]
    user = users[-1].replace("${UID}", arguments["UID"])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert user.split(":")[0] == str(PODS["Deployment/eddy-worker"]["securityContext"]["runAsUser"])


def test_the_image_starts_eddy_and_is_built_from_the_lock() -> None:
    words = instructions()
    assert [x[1:] for x in words if x[0] == "ENTRYPOINT"] == [['["eddy"]']]
    assert sum(x[0] == "FROM" for x in words) == 2
    assert any("requirements.lock" in x and "--constraint" in x for x in words if x[0] == "RUN")
    wanted = {name for x in words if x[0] == "COPY" and "--from=build" not in x for name in x[1:-1]}
    ignore = (K8S / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert wanted == {line[1:] for line in ignore if line.startswith("!")}
    assert not [name for name in wanted if not (ROOT / name).exists()]


def test_the_lock_pins_what_the_project_needs() -> None:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pinned = [x for x in lines if x and not x.startswith("#")]
    assert not [x for x in pinned if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", x)]
    names = {canonical(x.split("==")[0]) for x in pinned}
    assert not [x for x in names if re.match(r"nvidia-|cuda-|triton$|eddy$", x)]
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["bench"], *extras["dev"]]
    found = {canonical(re.split(r"[\[<>=!~; ]", x)[0]) for x in needed}
    assert found <= names


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def project_version() -> str:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    return str(tomllib.loads(text)["project"]["version"])
