"""The floors of docs/architecture.md and the few habits that no linter knows, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mvpnet"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in SOURCES.items()}


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """The nodes under `if TYPE_CHECKING:`, which never run."""
    tests = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    return {node for test in tests for statement in test.body for node in ast.walk(statement)}


def imports(name: str, *, at_run_time: bool = False) -> set[str]:
    """What a module imports, anywhere in it, as full module names; of our own modules, the very module."""
    tree, package = TREES[name], name if SOURCES[name].name == "__init__.py" else name.rpartition(".")[0]
    skipped = type_checking_only(tree) if at_run_time else set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{source}.{alias.name}" for alias in node.names} & TREES.keys()
            found |= inner or {source}
    return found


def belongs(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def offences(floor: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{name} imports {module}"
        for name in TREES
        if belongs(name, *floor)
        for module in sorted(imports(name))
        if belongs(module, *forbidden)
    ]


HYDRA = ("hydra", "omegaconf")
MPI = ("mpi4py", "mvpnet.mpi.world", "mvpnet.dataplane.fabric", "mvpnet.dataplane.switch")
QEMU = ("qemu", "mvpnet.guest")


@pytest.mark.parametrize(
    ("floor", "forbidden"),
    [
        pytest.param(("mvpnet.dataplane",), (*HYDRA, *QEMU, "mvpnet.job.lifecycle"), id="dataplane"),
        pytest.param(("mvpnet.guest",), (*HYDRA, *MPI, "mvpnet.job.lifecycle"), id="guest"),
        pytest.param(("mvpnet.control",), (*HYDRA, *MPI, *QEMU, "mvpnet.job.lifecycle"), id="hands"),
        pytest.param(("mvpnet.mpi.world", "mvpnet.job.lifecycle"), HYDRA, id="what every rank runs"),
    ],
)
def test_floors(floor, forbidden):
    assert any(belongs(name, *floor) for name in TREES), f"there is no {floor}; is this test out of date?"
    assert offences(floor, forbidden) == []


INTENT = sorted({"mvpnet.errors", *(name for name in TREES if belongs(name, "mvpnet.spec"))})


@pytest.mark.parametrize("name", INTENT)
def test_intent_needs_the_standard_library_alone(name):
    others = {module for module in imports(name) if module.partition(".")[0] not in sys.stdlib_module_names}
    assert {module for module in others if not belongs(module, "mvpnet.errors", "mvpnet.spec")} == set()


def test_only_the_job_joins_guest_and_dataplane():
    joins = {
        name
        for name in TREES
        if any(belongs(module, "mvpnet.guest") for module in imports(name))
        and any(belongs(module, "mvpnet.dataplane.switch", "mvpnet.dataplane.fabric") for module in imports(name))
    }
    assert joins
    assert {name for name in joins if not belongs(name, "mvpnet.job")} == set()


# docs/architecture.md tells of this order: what imports only from what stands before it.
PACKAGES = (
    *("errors", "util", "spec", "paths", "logs", "runtime", "dataplane", "ssh", "mpi", "host", "qemu", "images"),
    *(
        "cloudinit",
        "guest",
        "app",
        "control",
        "snapshot",
        "records",
        "sweep",
        "report",
        "api",
        "config",
        "job",
        "doctor",
    ),
    *("bench", "cli", "__main__"),
)


def package_of(name: str) -> str:
    """`mvpnet.job.lifecycle` → `job`."""
    return name.split(".")[1] if "." in name else name


def test_every_package_is_on_a_floor():
    assert {package_of(name) for name in TREES} == {*PACKAGES, "mvpnet"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_from_those_below_it_alone(package):
    below = {"mvpnet", *PACKAGES[: PACKAGES.index(package) + 1]}
    above = {
        f"{name} imports {module}"
        for name in TREES
        if package_of(name) == package
        for module in imports(name) & TREES.keys()
        if package_of(module) not in below
    }
    assert above == set()


def test_no_circle_of_imports():
    try:
        TopologicalSorter({name: imports(name, at_run_time=True) & TREES.keys() for name in TREES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", ["mvpnet.__main__", "mvpnet.job.lifecycle"])
def test_a_rank_starts_light(name):
    """A thousand ranks import this from one shared file system: not Hydra, and no library that only some jobs need."""
    heavy = ["hydra", "omegaconf", "rich", "requests", "pycdlib", "qemu.qmp", "yaml"]
    program = f"import sys, {name}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def exits(tree: ast.Module) -> list[int]:
    """The lines that end the process: sys.exit(), exit(), quit(), os._exit(), raise SystemExit."""
    by_call = [
        call.lineno for call in calls(tree) if ast.unparse(call.func) in {"sys.exit", "exit", "quit", "os._exit"}
    ]
    by_raise = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and node.exc and ast.unparse(node.exc).startswith("SystemExit")
    ]
    return by_call + by_raise


MAINS = {
    "mvpnet.__main__",
    "mvpnet.guest.monwrap",
    "mvpnet.app.transfer",
    "mvpnet.images.sysprep",
    "mvpnet.snapshot.copy_disks",
}


@pytest.mark.parametrize("name", TREES)
def test_only_mains_exit(name):
    if name not in MAINS:
        assert exits(TREES[name]) == []


SHELLS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
    "pty.spawn",
}


@pytest.mark.parametrize("name", TREES)
def test_no_shell_and_no_bare_except(name):
    shells = [
        call.lineno
        for call in calls(TREES[name])
        if ast.unparse(call.func) in SHELLS
        or any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in call.keywords)
    ]
    bare = [node.lineno for node in ast.walk(TREES[name]) if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert (shells, bare) == ([], [])


@pytest.mark.parametrize("name", TREES)
def test_modules_say_what_they_are_for(name):
    assert ast.get_docstring(TREES[name]), f"{SOURCES[name]} opens without a docstring"


# Times for people and records, and ages of files; what waits or has a deadline takes time.monotonic().
WALL_CLOCK = {
    "mvpnet.doctor.clocks",
    "mvpnet.records.digests",
    "mvpnet.records.manifest",
    "mvpnet.records.sampling",
    "mvpnet.images.build_cache",
    "mvpnet.control.select",
    "mvpnet.control.registry",
    "mvpnet.job.guest_runner",
    "mvpnet.job.session",
    "mvpnet.snapshot.coordinator",
}


def wall_clock_calls(tree: ast.Module) -> list[str]:
    names = ("time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "datetime.utcnow")
    return [ast.unparse(call) for call in calls(tree) if ast.unparse(call.func) in names]


@pytest.mark.parametrize("name", TREES)
def test_no_deadline_hangs_on_a_clock_that_jumps(name):
    """Whoever waits, waits by time.monotonic(): there the wall clock is not even asked, but for the records above."""
    if name not in WALL_CLOCK:
        assert wall_clock_calls(TREES[name]) == []
    compared = [
        ast.unparse(node)
        for node in ast.walk(TREES[name])
        if isinstance(node, (ast.While, ast.Compare)) and wall_clock_calls(ast.Module([node], []))
    ]
    assert compared == [] or name == "mvpnet.records.digests", "an age by a file's time, and nothing that waits"


@pytest.mark.parametrize("name", TREES)
def test_a_python_of_ours_looks_for_no_module_in_the_launch_folder(name):
    """Every command line that begins with this Python goes on with -P."""
    starts = [
        [ast.unparse(word) for word in node.elts[:2]]
        for node in ast.walk(TREES[name])
        if isinstance(node, (ast.List, ast.Tuple)) and node.elts and ast.unparse(node.elts[0]) == "sys.executable"
    ]
    assert [start for start in starts if start[1:] != ["'-P'"]] == []
