"""The gateway measured in the lab: failover, discovery, changes under load, size of the service.

python3 -m tests.lab box --bake -- .venv/bin/python -m bench.gateway [--only NAME ...]
"""
