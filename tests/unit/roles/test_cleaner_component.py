"""The drop-in `cleaner`: where its CronJob runs, what it may do, and the image it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.cli import make_parser
from tests.manifests.rendered import files_of

SCRIPT = Path(__file__).parents[3] / "packer" / "scripts" / "50-busybox-image.sh"
DROP_IN = Path(__file__).parents[3] / "service.d" / "cleaner"
FILE = "one-cleaner.yaml"


def cron_job(**changes: str) -> Any:
    """Return the CronJob of a master whose context differs so from the usual one."""
    (text,) = [file.text for file in files_of(**changes) if file.name == FILE]
    return yaml.safe_load(text)


def pod_of(job: Any) -> Any:
    """Return what its pods are."""
    return job["spec"]["jobTemplate"]["spec"]["template"]["spec"]


POD = pod_of(cron_job())
(CONTAINER,) = POD["containers"]


def test_it_is_there_unless_it_is_turned_off_or_nobody_tells_which_vms_there_are() -> None:
    assert cron_job(ONEAPP_K8S_CLEANER_ENABLED="YES") == cron_job()
    for changes in ({"ONEAPP_K8S_CLEANER_ENABLED": "NO"}, {"ONEGATE_ENDPOINT": ""}):
        assert FILE not in {file.name for file in files_of(**changes)}


def test_it_runs_every_two_minutes_one_at_a_time_and_ends_by_itself() -> None:
    job = cron_job()
    assert (job["metadata"]["namespace"], job["metadata"]["name"]) == ("kube-system", "one-cleaner")
    assert job["spec"]["schedule"] == "*/2 * * * *"
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] <= 600
    assert job["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert POD["restartPolicy"] == "Never"


def test_it_runs_on_masters_by_the_label_they_have_today_in_spite_of_their_taints() -> None:
    assert POD["nodeSelector"] == {"node-role.kubernetes.io/control-plane": "true"}
    pod = pod_of(
        cron_job(ONEAPP_RKE2_NODE_TAINTS="a.b/c=d:NoSchedule,CriticalAddonsOnly:NoExecute")
    )
    assert [one["key"] for one in pod["tolerations"]] == [
        "CriticalAddonsOnly",
        "node-role.kubernetes.io/control-plane",
        "node-role.kubernetes.io/etcd",
        "a.b/c",
    ]


def test_it_is_not_placed_on_masters_that_are_dead() -> None:
    for toleration in POD["tolerations"]:
        assert not toleration["key"].startswith("node.kubernetes.io/")
        assert toleration["key"]


def test_its_command_is_one_that_the_agent_has() -> None:
    *_, shell, verb, quiet = CONTAINER["command"]
    assert CONTAINER["command"][:3] == ["/bin/busybox", "chroot", "/host"]
    assert shell == "/usr/local/bin/oneke-agent"
    assert make_parser().parse_args([verb, quiet]).verb == "clean"


def test_it_may_change_its_root_and_nothing_else() -> None:
    rights = CONTAINER["securityContext"]
    assert rights["capabilities"] == {"drop": ["ALL"], "add": ["SYS_CHROOT"]}
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["readOnlyRootFilesystem"] is True
    assert "privileged" not in rights
    assert not any(POD.get(shared) for shared in ("hostPID", "hostIPC"))
    assert POD["automountServiceAccountToken"] is False
    assert [mount["readOnly"] for mount in CONTAINER["volumeMounts"]] == [True]


def test_its_image_is_the_one_that_is_built_in_and_is_never_pulled() -> None:
    assert CONTAINER["imagePullPolicy"] == "Never"
    assert f"IMAGE={CONTAINER['image']}\n" in SCRIPT.read_text(encoding="utf-8")


def test_an_image_without_the_archive_is_found_out_before_it_is_used() -> None:
    script = SCRIPT.read_text(encoding="utf-8")
    wanted = yaml.safe_load((DROP_IN / "image.yaml").read_text(encoding="utf-8"))
    (archive,) = wanted["needs"]["files"]
    folder, _, name = archive.rpartition("/")
    assert f"IMAGES=${{ONEKE_IMAGES:-{folder}}}\n" in script
    assert f"ARCHIVE=$IMAGES/{name}\n" in script


@pytest.mark.parametrize("key", ["requests", "limits"])
def test_it_is_small_and_says_so(key: str) -> None:
    assert CONTAINER["resources"][key]["memory"].endswith("Mi")
