"""What a node gets from the image it booted from, and what is left to be fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from appliance.facts import Facts, FactsWanted
from appliance.plan import Action
from appliance.role import StatusLine
from appliance.service import Service
from roles.common.components import Charts, ChartSource, ComponentsView, charts_on
from roles.common.imagestore import (
    ImageStore,
    Stored,
    drop_ins_needed,
    image_store,
    kinds_of_node,
    plan_archives,
)
from roles.common.outside import (
    TIME_SERVERS,
    Outside,
    OutsideParams,
    describe_outside,
    find_outside,
    refuse_outside,
)

_DEPLOYS_CHARTS = "master"


class SuppliedParams(ComponentsView, OutsideParams, Protocol):
    """What is read of a node's parameters."""


@dataclass(frozen=True)
class Supplies:
    """What a node of a role needs of the image.

    Attributes:
        services: The drop-ins.
    """

    params: SuppliedParams
    services: Mapping[str, Service]
    role: str

    @property
    def needed(self) -> tuple[str, ...]:
        """The drop-ins whose images this node has to have."""
        kinds = kinds_of_node(self.role, is_tainted=self.params.rke2.masters_tainted)
        return drop_ins_needed(self.params, self.services, kinds)

    @property
    def deployed(self) -> Mapping[str, ChartSource]:
        """The charts that this node deploys, by drop-in."""
        return charts_on(self.params, self.services) if self.role == _DEPLOYS_CHARTS else {}

    @property
    def store(self) -> ImageStore:
        """The look at what the image has."""
        return image_store(self.services, [chart.file for chart in self.deployed.values()])

    def wanted(self, own: FactsWanted) -> FactsWanted:
        """Add what is looked at to what else a node looks at."""
        return replace(own, files=(*own.files, TIME_SERVERS), lasting=(*own.lasting, self.store))

    def plan(self, facts: Facts) -> tuple[Action, ...]:
        """Offer RKE2 what the image has for this node.

        Raises:
            ParameterProblems: Something has to be fetched, and there is no way to.
        """
        refuse_outside(self.params, self._outside(facts))
        return tuple(plan_archives(self.needed, self.store, self._stored(facts)))

    def charts(self, facts: Facts) -> Charts:
        """Return the charts that the image has, by name of their file, in base64."""
        return {name: chart.content for name, chart in self._stored(facts).charts.items()}

    def describe(self, facts: Facts) -> Iterator[StatusLine]:
        """Say what is fetched, and from where."""
        return describe_outside(self.params, self._outside(facts), facts.files.get(TIME_SERVERS))

    def _stored(self, facts: Facts) -> Stored:
        return facts.found(self.store)

    def _outside(self, facts: Facts) -> tuple[Outside, ...]:
        needed = {name: self.services[name].image for name in self.needed}
        return tuple(find_outside(self.params, needed, self.deployed, self._stored(facts)))
