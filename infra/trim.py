"""In the build of an image: the installed packages without what no process of the platform reads,
and with the compiled form of what it imports.

    python infra/trim.py [MODULE ...]     further modules that shall start fast

In a container nothing can be written, so that what is not compiled here is compiled by each process
anew; all that is installed would be 340 MB of it.
"""

import ast
import compileall
import importlib
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Their own tests; others have packages of that name that they import.
TESTED = ("numpy", "pandas", "pyarrow", "scipy", "sklearn", "statsmodels")
# Maps for debuggers of browsers, notebooks and their extensions, sources of what is compiled; the
# other backend of zstandard, for PyPy; Arrow's RPC and its own client of S3, and the client of
# Kubernetes for asyncio.
UNREAD = (
    *("**/*.map", "**/*.ipynb", "**/*.c", "**/*.h", "**/*.pyi", "zstandard/_cffi*.so"),
    *("pyarrow/*flight*", "pyarrow/*_s3*", "kubernetes/aio"),
    *("*/nbextension", "jupyterlab_plotly", "statsmodels/datasets/*/src"),
    *(f"{package}/**/tests" for package in TESTED),
)
# Started by their own programs, which import some of it only then.
PROGRAMS = ("dagster*", "streamlit", "uvicorn")


def imported() -> Iterator[str]:
    """Every module that the project names in an import, also within functions."""
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module


def main() -> None:
    """Trim the packages of this interpreter."""
    packages = Path(sysconfig.get_path("purelib", "venv"))
    for pattern in UNREAD:
        for path in list(packages.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(Path(sys.prefix) / "share" / "jupyter", ignore_errors=True)
    ours = {path.stem for path in ROOT.iterdir()}
    for name in sorted({*imported(), *sys.argv[1:]}):
        if name.partition(".")[0] not in ours:
            with suppress(ImportError):  # of another image, or of nobody's
                importlib.import_module(name)
    for folder in (ROOT, *(f for pattern in PROGRAMS for f in packages.glob(pattern))):
        compileall.compile_dir(folder, quiet=1)


if __name__ == "__main__":
    main()
