"""An emulator of OneGate: state in, the answers of OpenNebula 7.4 or 6.4 out.

It holds virtual machines, services and user templates as state and computes every answer; no
recorded text is kept here. How faithful it is, `tests/unit/lab/test_onegate_replay.py` proves
against exchanges that were recorded from real servers. Standard library only, so that it runs in a
plain python3.

    python -m tests.lab.onegate --listen 127.0.0.1:5030 --control /run/onegate.sock
"""
