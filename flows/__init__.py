"""Flows that compose tasks into jobs, the command line, and the only place that reads settings and the environment."""

import os

# Read once, when torch loads its thread pool. Idle threads that spin cost nothing on a machine of one's own, but make
# inference on two cores ten to twenty times slower as soon as anything else wants to run there.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
