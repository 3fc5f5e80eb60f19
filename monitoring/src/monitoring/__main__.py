"""`python -m monitoring`: write every file that is generated here."""

import sys
from pathlib import Path

from monitoring.generated import files


def main() -> None:
    """Write the files below the folder of this package's sources."""
    root = Path(__file__).parents[2]
    for name, text in files().items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(root)}\n")


if __name__ == "__main__":
    main()
