"""Snapshots of etcd: what RKE2 is told, and where an object store's keys are."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from appliance import paths
from appliance.actions import WriteFile
from appliance.context import Context
from appliance.decision import Decided, decide
from appliance.errors import ParameterProblems
from roles.common.components import MANIFESTS, build_manifests, plan_components
from roles.common.snapshots import S3_SECRET, snapshot_settings, what_is_wrong_with_schedule
from tests.contexts import SERVICES
from tests.unit.appliance.machine import ONE_ENV
from tests.unit.roles.cluster import CONFIG, Cloud, Machine
from tests.unit.roles.nodes import NODE

PREFIX = "ONEAPP_RKE2_SNAPSHOT_"
S3: Mapping[str, str] = {
    "S3_BUCKET": "backup",
    "S3_ENDPOINT": "s3.example.org:9000",
    "S3_FOLDER": "oneke/23",
    "S3_ACCESS_KEY": "access-me",
    "S3_SECRET_KEY": "hide-me",
}
KEYS = ("access-me", "hide-me")
SECRETS = (*KEYS, *(base64.b64encode(text.encode()).decode() for text in KEYS))
FILE = "one-etcd-s3.yaml"


def decided(**changes: str) -> Decided:
    named = {f"{PREFIX}{key}": text for key, text in changes.items()}
    return decide("master", Context({**NODE, **named}, "test"), SERVICES)


def settings(**changes: str) -> dict[str, object]:
    return snapshot_settings(decided(**changes).params.snapshots)


def problems(**changes: str) -> dict[str, str]:
    with pytest.raises(ParameterProblems) as caught:
        decided(**changes)
    return {one.key.removeprefix(PREFIX): one.accepted for one in caught.value.problems}


def secret_of(**changes: str) -> Any:
    files = {one.name: one.text for one in build_manifests(decided(**changes).params, SERVICES)}
    return yaml.safe_load(files[FILE])


def told(**changes: str) -> dict[str, str]:
    data = secret_of(**changes)["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


# --- what RKE2 is told ----------------------------------------------------------------------------


def test_what_is_as_usual_is_not_said() -> None:
    assert settings() == {}


def test_schedule_retention_and_compression_are_as_asked() -> None:
    found = settings(SCHEDULE="30 2 * * sun", RETENTION="14", COMPRESSED="YES")
    assert found == {
        "etcd-snapshot-schedule-cron": "30 2 * * sun",
        "etcd-snapshot-retention": 14,
        "etcd-snapshot-compress": True,
    }


def test_without_snapshots_nothing_else_is_said_and_no_keys_are_handed_out() -> None:
    assert settings(ENABLED="NO", **S3) == {"etcd-disable-snapshots": True}
    files = build_manifests(decided(ENABLED="NO", **S3).params, SERVICES)
    assert FILE not in {one.name for one in files}
    assert any("S3_BUCKET has no effect" in line for line in decided(ENABLED="NO", **S3).warnings)


def test_of_an_object_store_the_settings_name_the_secret_alone() -> None:
    """With anything more RKE2 would not look at the Secret."""
    assert settings(**S3) == {"etcd-s3": True, "etcd-s3-config-secret": S3_SECRET}


def test_own_settings_about_the_store_put_the_secret_aside() -> None:
    def doubts(extra: str) -> list[str]:
        named = {f"{PREFIX}{key}": text for key, text in S3.items()}
        context = Context({**NODE, **named, "ONEAPP_RKE2_EXTRA_CONFIG": extra}, "test")
        found = decide("master", context, SERVICES).warnings
        return [line for line in found if "looks at the Secret" in line]

    assert len(doubts("etcd-s3-bucket: other\netcd-s3-region: r")) == 1
    assert doubts("etcd-s3-retention: 9") == []


# --- the Secret -----------------------------------------------------------------------------------


def test_the_secret_says_all_that_is_known_of_the_store() -> None:
    found = secret_of(**S3)
    assert found["metadata"] == {"name": S3_SECRET, "namespace": "kube-system"}
    assert found["type"] == "etcd.k3s.cattle.io/s3-config-secret"
    assert told(**S3, S3_TLS_ENABLED="NO", S3_REGION="eu-west-1", RETENTION="14") == {
        "etcd-s3-bucket": "backup",
        "etcd-s3-endpoint": "s3.example.org:9000",
        "etcd-s3-region": "eu-west-1",
        "etcd-s3-folder": "oneke/23",
        "etcd-s3-access-key": "access-me",
        "etcd-s3-secret-key": "hide-me",
        "etcd-s3-insecure": "true",
        "etcd-s3-retention": "14",
    }


def test_a_bucket_alone_is_enough() -> None:
    assert told(S3_BUCKET="backup") == {"etcd-s3-bucket": "backup", "etcd-s3-retention": "5"}


def test_the_file_is_for_root_alone_and_not_shown() -> None:
    actions = plan_components(decided(**S3).params, SERVICES)
    (file,) = (
        one for one in actions if isinstance(one, WriteFile) and one.path == MANIFESTS / FILE
    )
    assert (file.mode, file.owner, file.is_secret) == (0o600, "root", True)


def test_the_keys_are_in_their_file_and_nowhere_else() -> None:
    cloud = Cloud()
    named = {f"{PREFIX}{key}": text for key, text in S3.items()}
    machine = Machine(cloud, "master", 101, **named)
    machine.run()
    holders = {
        str(path)
        for path, text in machine.files.texts().items()
        if any(secret in text for secret in SECRETS)
    }
    # Besides, they are in the VM's context, where they come from.
    contexts = {ONE_ENV, str(paths.CONTEXT_IN_FORCE)}
    assert holders - contexts == {str(MANIFESTS / FILE)}
    assert all(
        machine.files.kept[PurePosixPath(path)].mode == 0o600 for path in holders - {ONE_ENV}
    )
    assert "etcd-s3-config-secret" in machine.files.texts()[CONFIG]
    said = [str(line) for line in machine.told] + [str(machine.log.lines)]
    said += [str(call) for call in machine.commands.ran]
    said += [str(vm) for vm in cloud.onegate.vms.values()]
    assert not any(secret in line for line in said for secret in SECRETS)


# --- what is refused ------------------------------------------------------------------------------


def test_what_does_not_fit_together_is_refused() -> None:
    assert "which" not in problems(S3_ENDPOINT="s3.example.org")["S3_BUCKET"]
    assert "lets nobody in" in problems(S3_BUCKET="b-1", S3_ACCESS_KEY="x")["S3_SECRET_KEY"]
    assert "PEM" in problems(S3_BUCKET="b-1", S3_CA="x")["S3_CA"]
    assert "no minute" in problems(SCHEDULE="60 * * * *")["SCHEDULE"]


@pytest.mark.parametrize(
    "text",
    [
        "0 */12 * * *",
        "*/5 0-6,12 1,15 jan-mar MON-FRI",
        "30 2 * * sun",
        "0 0 ? * ?",
        "5/10 * * * *",
        "@daily",
        "@every 1h30m",
    ],
)
def test_a_schedule_is_taken(text: str) -> None:
    assert what_is_wrong_with_schedule(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "daily",
        "@dayly",
        "@every day",
        "* * * *",
        "0 0 0 * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 7",
        "5-2 * * * *",
        "*/0 * * * *",
        "*-5 * * * *",
        "1,,2 * * * *",
        "* * * mon *",
        "-1 * * * *",
        "\u0661 * * * *",
    ],
)
def test_a_schedule_is_refused(text: str) -> None:
    assert what_is_wrong_with_schedule(text)


@given(
    st.tuples(
        *(st.integers(0, 99) for _ in range(5)),
    )
)
def test_numbers_are_taken_within_their_bounds_alone(numbers: tuple[int, ...]) -> None:
    minute, hour, day, month, week_day = numbers
    is_sound = minute < 60 and hour < 24 and 1 <= day <= 31 and 1 <= month <= 12 and week_day < 7
    wrong = what_is_wrong_with_schedule(" ".join(map(str, numbers)))
    assert (wrong is None) is is_sound
