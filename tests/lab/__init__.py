"""The lab: boots nodes of a OneKE service on one machine; see README.md."""
