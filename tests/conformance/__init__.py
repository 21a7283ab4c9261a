"""Conformance: the decisions of the reference, run against this agent's."""
