"""What can go wrong on this machine; `str(error)` is the one sentence the operator reads.

DeployError
├── SettingInvalid        a variable or an option is wrong; the message names it and the limit
├── PortInUse             another process holds a port of the stack
├── StackBusy             another command is changing the stack
├── StackNotRunning       there is no stack to work on
├── StackHalfDead         parts of a stack are left; take it down first
├── ProgramFailed         a process did not start, or died while it started
├── MicroserviceRefused   a microservice's options contradict each other or the running stack
└── ImageFailed           a container image cannot be built here

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


class StackHalfDead(DeployError):
    """Parts of a stack are left: neither usable nor gone."""


class ProgramFailed(DeployError):
    """A process did not start, or died while it started."""


class MicroserviceRefused(DeployError):
    """A microservice's options contradict each other or the running stack."""


class ImageFailed(DeployError):
    """A container image cannot be built here."""
