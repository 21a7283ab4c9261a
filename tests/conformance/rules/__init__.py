"""The declared deviations: where, how and why the agent decides otherwise than the reference.

A rule sees what a vector asks, never what was expected, its name or its id.
"""

from dataclasses import replace

from tests.conformance.rules.base import Rule
from tests.conformance.rules.cleaning import cleaner_rules
from tests.conformance.rules.clusternodes import cluster_node_rules
from tests.conformance.rules.components import component_rules
from tests.conformance.rules.electing import electing_rules
from tests.conformance.rules.examples import example_of
from tests.conformance.rules.files import file_rules
from tests.conformance.rules.gateway import gateway_rules
from tests.conformance.rules.nodenetwork import node_network_rules

RULES: tuple[Rule, ...] = tuple(
    replace(rule, example=example_of(rule.area, rule.name))
    for rule in (
        *file_rules(),
        *gateway_rules(),
        *node_network_rules(),
        *electing_rules(),
        *cleaner_rules(),
        *cluster_node_rules(),
        *component_rules(),
    )
)

__all__ = ["RULES", "Rule"]
