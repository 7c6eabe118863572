"""Ring kernels on the nodes of a cluster: ``RingKernelRuntime(cluster="ray")``.

An engine, Ray, starts one **host** on each node: a process with an ordinary runtime in it. A ring kernel that is
launched there is an ordinary one, and has a deputy in the runtime of the notebook, which everybody talks to. Between
the two pass frames of messages (`wire`); messages are encoded, never pickled. Code, the bodies and classes that were
defined in the notebook, goes from the notebook to the hosts, and never the other way.
"""

from .driver import Cluster, Node, Nodes, Placement, checked_placement
from .remote import RemoteKernel

__all__ = ["Cluster", "Node", "Nodes", "Placement", "RemoteKernel", "checked_placement"]
