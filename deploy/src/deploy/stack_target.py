"""Which stack the commands act on: the one on this machine, or one in a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from deploy.errors import SettingInvalid

VARIABLE = "SELDON_TARGET"


class Target(StrEnum):
    """As SELDON_TARGET and --target spell it."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True)
class StackTarget:
    """The stack that a command acts on.

    Attributes:
        target: Where it runs.
        context: Context of the kubeconfig file; None for the current one.
    """

    target: Target
    context: str | None = None

    @property
    def in_cluster(self) -> bool:
        """Whether the stack runs in Kubernetes."""
        return self.target is Target.KUBERNETES


def choose(environ: Mapping[str, str], target: str | None, context: str | None) -> StackTarget:
    """The target of the options, else of SELDON_TARGET, else this machine.

    Raises:
        SettingInvalid: Unknown target, or a context without a cluster.
    """
    text = target or environ.get(VARIABLE) or Target.LOCAL
    if text not in list(Target):
        raise SettingInvalid(
            f"{'--target' if target else VARIABLE} is {text!r}, expected {' or '.join(Target)}"
        )
    chosen = StackTarget(Target(text), context)
    if context is not None and not chosen.in_cluster:
        raise SettingInvalid(
            f"--context is {context!r}, expected none with target {chosen.target}; add --target "
            f"{Target.KUBERNETES}, or set {VARIABLE}={Target.KUBERNETES}"
        )
    return chosen
