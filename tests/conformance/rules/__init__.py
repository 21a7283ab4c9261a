"""The declared deviations: where, how and why the agent decides otherwise than the reference.

A rule sees what a vector asks, never what was expected, its name or its id.
"""

from tests.conformance.rules.base import Rule
from tests.conformance.rules.files import file_rules
from tests.conformance.rules.gateway import gateway_rules

RULES: tuple[Rule, ...] = (*file_rules(), *gateway_rules())

__all__ = ["RULES", "Rule"]
