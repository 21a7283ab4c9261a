"""The framework of the OneKE agent: it knows no role and no service by name."""

__version__ = "0.1.0"
