"""Errors of the deploy commands; `str(error)` is one sentence for the operator.

DeployError
├── SettingInvalid        a variable or an option is wrong; the message names it and the limit
├── PortInUse             another process holds a port of the stack
├── StackBusy             another command holds the lock of the stack
├── StackNotRunning       no stack is running
├── StackUnhealthy         parts of a stack are left; take it down first
├── ProgramFailed         a process did not start, or died while it started
├── MicroserviceRefused   options conflict with each other or with the running stack
├── ImageFailed           a container image cannot be built here
├── ComposeFailed         containers of compose do not start or are unhealthy
└── ClusterError          a Kubernetes cluster
    ├── ClusterNotConfigured  KUBECONFIG or context is missing or wrong
    ├── ClusterUnreachable    no response, or an untrusted certificate
    ├── ClusterRefused        rejected: login, permission, quota, webhook, invalid object
    │   └── ClusterForbidden  this login lacks the permission
    ├── NotManaged               an object of that name belongs to somebody else
    ├── FieldConflict         another field manager owns a field of the object
    ├── WorkloadFailed        pods cannot become ready, or are lost
    ├── ControlPlaneRefused   seldon-cli in the control plane's pod failed
    └── ClusterTimeout        not ready, or not deleted, in time

The gateway's errors and the model's have trees of their own: seldon_gateway.errors,
serving_core.errors.
"""


class DeployError(Exception):
    """Base class of the errors of the deploy commands."""


class SettingInvalid(DeployError):
    """A variable or an option is wrong."""


class PortInUse(DeployError):
    """Another process holds a port of the stack."""


class StackBusy(DeployError):
    """Another command holds the lock of the stack."""


class StackNotRunning(DeployError):
    """No stack is running."""


class StackUnhealthy(DeployError):
    """Parts of a stack are left: neither usable nor gone."""


class ProgramFailed(DeployError):
    """A process did not start, or died while it started."""


class MicroserviceRefused(DeployError):
    """Options conflict with each other or with the running stack."""


class ImageFailed(DeployError):
    """A container image cannot be built here."""


class ComposeFailed(DeployError):
    """Containers of compose do not start or are unhealthy."""


class ClusterError(DeployError):
    """A request to a Kubernetes cluster failed."""


class ClusterNotConfigured(ClusterError):
    """KUBECONFIG or the context is missing or wrong."""


class ClusterUnreachable(ClusterError):
    """The API server does not respond, or its certificate is not trusted."""


class ClusterRefused(ClusterError):
    """The cluster rejected the request: login, permission, quota, webhook or object."""


class ClusterForbidden(ClusterRefused):
    """This login lacks the permission."""


class NotManaged(ClusterError):
    """An object of that name belongs to somebody else."""


class FieldConflict(ClusterError):
    """Another field manager owns a field of the object."""


class WorkloadFailed(ClusterError):
    """Pods cannot become ready, or are lost."""


class ControlPlaneRefused(ClusterError):
    """`seldon-cli` in the control plane's pod ended with an error."""


class ClusterTimeout(ClusterError):
    """Not ready, or not deleted, in time."""
