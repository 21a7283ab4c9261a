"""An emulator of OneFlow and of the part of oned that makes and ends VMs.

It works on the state that `tests.lab.onegate` serves: services are instantiated from templates,
their roles come up in deployment order and wait for READY, they are scaled and undeployed, and what
happens to VMs behind its back shows as it would. Machines are run by a `Driver`: the lab's boots
nodes, the tests' only lets time pass. How faithful it is, `tests/unit/lab/test_oneflow_replay.py`
proves against recorded timelines. Standard library only, as it runs in OneGate's process.

    template.py    what a service is made of
    driver.py      orders to whoever runs the machines, and what comes back
    machines.py    oned: VMs from pending to done, their addresses and contexts
    flow.py        OneFlow: roles and services
    operations.py  all of it from outside, over the control socket of the emulator
"""
