"""The proof: a simulated provider, the relay and a real nginx as processes, six experiments with them, and a report.

What is shown is measured. Nothing here knows how the relay works inside: it asks over HTTP, and believes the provider's own
dashboard, the process's memory as the kernel counts it, and the clock.
"""
