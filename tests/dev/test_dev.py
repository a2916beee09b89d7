"""The launcher with real processes and the real pip, in a small project of its own that needs no network."""

import ast
import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2]
BOOTSTRAP = Path("deploy/bootstrap")

BACKEND = '''
"""A build backend without dependencies: links the project's folder and makes the command `respool`."""
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    import os
    files = {
        "respool.pth": os.getcwd(),
        "respool-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: respool\\nVersion: 1\\n",
        "respool-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "respool-1.dist-info/entry_points.txt": "[console_scripts]\\nrespool = command:main\\n",
    }
    lines = "".join(f"{name},,\\n" for name in [*files, "respool-1.dist-info/RECORD"])
    with zipfile.ZipFile(os.path.join(folder, "respool-1-py3-none-any.whl"), "w") as wheel:
        for name, text in {**files, "respool-1.dist-info/RECORD": lines}.items():
            wheel.writestr(name, text)
    return "respool-1-py3-none-any.whl"
'''
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "respool"
version = "1"
"""
COMMAND = """
import os, sys, part
def main():
    print(os.getcwd(), *sys.argv[1:], *([os.environ["RESPOOL_COMMAND"]] if "name" in sys.argv else []))
    sys.exit(7 if "fail" in sys.argv else 0)
"""
POWERLESS = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE: from exec on, not even root writes where it may not
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
FAKE_PYTEST = """
import os, sys
print("pytest", os.getcwd(), *sys.argv[1:])
"""


def add_package(houses: Path, name: str, module: str, lock: Path) -> None:
    """Put a wheel with one module into *houses* and its hash into *lock*."""
    path = houses / f"{name}-1-py3-none-any.whl"
    info = f"{name}-1.dist-info"
    files = {
        f"{name}.py": module,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
            checksum = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{file},sha256={checksum},{len(text)}\n"
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(f"{name}==1 \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n")


class Checkout:
    """A project with the real launcher and pip wheel, one dependency and one test dependency."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = os.environ | {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": (root / "houses").as_uri(),
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_CONFIG_FILE": os.devnull,
        }
        shutil.copytree(HERE / BOOTSTRAP, root / BOOTSTRAP)
        shutil.copy(HERE / "dev", root)
        (root / "houses").mkdir()
        add_package(root / "houses", "part", "", root / "requirements.lock")
        add_package(root / "houses", "pytest", FAKE_PYTEST, root / "tests" / "requirements.lock")
        for name, text in {"backend.py": BACKEND, "command.py": COMMAND, "pyproject.toml": PYPROJECT}.items():
            (root / name).write_text(text)

    def start(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd or self.root,
            env=self.environment,
            text=True,
            stdout=pipe,
            stderr=pipe,
        )

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> tuple[int, str, str]:
        """Exit status, output and errors of ``python *arguments``."""
        process = self.start(*arguments, cwd=cwd)
        output, errors = process.communicate(timeout=50)
        return process.returncode, output, errors


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Shared by the tests of this file, each of which makes the state that it needs."""
    return Checkout(tmp_path_factory.mktemp("a folder with spaces"))


@pytest.fixture
def installed(checkout: Checkout) -> Checkout:
    status, _, errors = checkout.run("dev", "version")
    assert status == 0, errors
    return checkout


def test_two_first_runs_at_once_install_once(checkout: Checkout) -> None:
    shutil.rmtree(checkout.root / ".venv", ignore_errors=True)
    runs = [checkout.start("dev", "version") for _ in range(2)]
    ends = [(run.communicate(timeout=50), run.returncode) for run in runs]
    assert [(output, status) for (output, _), status in ends] == [(f"{checkout.root} version\n", 0)] * 2
    assert "".join(errors for (_, errors), _ in ends).count("Installing 1 packages") == 1


def test_a_later_run_only_starts_the_command(installed: Checkout) -> None:
    started = time.monotonic()
    assert installed.run("dev", "get", "--json") == (0, f"{installed.root} get --json\n", "")
    assert time.monotonic() - started < 1


def test_it_works_from_anywhere_and_hands_on_folder_and_status(installed: Checkout, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(installed.root / "dev")
    assert installed.run("link", "fail", cwd=tmp_path) == (7, f"{tmp_path} fail\n", "")


def test_the_command_learns_how_it_was_called(installed: Checkout, tmp_path: Path) -> None:
    """Its messages name commands that can be typed: the person has no `respool`."""
    root = installed.root
    assert installed.run("dev", "name")[1] == f"{root} name {Path(sys.executable).name} dev\n"
    assert installed.run("./dev", "name")[1] == f"{root} name ./dev\n"
    assert installed.run(root / "dev", "name", cwd=tmp_path)[1] == f"{tmp_path} name '{root}/dev'\n"  # it has spaces


def test_tests_get_their_packages_and_run_in_the_project(installed: Checkout, tmp_path: Path) -> None:
    status, output, _ = installed.run(installed.root / "dev", "test", "-k", "x", cwd=tmp_path)
    assert (status, output) == (0, f"pytest {installed.root} -k x\n")
    assert installed.run("dev", "test")[2] == ""  # the second time without installing


def test_a_changed_project_is_installed_again_into_the_same_environment(installed: Checkout) -> None:
    (installed.root / ".venv" / "kept").touch()
    (installed.root / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    assert installed.run("dev", "version") == (0, f"{installed.root} version\n", "")
    assert (installed.root / ".venv" / "kept").exists()


@pytest.fixture
def foreign(installed: Checkout) -> Iterator[Checkout]:
    """One that may be read only; what runs there runs by ``POWERLESS``."""
    lock = installed.root / ".venv.lock"
    installed.root.chmod(0o555)
    lock.chmod(0o444)
    yield installed
    installed.root.chmod(0o755)
    lock.chmod(0o644)


def test_who_may_not_write_can_use_what_is_installed(foreign: Checkout) -> None:
    assert foreign.run("-c", POWERLESS, "dev", "version") == (0, f"{foreign.root} version\n", "")


def test_who_may_not_write_is_told_who_can_install(foreign: Checkout) -> None:
    with (foreign.root / "tests" / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    told = (
        f"dev: there is something to install, and {foreign.root} cannot be written to: Permission denied.\n"
        f"     Let its owner run this once: '{foreign.root}/dev' test\n"
        "     Or use a checkout of your own.\n"
    )
    assert foreign.run("-c", POWERLESS, "dev", "test", "-k", "x") == (1, "", told)


def lose_python(checkout: Checkout) -> None:
    for name in ("python", "python3", f"python3.{sys.version_info.minor}"):
        link = checkout.root / ".venv" / "bin" / name
        link.unlink()
        link.symlink_to("/nowhere/python")


def move(checkout: Checkout) -> None:
    moved = checkout.root.with_name(checkout.root.name + " moved")
    checkout.root = checkout.root.rename(moved)
    checkout.environment["PIP_FIND_LINKS"] = (moved / "houses").as_uri()


def change_lock(checkout: Checkout) -> None:
    with (checkout.root / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")


@pytest.mark.parametrize("spoil", [lose_python, move, change_lock])
def test_an_environment_that_no_longer_fits_is_built_again(
    installed: Checkout, spoil: Callable[[Checkout], None]
) -> None:
    spoil(installed)
    status, output, errors = installed.run("dev", "version")
    assert (status, output) == (0, f"{installed.root} version\n"), errors
    assert "building .venv again" in errors


def test_a_killed_installation_is_repaired(checkout: Checkout) -> None:
    shutil.rmtree(checkout.root / ".venv", ignore_errors=True)
    with checkout.start("dev", "version") as process:
        assert process.stderr is not None
        assert "Installing" in process.stderr.readline()
        process.kill()
    status, output, errors = checkout.run("dev", "version")
    assert (status, output) == (0, f"{checkout.root} version\n"), errors
    assert "building .venv again" in errors


def test_a_package_with_another_hash_is_refused(checkout: Checkout) -> None:
    lock = checkout.root / "requirements.lock"
    right = lock.read_text()
    lock.write_text(re.sub("sha256:.{8}", "sha256:00000000", right))
    status, output, errors = checkout.run("dev", "version")
    lock.write_text(right)
    assert (status, output) == (1, "")
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in errors  # pip's own words
    assert "the next run tries again" in errors


def test_a_damaged_pip_is_refused(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    [wheel] = (tmp_path / BOOTSTRAP).glob("pip-*.whl")
    with wheel.open("ab") as file:
        file.write(b"x")
    status, output, errors = checkout.run("dev", "version")
    assert (status, output) == (1, "")
    assert "git checkout -- dev deploy/bootstrap" in errors


def test_help_installs_nothing(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    for arguments in ([], ["--help"]):
        status, output, errors = checkout.run("dev", *arguments)
        assert (status, errors) == (0, "")
        assert "./dev up" in output
    assert not (tmp_path / ".venv").exists()


def test_an_old_python_is_told_so() -> None:
    source = (HERE / "dev").read_text()
    ast.parse(source, feature_version=(3, 7))  # it can be read that far
    pretend = (
        "import runpy, sys; sys.version_info = (3, 9, 2); sys.version = '3.9.2 (old)'; runpy.run_path(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", pretend, HERE / "dev"], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "3.9.2" in done.stderr


@pytest.mark.parametrize("name", ["requirements.lock", "tests/requirements.lock"])
def test_lock_files_are_names_versions_and_hashes_only(name: str) -> None:
    pin = r"[a-z0-9-]+==[^ ]+( ; [^\\]+)? \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+"
    assert re.fullmatch(f"({pin})+", (HERE / name).read_text())
