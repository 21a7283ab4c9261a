"""A whole service measured in the lab: where the time goes from its instantiation to RUNNING.

python3 -m tests.lab box --bake -- .venv/bin/python -m bench.service [--repeat N]
"""
