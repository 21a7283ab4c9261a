"""The manifests of every combination of switches, judged by schemas."""
