"""The house rules, as tests: they read the repository, not the code's behaviour."""

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import headrace

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHON_LINES_MAX = 600

# Escaped dots and groups keep this file from matching its own patterns.
REGISTRY_HOST = re.compile(
    rb"pypi\.org|python(?:hosted)\.org|registry\.npmjs\.|npmjs\.(?:com|org)|registry\.yarnpkg|(?:npm|pypi)\.pkg\.github|proxy\.golang\.org|crates\.io"
)
MACHINE_PATH = re.compile(rb"(?<![\w.-])/(?:work|root)/|\.\./(?:shared)\b|(?<![\w.-])/opt/(?:pypi|wheels)|/tmp/(?:bash_jobs)")
INDEX_OPTION = re.compile(r"^\s*(?:-i|-f|-e|--\S*index\S*|--find-links|--trusted-host|--editable)\b|://| @ ", re.MULTILINE)


@cache
def repository_files() -> tuple[Path, ...]:
    """Every file that is tracked, or would be after `git add`."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in sorted(set(listed.decode().split("\0"))) if name)
    return tuple(path for path in paths if path.is_file() and not path.is_symlink())


def places(pattern: re.Pattern[bytes]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {found.group().decode()}"
        for path in repository_files()
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if (found := pattern.search(line))
    ]


def test_no_file_names_a_package_registry() -> None:
    assert places(REGISTRY_HOST) == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    assert places(MACHINE_PATH) == []


@pytest.mark.parametrize(
    ("pattern", "text", "is_found"),
    [
        (REGISTRY_HOST, b"https://" + b"pypi." + b"org/simple", True),
        (REGISTRY_HOST, b"https://" + b"registry." + b"npmjs." + b"org/x.tgz", True),
        (REGISTRY_HOST, b"pip install headrace, npm install headrace", False),
        (MACHINE_PATH, b"see " + b"/work" + b"/main/x.py", True),
        (MACHINE_PATH, b".." + b"/shared/notes.md", True),
        (MACHINE_PATH, b"https://example.com/work" + b"/main and frame/work" + b"/x", False),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[bytes], text: bytes, is_found: bool) -> None:
    assert bool(pattern.search(text)) is is_found


def test_no_python_file_outgrows_its_limit() -> None:
    counts = {path.relative_to(ROOT): len(path.read_bytes().splitlines()) for path in repository_files() if path.suffix == ".py"}
    assert {path: lines for path, lines in counts.items() if lines > PYTHON_LINES_MAX} == {}


def test_imports_point_down_only() -> None:
    command = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())", "--no-cache"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


# Requirements


def direct_requirements(*, group: str | None) -> list[Requirement]:
    """What pyproject.toml asks for: the core, the server extra and, with a group, that group and what builds the project."""
    names = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["server"]]
    if group:
        names += [*PYPROJECT["dependency-groups"][group], *PYPROJECT["build-system"]["requires"]]
    return [Requirement(name) for name in names]


def pinned(name: str) -> dict[str, set[Version]]:
    """The versions a requirements file pins, by normalised name. A name has two where its marker splits on the Python version."""
    found: dict[str, set[Version]] = {}
    for entry in entries(name):
        requirement = Requirement(entry.split(" --hash")[0])
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], f"not pinned: {requirement}"
        found.setdefault(canonicalize_name(requirement.name), set()).update(Version(s.version) for s in requirement.specifier)
    return found


def entries(name: str) -> list[str]:
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = (re.sub(r"(?:^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [re.sub(r"\s+", " ", line) for line in lines if line]


@pytest.mark.parametrize(("name", "group"), [("server.txt", None), ("dev.txt", "dev")])
def test_every_direct_dependency_is_pinned_within_its_range(name: str, group: str | None) -> None:
    pins = pinned(name)
    for requirement in direct_requirements(group=group):
        versions = pins.get(canonicalize_name(requirement.name), set())
        assert versions, f"{name} lacks {requirement}: run `make requirements`"
        outside = [str(version) for version in versions if not requirement.specifier.contains(version, prereleases=True)]
        assert not outside, f"{name} pins {outside} for {requirement}: run `make requirements`"


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_every_pin_has_hashes_and_no_file_names_an_index(path: Path) -> None:
    for entry in entries(path.name):
        assert re.search(r" --hash=sha256:[0-9a-f]{64}\b", entry), f"no hash: {entry}"
    assert INDEX_OPTION.findall(path.read_text()) == []


def test_what_the_server_installs_is_what_the_tests_ran_with() -> None:
    tested = pinned("dev.txt")
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        assert {name: versions for name, versions in pinned(path.name).items() if tested.get(name) != versions} == {}, path.name


# What the documents say


def code_in(markdown: str) -> list[str]:
    """The lines of fenced blocks, without their comments, and the inline code."""
    fence = re.compile(r"^ *(`{3,}|~{3,})[^\n]*\n(.*?)^ *\1", re.MULTILINE | re.DOTALL)
    blocks = [re.sub(r"(?:^|\s)#.*", "", line) for match in fence.finditer(markdown) for line in match[2].splitlines()]
    return blocks + re.findall(r"`([^`\n]+)`", fence.sub("", markdown))


def make_targets_in(code: str) -> list[str]:
    """The targets of a `make` command: none for `cmake x`, for options and for `NAME=value`."""
    command = re.search(r"(?:^|[\s;&|(])make((?: +[\w=./'-]+)*)", code)
    return [word for word in command[1].split() if re.fullmatch(r"[a-z][\w-]*", word)] if command else []


@pytest.mark.parametrize(
    ("code", "targets"),
    [
        ("make test", ["test"]),
        ("$ make check test ARGS='-k sse' && ls", ["check", "test"]),
        ("make -j2 quick; make", ["quick"]),
        ("make", []),
        ("cmake build", []),
    ],
)
def test_targets_are_read_from_a_make_command(code: str, targets: list[str]) -> None:
    assert make_targets_in(code) == targets


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_that_a_document_names_exists(document: str) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for code in code_in((ROOT / document).read_text()) for target in make_targets_in(code)}
    assert named <= targets


def test_every_make_target_is_phony_and_explained_by_make_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == set(re.findall(r"^([a-z][\w-]*):.*## ", makefile, re.MULTILINE))


def test_the_changelog_has_the_current_version() -> None:
    changelog = ROOT / "CHANGELOG.md"
    assert changelog.is_file(), "CHANGELOG.md is missing"
    headings = re.findall(r"^#+ (.*)$", changelog.read_text(), re.MULTILINE)
    version = re.compile(rf"(?<![\w.]){re.escape(headrace.__version__)}(?![\w.]*\w)")
    assert any(version.search(heading) for heading in headings), f"no heading names {headrace.__version__}"
