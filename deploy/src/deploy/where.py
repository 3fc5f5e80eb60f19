"""Where the commands act: on this machine's stack, or on the one in a cluster."""

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
class Where:
    """Which stack.

    Attributes:
        target: What runs it.
        context: Of KUBECONFIG; None for its current one.
    """

    target: Target
    context: str | None = None

    @property
    def in_cluster(self) -> bool:
        """Whether it is one in Kubernetes."""
        return self.target is Target.KUBERNETES


def choose(environ: Mapping[str, str], target: str | None, context: str | None) -> Where:
    """What an option says, else SELDON_TARGET, else this machine.

    Raises:
        SettingInvalid: Neither of the two, or a context of no cluster.
    """
    text = target or environ.get(VARIABLE) or Target.LOCAL
    if text not in list(Target):
        raise SettingInvalid(
            f"{'--target' if target else VARIABLE} is {text!r}, expected {' or '.join(Target)}"
        )
    where = Where(Target(text), context)
    if context is not None and not where.in_cluster:
        raise SettingInvalid(
            f"--context is {context!r}, expected none with target {where.target}; add --target "
            f"{Target.KUBERNETES}, or set {VARIABLE}={Target.KUBERNETES}"
        )
    return where
