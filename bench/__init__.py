"""What a relayed token costs, measured on this machine: `python -m bench`.

Everything runs on the loopback, for a bounded time, and ends with the run. The cost of a relay is told beside nginx's as a plain
proxy, in pairs within one run, because a figure of its own says more about the machine than about the relay.
"""
