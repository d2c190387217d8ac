"""One script and one style sheet for each explorer, put together from the shared parts in page/.

anywidget takes a single file, and a page that stands alone has nowhere to import from. So imports
between our files are resolved here: every module once, in the order in which they need each other,
in one scope. Only two forms are used, and only they are understood:
`import { name, other } from "./file.js";` and `export` before a class, function or const. Names at
the top level must differ between the modules of one script.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path, PurePosixPath

WIDGETS = Path(__file__).parent

_IMPORT = re.compile(r'^import \{([^}]*)\} from "([^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const)\b)", re.MULTILINE)
_DEFAULT = re.compile(r"^export default ", re.MULTILINE)
_NAME = re.compile(
    r"^(?P<export>export )?(?:async )?(?:function\*?|class|const|let|var) "
    r"(?:(?P<name>[\w$]+)|[{\[](?P<names>[^}\]]*)[}\]])",
    re.MULTILINE,
)


class ModuleError(ValueError):
    """Modules that cannot be put together; names the file and the line of the trouble."""


@cache
def script(name: str) -> str:
    """The module of the explorer <name>.js with everything that it imports, for anywidget.

    Raises ModuleError for a file or a name that is not there, modules that import each other in a
    circle, and two modules with one name at the top level.
    """
    return bundled(WIDGETS, f"{name}.js")


@cache
def page_script(name: str) -> str:
    """The same as a classic script that opens the page it stands in."""
    definition = "const definition = "
    own = _modules(WIDGETS, f"{name}.js")
    own = {**own, **_modules(WIDGETS, "page/standalone.js")}
    _check_names(own)
    text = _DEFAULT.sub(definition, _joined(own))
    return f'(() => {{\n"use strict";\n{text}\nopenPage(definition);\n}})();\n'


@cache
def styles(name: str) -> str:
    """The style sheet that all explorers share, then that of <name>."""
    files = (WIDGETS / "page" / "explorer.css", WIDGETS / f"{name}.css")
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.exists())


def bundled(folder: Path, main: str) -> str:
    """One text of the module `main` in a folder and of all that it imports; see the module."""
    modules = _modules(folder, main)
    _check_names(modules)
    return _joined(modules)


def _modules(folder: Path, main: str) -> dict[str, str]:
    """Path within the folder -> source, each module after those that it imports."""
    sources: dict[str, str] = {}
    _collect(folder, main, (), sources)
    return sources


def _collect(folder: Path, path: str, above: tuple[str, ...], sources: dict[str, str]) -> None:
    if path in above:
        circle = " -> ".join([*above[above.index(path) :], path])
        raise ModuleError(f"modules import each other in a circle: {circle}")
    if path in sources:
        return
    by = f" (imported by {above[-1]})" if above else ""
    try:
        text = (folder / path).read_text(encoding="utf-8")
    except OSError:
        raise ModuleError(f"there is no module {path}{by}") from None
    for names, target in _IMPORT.findall(text):
        if not target.startswith(("./", "../")):
            raise ModuleError(f'{path}: imports "{target}"; only files beside it can be imported')
        imported = _resolved(path, target)
        _collect(folder, imported, (*above, path), sources)
        offered = exported_names(sources[imported])
        for name in filter(None, (part.strip() for part in names.split(","))):
            if name not in offered:
                raise ModuleError(f"{path}: {imported} does not export {name!r}")
    sources[path] = text


def _resolved(path: str, target: str) -> str:
    """The path within the folder of what a module imports as "./other.js" or "../other.js"."""
    parts: list[str] = list(PurePosixPath(path).parent.parts)
    for part in PurePosixPath(target).parts:
        if part == "..":
            if not parts:
                raise ModuleError(f'{path}: "{target}" is outside of the package')
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def exported_names(source: str) -> set[str]:
    """The names that a module exports."""
    return {name for name, exported in _top_level(source) if exported}


def _top_level(source: str) -> list[tuple[str, bool]]:
    """Names that are defined without indentation, and whether they are exported."""
    found = []
    for match in _NAME.finditer(source):
        names = [match["name"]] if match["name"] else re.findall(r"[\w$]+", match["names"])
        found += [(name, match["export"] is not None) for name in names]
    return found


def _check_names(modules: dict[str, str]) -> None:
    """Raise ModuleError where two modules of one scope define the same name."""
    owner: dict[str, str] = {}
    for path, source in modules.items():
        for name, _ in _top_level(source):
            if name in owner:
                raise ModuleError(f"{path}: the name {name} is taken by {owner[name]}")
            owner[name] = path


def _joined(modules: dict[str, str]) -> str:
    """All modules in one scope: imports are gone, and exports, but for the default one."""
    parts = []
    for path, source in modules.items():
        text = _EXPORT.sub("", _IMPORT.sub("", source))
        for line in text.splitlines():
            is_default = line.startswith("export default ")
            if line.startswith(("import ", "import{", "export ")) and not is_default:
                raise ModuleError(f"{path}: cannot resolve {line!r}")
        parts.append(f"// {path}\n{text.strip()}\n")
    return "\n".join(parts)
