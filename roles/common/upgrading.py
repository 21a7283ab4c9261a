"""Plans an upgrade: looks at the cluster, decides, and writes the plans; changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.render import render
from appliance.role import TaskLine, TaskResult
from appliance.system import System
from appliance.system.kubernetes import Access
from appliance.values import HostAndPort
from roles.common.upgrade import UpgradeModel, plan_upgrade

TEMPLATE = "upgrade-plans.yaml.j2"


@dataclass(frozen=True)
class UpgradePlanning:
    """The task, on a master that serves.

    Attributes:
        access: This master's own API server.
        wanted: The release to go to.
        registry: What is put in front of RKE2's own images.
        can_fetch: Whether nodes have a way to registries.
        folders: Where the template is.
    """

    system: System
    access: Access
    wanted: str
    registry: HostAndPort | None
    can_fetch: bool
    folders: Sequence[Path]

    def run(self, *, dry_run: bool) -> TaskResult:
        """Return the plans; see `Task.run`.

        Raises:
            UpgradeRefused: The cluster must not go there.
            KubernetesError: This master does not serve.
        """
        nodes = self.system.kubernetes.nodes(self.access)
        upgrade = plan_upgrade(nodes, self.wanted, self.registry, can_fetch=self.can_fetch)
        if upgrade.model is None:
            return TaskResult((TaskLine("cluster", "kept", f"every node runs {self.wanted}"),))
        doubts = tuple(TaskLine("cluster", "note", doubt) for doubt in upgrade.doubts)
        text = render_plans(self.folders, upgrade.model)
        return TaskResult((*_told(upgrade.model), *doubts), document=text)


def _told(model: UpgradeModel) -> tuple[TaskLine, ...]:
    servers = TaskLine("servers", "planned", f"{', '.join(model.servers)}, one by one")
    if not model.agents:
        return (servers,)
    agents = TaskLine("agents", "planned", f"{', '.join(model.agents)}, each drained before")
    return servers, agents


def render_plans(folders: Sequence[Path], model: UpgradeModel) -> str:
    """Write the plans."""
    return render(folders, TEMPLATE, model)
