"""List the commands: `python -m runs`."""

import ast
from pathlib import Path

from runs.commands import refusing_bad_input


def main() -> None:
    """Print each command with the first line of its file."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source = path.read_text()
        if path.stem != "__main__" and 'if __name__ == "__main__":' in source:
            about = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
            print(f"python -m runs.{path.stem:16} {about.split(': `')[0]}")
    print("\nEach takes --help.", flush=True)


if __name__ == "__main__":
    with refusing_bad_input():
        main()
