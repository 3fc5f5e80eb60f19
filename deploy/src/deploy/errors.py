"""What can go wrong while deploying; `str(error)` is the one sentence the operator reads.

DeployError
├── SettingInvalid        a variable or an option is wrong; the message names it and the limit
├── PortInUse             another process holds a port of the stack
├── StackBusy             another command is changing the stack
├── StackNotRunning       there is no stack to work on
├── StackUnhealthy         parts of a stack are left; take it down first
├── ProgramFailed         a process did not start, or died while it started
├── MicroserviceRefused   a microservice's options contradict each other or the running stack
├── ImageFailed           a container image cannot be built here
├── ComposeFailed         containers by compose do not start or are not as they should be
└── ClusterError          a Kubernetes cluster
    ├── ClusterNotConfigured  which one, or as whom, is not said or wrong: KUBECONFIG, context
    ├── ClusterUnreachable    it does not answer, or is not to be trusted
    ├── ClusterRefused        it does not let us: login, permission, quota, webhook, invalid
    │   └── ClusterForbidden  permission alone is wanting
    ├── NotManaged               an object of that name belongs to somebody else
    ├── FieldConflict         somebody else set a field of our object
    ├── WorkloadFailed        pods that will not become ready, or are lost
    ├── ControlPlaneRefused   seldon-cli in the control plane's pod says no
    └── ClusterTimeout        not ready, or not gone, in time

The gateway's errors and the model's have trees of their own: seldon_gateway.errors,
model_runtime.errors.
"""


class DeployError(Exception):
    """A command that could not do its work."""


class SettingInvalid(DeployError):
    """A variable or an option is wrong."""


class PortInUse(DeployError):
    """Another process holds a port of the stack."""


class StackBusy(DeployError):
    """Another command is changing the stack."""


class StackNotRunning(DeployError):
    """There is no stack to work on."""


class StackUnhealthy(DeployError):
    """Parts of a stack are left: neither usable nor gone."""


class ProgramFailed(DeployError):
    """A process did not start, or died while it started."""


class MicroserviceRefused(DeployError):
    """A microservice's options contradict each other or the running stack."""


class ImageFailed(DeployError):
    """A container image cannot be built here."""


class ComposeFailed(DeployError):
    """Containers by compose do not start or are not as they should be."""


class ClusterError(DeployError):
    """A Kubernetes cluster does not do what it was asked."""


class ClusterNotConfigured(ClusterError):
    """Which cluster, or as whom, is not said or wrong."""


class ClusterUnreachable(ClusterError):
    """It does not answer, or is not to be trusted."""


class ClusterRefused(ClusterError):
    """It does not let us: login, permission, quota, webhook, an invalid object."""


class ClusterForbidden(ClusterRefused):
    """This login may not do it."""


class NotManaged(ClusterError):
    """An object of that name belongs to somebody else."""


class FieldConflict(ClusterError):
    """Somebody else set a field of our object."""


class WorkloadFailed(ClusterError):
    """Pods that will not become ready, whatever the time."""


class ControlPlaneRefused(ClusterError):
    """`seldon-cli` in the control plane's pod ended with an error."""


class ClusterTimeout(ClusterError):
    """Not ready, or not gone, in time."""
