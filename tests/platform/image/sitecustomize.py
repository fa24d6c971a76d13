"""Stands in for the image: modules that it does not have cannot be imported.

Python imports this at its start, when this folder is on PYTHONPATH. The modules are named in
ABSENT_MODULES; see tests/platform/compose.py.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec


class _Absent(MetaPathFinder):
    _absent = frozenset(os.environ["ABSENT_MODULES"].split())

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self._absent:
            raise ModuleNotFoundError(f"No module named {fullname!r} in the image", name=fullname)
        return None


sys.meta_path.insert(0, _Absent())
