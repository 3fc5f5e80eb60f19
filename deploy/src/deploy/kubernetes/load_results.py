"""Fetches a load test's results from its pod."""

import shutil
import tarfile
import tempfile
from pathlib import Path

from deploy.console import step
from deploy.errors import WorkloadFailed
from deploy.kubernetes import exec_stream, pods
from deploy.kubernetes.objects.loadtest import HELD, LOADTEST, RUNS, STATUS
from deploy.kubernetes.session import Session


def fetch(at: Session, results: Path) -> tuple[int, Path]:
    """Copy the results of the master; returns its exit status and the folder of the run.

    Raises:
        WorkloadFailed: There are no results, or the pod is lost.
        ClusterError: It cannot be read.
    """
    labels = {**at.place.labels, "app.kubernetes.io/name": LOADTEST}
    pod = next(one for one in pods.selected(at.api, at.place.namespace, labels))
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=results) as folder:
        here = Path(folder)
        with step("fetching the results"), (here / "all.tar").open("wb") as file:
            complaint = bytearray()
            status = exec_stream.run(
                at.api,
                at.place.namespace,
                pod["metadata"]["name"],
                LOADTEST,
                ["tar", "-C", HELD, "-cf", "-", "."],
                out=file.write,
                err=complaint.extend,
            )
        if status:
            said = " ".join(complaint.decode(errors="replace").split())
            raise WorkloadFailed(f"cannot read the results in the load test's pod: {said}")
        with tarfile.open(here / "all.tar") as archive:
            archive.extractall(here, filter="data")
        code = int((here / STATUS).read_text())
        names = _adopt(here / RUNS, results) if (here / RUNS).is_dir() else []
    if not names:
        raise WorkloadFailed(
            f"the load test exited with status {code} and no results; see its output above"
        )
    return code, results / max(names)


def _adopt(runs: Path, results: Path) -> list[str]:
    """Move each run's folder among the others; `latest` points to the newest."""
    names = [path.name for path in runs.iterdir() if path.is_dir() and not path.is_symlink()]
    for name in names:
        shutil.rmtree(results / name, ignore_errors=True)
        (runs / name).rename(results / name)
    for link in (path for path in runs.iterdir() if path.is_symlink()):
        (results / link.name).unlink(missing_ok=True)
        (results / link.name).symlink_to(link.readlink())
    return names
