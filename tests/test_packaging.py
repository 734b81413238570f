"""The package as people install it: a wheel, a sdist and an editable install, each used from a folder elsewhere."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

import mvpnet

ROOT = Path(__file__).parent.parent


def pip_install(python: Path, *arguments: str | Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet"]
    done = subprocess.run([*pip, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def empty_environment(tmp_path: Path) -> Path:
    """The Python of a new environment with nothing in it."""
    venv.create(tmp_path / "venv", symlinks=True)
    return tmp_path / "venv/bin/python"


@pytest.fixture
def environment_with_dependencies(empty_environment: Path) -> Path:
    """The same, with everything that this Python has but for what a .pth file brings: mvpnet's editable install."""
    where = {"base": str(empty_environment.parent.parent), "platbase": str(empty_environment.parent.parent)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", where))
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return empty_environment


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture
def sdist(built: Path) -> Path:
    return next(built.glob("*.tar.gz"))


def files_below(folder: Path) -> Iterator[str]:
    """Every file below a folder of the checkout, relative to it, links not followed."""
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(path.relative_to(folder))


def run(python: Path, program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one of an environment's programs in the folder, on a machine where no MPI library is to be found."""
    return subprocess.run(
        [python.with_name(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "MPI4PY_LIBMPI": "/nonexistent/libmpi.so", "XDG_CONFIG_HOME": "/nonexistent"},
    )


def check_installed(python: Path, folder: Path, package: Path) -> None:
    """mvpnet of that environment comes from `package`, has its configuration and recipes, and has both programs."""
    where = run(python, "python", "-c", "import mvpnet; print(mvpnet.__file__)", folder=folder)
    assert Path(where.stdout.strip()).parent == package, where

    said = run(python, "mvpnet", "--version", folder=folder)
    assert (said.returncode, said.stdout) == (0, f"mvpnet {mvpnet.__version__}\n"), said

    said = run(python, "mvpnet", "--help", folder=folder)
    assert said.returncode == 0, said
    options = {line.partition(": ")[0]: line.partition(": ")[2].split(", ") for line in said.stdout.splitlines()}
    assert {"file", "tiny"} <= set(options["image"]), said.stdout
    assert "demo" in options["recipe"], said.stdout

    said = run(python, "mvpnet", "--cfg", "job", "--resolve", "recipe=demo", folder=folder)
    assert said.returncode == 0, said
    tour = next(line for line in said.stdout.splitlines() if line.endswith("demo/tour.py"))
    assert Path(tour.strip().removeprefix("- ")).is_file(), said.stdout

    said = run(python, "mvpnet", "--info", "plugins", folder=folder)
    assert "SweepLauncher" in said.stdout + said.stderr, said

    assert os.access(python.with_name("monwrap"), os.X_OK)
    assert list(folder.iterdir()) == []


def third_party_imports() -> dict[str, str]:
    """Each third-party module at the top of its package that any of our modules imports, and one that does."""
    found = {}
    for path in [*(ROOT / "mvpnet").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {name: str(path.relative_to(ROOT)) for name in names}
    ours = {"mvpnet", "hydra_plugins", *sys.stdlib_module_names, "compression"}
    return {name: path for name, path in found.items() if name.partition(".")[0] not in ours}


def declared() -> set[str]:
    """The distributions that pyproject.toml asks for, all extras with it, by normalized name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    return {normalized(re.split(r"[^\w.-]", text, maxsplit=1)[0]) for text in asked}


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_every_third_party_module_that_is_imported_is_declared():
    distributions = importlib.metadata.packages_distributions()
    imported = third_party_imports()
    assert {"click", "requests", "yaml"} <= {name.partition(".")[0] for name in imported}, "is the search out of date?"
    undeclared = {
        name: path
        for name, path in imported.items()
        if not declared() & {normalized(one) for one in distributions.get(name.partition(".")[0], [])}
    }
    assert undeclared == {}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def test_the_wheel_holds_the_package_its_configuration_and_the_recipes_once(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    conf = {f"mvpnet/conf/{name}" for name in files_below(ROOT / "conf") if not name.startswith("recipe/")}
    recipes = {f"mvpnet/conf/recipe/{name}" for name in files_below(ROOT / "recipes")}
    code = {f"{top}/{name}" for top in ("mvpnet", "hydra_plugins") for name in files_below(ROOT / top)}
    assert sorted(names) == sorted(code | conf | recipes)
    assert "mvpnet/conf/config.yaml" in names
    assert "mvpnet/conf/recipe/demo.yaml" in names


def test_the_wheel_holds_the_compiled_part_and_is_for_any_python_on_this_machine(wheel):
    assert "mvpnet/dataplane/libfastpath.so" in zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith(f"mvpnet-{mvpnet.__version__}-py3-none-linux_")


def test_without_a_compiler_that_works_the_wheel_is_plain_python_and_says_so(tmp_path):
    for compiler, said in (("/no/such/cc", "no C compiler"), ("false", "did not compile")):
        folder = tmp_path / said
        build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
        done = subprocess.run(build, capture_output=True, text=True, check=False, env={**os.environ, "CC": compiler})
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{said}" in done.stdout + done.stderr
        wheel = folder / f"mvpnet-{mvpnet.__version__}-py3-none-any.whl"
        assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


def test_the_wheel_has_its_licence_and_both_programs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = f"mvpnet-{mvpnet.__version__}.dist-info"
        assert "BSD 3-Clause License" in archive.read(f"{info}/licenses/LICENSE").decode()
        assert "License-Expression: BSD-3-Clause\n" in archive.read(f"{info}/METADATA").decode()
        programs = archive.read(f"{info}/entry_points.txt").decode()
    assert "mvpnet = mvpnet.__main__:main" in programs
    assert "monwrap = mvpnet.guest.monwrap:main" in programs


def test_an_unpacked_sdist_has_the_folders_of_a_checkout(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"conf/config.yaml", "recipes/demo.yaml", "conf/recipe/demo.yaml", "Makefile", "tests/support.py"} <= names


def test_the_wheel_installed(wheel, environment_with_dependencies, elsewhere):
    pip_install(environment_with_dependencies, "--no-deps", "--ignore-installed", wheel)
    package = next((elsewhere.parent / "venv/lib").glob("python3*/site-packages/mvpnet"))
    check_installed(environment_with_dependencies, elsewhere, package)


def test_an_editable_install(environment_with_dependencies, elsewhere):
    quickly = ["--no-deps", "--no-build-isolation", "--ignore-installed"]
    pip_install(environment_with_dependencies, *quickly, "--editable", ROOT)
    check_installed(environment_with_dependencies, elsewhere, ROOT / "mvpnet")
    assert not list((elsewhere.parent / "venv/lib").glob("python3*/site-packages/mvpnet")), "a stale copy of the files"


@pytest.mark.network
@pytest.mark.timeout(900)
def test_pip_install_into_an_empty_environment(empty_environment, elsewhere):
    pip_install(empty_environment, ROOT)
    package = next((elsewhere.parent / "venv/lib").glob("python3*/site-packages/mvpnet"))
    check_installed(empty_environment, elsewhere, package)
