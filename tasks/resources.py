"""What is fixed when the tasks are registered: images, nodes, GPUs, pod volumes.

``pyflyte register`` and ``package`` read these variables once; a launch cannot change them.
"""

import os

from flytekit import Resources, Secret

NODES = int(os.environ.get("AIRWORTHY_NODES", "2"))
RANKS_PER_NODE = int(os.environ.get("AIRWORTHY_RANKS_PER_NODE", "1"))
GPUS_PER_NODE = os.environ.get("AIRWORTHY_GPUS_PER_NODE", "")

SMALL = Resources(cpu="1", mem="2Gi")
DATA = Resources(cpu="2", mem="6Gi")
TRAINING = Resources(cpu="2", mem="6Gi", gpu=GPUS_PER_NODE or None)

# A waiting OpenMP thread must not spin on the core that another one needs. OpenMP reads this when
# it is loaded: a pod has it from its task, a local training's processes from ``open_state``.
WAITING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}

# Tasks that sign (certificates, releases, the ledger's head): Flyte mounts the key from a secret.
# Both apply in a pod only; a local run makes and names a development key.
SIGNING_KEY = Secret(group="airworthy", key="signing-key", mount_requirement=Secret.MountType.FILE)
SIGNING_ENVIRONMENT = {"AIRWORTHY_SIGNING_KEY": "/etc/flyte/secrets/airworthy/signing-key"}
