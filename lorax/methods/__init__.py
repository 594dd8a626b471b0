"""Transfer methods, one file each. A file here that declares METHOD is in the command line, the docs and the tests."""

from __future__ import annotations

from lorax.method import Method
from lorax.plug_ins import collect

METHODS: dict[str, Method] = collect(__name__, "METHOD", Method)
