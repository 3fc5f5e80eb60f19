"""Check that each package declares what it imports and imports what it declares.

deptry reads one pyproject.toml, and each package has its own. A dependency that is not imported,
such as a program or a plugin, is listed there in [tool.deptry.per_rule_ignores] with its reason.
"""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]

# deptry reads a package's modules from its installed files; make setup-dev does not install these.
NOT_INSTALLED = {"tensorflow-cpu": ("tensorflow",)}


def packages(root: Path) -> list[Path]:
    """The folders of the packages."""
    return sorted(path.parent for path in root.glob("*/pyproject.toml"))


def modules(package: Path) -> list[str]:
    """The top-level modules of a package of ours, which may be installed editable."""
    return sorted(
        path.stem
        for path in (package / "src").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    )


def module_names(root: Path) -> Iterator[str]:
    """Module names by distribution, as deptry's option takes them."""
    for package in packages(root):
        name = tomllib.loads((package / "pyproject.toml").read_text())["project"]["name"]
        yield f"{name}={'|'.join(modules(package))}"
    for name, found in NOT_INSTALLED.items():
        yield f"{name}={'|'.join(found)}"


def check(package: Path, names: str) -> str | None:
    """What deptry reports on one package; None if it finds nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "deptry", "src", "--no-ansi", "--package-module-name-map", names],
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.returncode:
        return None
    return done.stderr + done.stdout or f"deptry ended with exit status {done.returncode}"


def main(root: Path = ROOT) -> int:
    """Check every package; the exit status is 1 if one has a finding."""
    names = ",".join(module_names(root))
    found = packages(root)
    with ThreadPoolExecutor() as pool:
        reports = list(pool.map(lambda package: check(package, names), found))
    for package, report in zip(found, reports, strict=True):
        if report is not None:
            print(f"{package.name}: {report}")  # noqa: T201
    failed = any(report is not None for report in reports)
    if not failed:
        print(f"Dependencies of {len(found)} packages: no issues found")  # noqa: T201
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
