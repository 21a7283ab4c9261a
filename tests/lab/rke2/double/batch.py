"""Jobs, and the CronJobs that make them."""

from __future__ import annotations

import calendar
import contextlib
import secrets
import time
from collections.abc import Sequence
from typing import Any

from .cron import last_due, parse_schedule
from .journal import event
from .knobs import Knobs
from .owners import owned, pod_of, reference
from .podspec import default_pod, end_gently, is_finished
from .store import Conflict, NotFound, Object, Store, condition, timestamp

JOBS, CRONJOBS = "jobs.batch", "cronjobs.batch"
MINUTE_ANNOTATION = "batch.kubernetes.io/cronjob-scheduled-timestamp"


class BatchControllers:
    """The job controller and the cronjob controller."""

    def __init__(self, store: Store, knobs: Knobs) -> None:
        self._store = store
        self._knobs = knobs

    def tick(
        self, cronjobs: Sequence[Object], jobs: Sequence[Object], pods: Sequence[Object]
    ) -> None:
        """Look at all of them once."""
        for cronjob in cronjobs:
            self._keep_cronjob(cronjob, owned(jobs, cronjob), time.time())
        for job in jobs:
            with contextlib.suppress(NotFound):  # one that was replaced just now
                self._keep_job(job, owned(pods, job))

    # --- CronJobs ---------------------------------------------------------------------------

    def _keep_cronjob(self, cronjob: Object, jobs: Sequence[Object], now: float) -> None:
        spec, status = cronjob["spec"], cronjob.get("status") or {}
        self._forget_history(spec, jobs)
        active = [job for job in jobs if not is_done(job)]
        fresh: dict[str, Any] = {"active": [_reference(job) for job in active]}
        done = [job["status"].get("completionTime") for job in jobs if succeeded(job)]
        if any(done):
            fresh["lastSuccessfulTime"] = max(filter(None, done))
        minute = None if spec.get("suspend") else self._due(cronjob, now)
        if minute is not None and self._may_run(cronjob, active, minute, now):
            self._make_job(cronjob, minute)
            fresh["lastScheduleTime"] = timestamp(minute * self._minute_s())
        if any(status.get(key) != value for key, value in fresh.items()):
            self._tell(CRONJOBS, cronjob, fresh)

    def _minute_s(self) -> float:
        return self._knobs.interval("minute")

    def _due(self, cronjob: Object, now: float) -> int | None:
        """The minute that is due by now and was not seen to, if there is one."""
        last = (cronjob.get("status") or {}).get("lastScheduleTime")
        since = _seconds(last or cronjob["metadata"]["creationTimestamp"])
        # Times of objects have whole seconds, minutes may be shorter than they seem.
        after = int((since + (0.5 if last else 0.999)) / self._minute_s())
        schedule = parse_schedule(str(cronjob["spec"]["schedule"]))
        return last_due(schedule, after, int(now / self._minute_s()))

    def _may_run(self, cronjob: Object, active: Sequence[Object], minute: int, now: float) -> bool:
        spec, name = cronjob["spec"], cronjob["metadata"]["name"]
        limit = spec.get("startingDeadlineSeconds")
        if limit is not None:
            late_s = (now - minute * self._minute_s()) * 60 / self._minute_s()
            if late_s > float(limit):
                event("cronjob.missed", cronjob=name, late_s=round(late_s))
                return False
        policy = spec.get("concurrencyPolicy", "Allow")
        if active and policy == "Forbid":
            event("cronjob.skipped", cronjob=name, active=active[0]["metadata"]["name"])
            return False
        for job in active if policy == "Replace" else []:
            self._store.delete(JOBS, job["metadata"]["namespace"], job["metadata"]["name"])
        return True

    def _make_job(self, cronjob: Object, minute: int) -> None:
        metadata, template = cronjob["metadata"], cronjob["spec"]["jobTemplate"]
        own = template.get("metadata") or {}
        job = {
            "metadata": {
                "name": f"{metadata['name']}-{minute}",
                "labels": own.get("labels") or {},
                "annotations": {
                    **(own.get("annotations") or {}),
                    MINUTE_ANNOTATION: timestamp(minute * self._minute_s()),
                },
                "ownerReferences": [reference("CronJob", cronjob)],
                "generation": 1,
            },
            "spec": template["spec"],
        }
        try:
            self._store.create(JOBS, metadata["namespace"], job)
        except Conflict:
            return
        event("cronjob.due", cronjob=metadata["name"], job=job["metadata"]["name"])

    def _forget_history(self, spec: Object, jobs: Sequence[Object]) -> None:
        for kind, default, chosen in (
            ("successful", 3, [job for job in jobs if succeeded(job)]),
            ("failed", 1, [job for job in jobs if condition(job, "Failed") == "True"]),
        ):
            kept = int(spec.get(f"{kind}JobsHistoryLimit", default))
            for job in chosen[: max(0, len(chosen) - kept)]:
                self._store.delete(JOBS, job["metadata"]["namespace"], job["metadata"]["name"])

    # --- Jobs -------------------------------------------------------------------------------

    def _keep_job(self, job: Object, pods: Sequence[Object]) -> None:
        spec, status = job["spec"], job.get("status") or {}
        if is_done(job):
            self._forget_job(job)
            return
        now = time.time()
        done = [pod for pod in pods if pod["status"]["phase"] == "Succeeded"]
        failed = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
        active = [pod for pod in pods if not is_finished(pod)]
        began = str(status.get("startTime") or timestamp(now))
        limit = spec.get("activeDeadlineSeconds")
        fresh = {"startTime": began, "active": len(active), "failed": len(failed)}
        fresh |= {"succeeded": len(done)}
        restarts = sum(_restarts(pod) for pod in active)
        if len(done) >= int(spec.get("completions") or 1):
            fresh |= {"active": 0, "completionTime": timestamp(now)}
            self._finish(job, fresh, active, "Complete", "", "")
        elif limit is not None and now - _seconds(began) > float(limit):
            words = "Job was active longer than specified deadline"
            self._finish(job, fresh, active, "Failed", "DeadlineExceeded", words)
        elif len(failed) + restarts > int(spec.get("backoffLimit", 6)):
            words = "Job has reached the specified backoff limit"
            self._finish(job, fresh, active, "Failed", "BackoffLimitExceeded", words)
        else:
            if any(status.get(key) != value for key, value in fresh.items()):
                self._tell(JOBS, job, fresh)
            if not active and not spec.get("suspend") and self._is_time(failed, now):
                self._make_pod(job)

    def _is_time(self, failed: Sequence[Object], now: float) -> bool:
        """Whether the pause after the last failure is over; it doubles each time."""
        if not failed:
            return True
        pause_s = self._knobs.interval("job_backoff") * 2 ** min(len(failed) - 1, 6)
        ended = max(_ended(pod) for pod in failed)
        return bool(now - ended >= pause_s)

    def _make_pod(self, job: Object) -> None:
        metadata = job["metadata"]
        name = f"{metadata['name']}-{secrets.token_hex(3)[:5]}"
        pod = pod_of(job["spec"]["template"], "Job", job, name)
        labels = {"job-name": metadata["name"], "batch.kubernetes.io/job-name": metadata["name"]}
        labels["batch.kubernetes.io/controller-uid"] = metadata["uid"]
        pod["metadata"]["labels"] |= labels
        self._store.create("pods", metadata["namespace"], default_pod(pod))

    def _finish(
        self,
        job: Object,
        fresh: dict[str, Any],
        active: Sequence[Object],
        kind: str,
        reason: str,
        message: str,
    ) -> None:
        for pod in active:
            try:
                end_gently(self._store, pod, None)
            except (NotFound, Conflict):
                continue
        told = {"type": kind, "status": "True", "reason": reason, "message": message}
        told["lastTransitionTime"] = timestamp()
        self._tell(JOBS, job, fresh | {"active": 0, "conditions": [told]})
        event("job.ended", job=job["metadata"]["name"], how=kind, reason=reason)

    def _forget_job(self, job: Object) -> None:
        """Remove a job that is to go some time after its end."""
        limit = job["spec"].get("ttlSecondsAfterFinished")
        told = next(one for one in job["status"]["conditions"] if one["status"] == "True")
        ended = _seconds(told["lastTransitionTime"])
        if limit is not None and time.time() - ended > float(limit):
            self._store.delete(JOBS, job["metadata"]["namespace"], job["metadata"]["name"])

    def _tell(self, resource: str, obj: Object, fresh: dict[str, Any]) -> None:
        metadata = obj["metadata"]
        self._store.change(
            resource,
            metadata["namespace"],
            metadata["name"],
            lambda old: old | {"status": (old.get("status") or {}) | fresh},
        )


def is_done(job: Object) -> bool:
    """Whether a job has ended, well or not."""
    return succeeded(job) or condition(job, "Failed") == "True"


def succeeded(job: Object) -> bool:
    """Whether a job has done what it was for."""
    return condition(job, "Complete") == "True"


def _reference(job: Object) -> dict[str, str]:
    metadata = job["metadata"]
    return {"kind": "Job", "namespace": metadata["namespace"], "name": metadata["name"]}


def _restarts(pod: Object) -> int:
    told = pod.get("status", {}).get("containerStatuses") or []
    return sum(int(each.get("restartCount", 0)) for each in told)


def _ended(pod: Object) -> float:
    for each in pod.get("status", {}).get("containerStatuses") or []:
        if at := (each.get("state", {}).get("terminated") or {}).get("finishedAt"):
            return _seconds(at)
    return _seconds(pod["metadata"]["creationTimestamp"])


def _seconds(at: str) -> float:
    return float(calendar.timegm(time.strptime(at, "%Y-%m-%dT%H:%M:%SZ")))
