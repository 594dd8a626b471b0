"""Nothing in this project runs code that it reads, trusts a certificate blindly or hands a string to a shell.

Weight files, configurations and sidecars come from strangers. The makers of hostile files are exempt: they have to
write what the rest must never read.
"""

from __future__ import annotations

import ast

import pytest

from tests.architecture.sources import parsed, python_files

FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "shelve", "marshal", "joblib", "cloudpickle"}
FORBIDDEN_BUILTINS = {"eval", "exec", "__import__"}
FORBIDDEN_CALLS = {
    "torch.load",
    "torch.hub.load",
    "yaml.load",
    "yaml.full_load",
    "yaml.unsafe_load",
    "os.system",
    "os.popen",
    "pandas.read_pickle",
    "pd.read_pickle",
    "numpy.fromregex",
    "tempfile.mktemp",
}
FORBIDDEN_ARGUMENTS = {
    ("verify", False),
    ("shell", True),
    ("trust_remote_code", True),
    ("allow_pickle", True),
    ("use_safetensors", False),
}
MAKERS = ("tests/hostile/", "examples/digits/broken.py", "tests/architecture/test_forbidden_constructs.py")


def offences(tree: ast.Module) -> list[str]:
    """Returns "line: construct" for everything in a module that the project does not do."""
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FORBIDDEN_MODULES:
            names = [str(node.module)]
        elif isinstance(node, ast.Call):
            names = call_offences(node)
        found += [f"{node.lineno}: {name}" for name in names]
    return found


def call_offences(call: ast.Call) -> list[str]:
    """Returns what is wrong with one call: whom it calls, and its tell-tale arguments."""
    callee = ast.unparse(call.func)
    found = [callee] if callee in FORBIDDEN_CALLS | FORBIDDEN_BUILTINS else []
    return found + [
        f"{keyword.arg}={keyword.value.value}"
        for keyword in call.keywords
        if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in FORBIDDEN_ARGUMENTS
    ]


def test_no_module_uses_a_forbidden_construct() -> None:
    found = {str(path): offences(parsed(path)) for path in python_files() if not path.as_posix().startswith(MAKERS)}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "torch.load('x.pt')",
        "torch.load('x.pt', weights_only=True)",
        "eval('1')",
        "exec('1')",
        "yaml.load(text)",
        "requests.get(url, verify=False)",
        "subprocess.run(line, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "numpy.load(path, allow_pickle=True)",
        "os.system('ls')",
    ],
)
def test_the_rule_sees(code: str) -> None:
    assert len(offences(ast.parse(code))) == 1


def test_the_rule_lets_ordinary_code_pass() -> None:
    ordinary = "model.eval()\nyaml.safe_load(text)\nrequests.get(url, verify=True)\nre.compile('x')\nload(path)"
    assert offences(ast.parse(ordinary)) == []
