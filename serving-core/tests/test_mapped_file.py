import mmap
import re
from pathlib import Path

import pytest

from serving_core.engines.mapped_file import release_pages


def resident_kb(file: Path) -> int:
    """Of the mappings of `file` in this process."""
    found = re.findall(
        rf" {re.escape(str(file))}\n(?:\w+: .*\n)*?Rss: +(\d+) kB",
        Path("/proc/self/smaps").read_text(),
    )
    return sum(map(int, found))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells what is resident")
def test_pages_that_were_read_are_given_back_and_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "model with a blank"
    content = bytes(range(256)) * 4096
    file.write_bytes(content)
    with (
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        assert mapped[:] == content
        assert resident_kb(file) == 1024
        release_pages(file)
        assert resident_kb(file) == 0
        assert mapped[:] == content
