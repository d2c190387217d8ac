"""The base of all explorers: state, packing, answers, links, export, and scripts put together."""

import base64
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from llama_viz import widgets
from llama_viz.figures.style import Picture
from llama_viz.widgets import Explorer, link, modules
from llama_viz.widgets.explorer import Between, Choice, Text
from llama_viz.widgets.export import html_page
from llama_viz.widgets.packing import Packed, as_bytes, as_float16, as_int16, packed_message

HOSTILE = (
    "</script><script>alert(1)</script> <!-- <img src=x onerror=alert(1)> &amp; \u2028 שלום 🙂"
)


class Squares(Explorer):
    """Squares of whole numbers: an explorer that is small enough for a test."""

    page = "generation"
    title = "Squares"

    def __init__(self, **state):
        self.asked = []
        super().__init__(**state)

    def fields(self):
        return {
            "layer": Choice(range(4), 0),
            "position": Choice(range(10), None, optional=True),
            "stage": Choice(("scores", "weights"), "weights"),
            "wide": Choice((False, True), False),
            "heat": Between(0, 2, 1.0),
            "note": Text("none"),
        }

    def content(self, *, whole):
        return {"whole": whole, "text": HOSTILE}, {"squares": np.arange(5) ** 2}

    def answer_more(self, first, last):
        self.asked.append((first, last))
        if last < first:
            raise ValueError("last must not be\nbefore first")
        return {"first": first}, {"more": np.arange(first, last, dtype=np.float32)}

    def answer_broken(self):
        raise ZeroDivisionError("a fault\nof two lines")

    def picture(self):
        figure = Picture("squares", 2, 1)
        figure.write("layer", f"layer {self.state['layer']}", 0.2, 0.2)
        return figure

    def describe(self):
        return f"Squares at layer {self.state['layer']}."


def answer(explorer, name, **parameters):
    """What the page gets for a request."""
    sent = []
    explorer.send = lambda content, buffers=None: sent.append((content, buffers))
    asked = {"type": "ask", "request": "r7", "name": name, "parameters": parameters}
    explorer._receive(explorer, asked, [])
    [(content, buffers)] = sent
    assert content["type"] == "answer"
    assert content["request"] == "r7"
    json.dumps(content, allow_nan=False)
    return content, buffers


def unpacked(specs, buffers):
    """Arrays as the page reads them: written anew from the description of the format."""
    arrays, scales = {}, {}
    for spec, data in zip(specs, buffers, strict=True):
        raw = np.frombuffer(data, np.dtype(spec["dtype"]).newbyteorder("<"))
        values = raw.reshape(spec["shape"]).astype(np.float64)
        if "scales" in spec:
            scales[spec["scales"]] = values
        elif "unit" in spec:
            arrays[spec["name"]] = values * spec["unit"]
        else:
            arrays[spec["name"]] = (
                values
                * scales.get(spec["name"], np.ones(()))[..., None][..., : max(values.shape[-1], 1)]
            )
    return arrays


# State


def test_the_state_begins_as_declared_and_as_asked():
    assert Squares().state == {
        "layer": 0, "position": None, "stage": "weights", "wide": False, "heat": 1.0,
        "note": "none",
    }  # fmt: skip
    assert Squares(layer=3, position=np.int64(7)).state["position"] == 7


def test_show_picks_and_leaves_the_rest():
    explorer = Squares(position=4)
    explorer.show(layer=2, stage="scores", heat=2, wide=True, note="$x$")
    assert explorer.state["layer"] == 2
    assert explorer.state["position"] == 4
    explorer.show(position=None)
    assert explorer.state["position"] is None


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"layer": 4}, "layer must be a whole number from 0 to 3, got 4"),
        ({"layer": None}, "layer must be a whole number from 0 to 3, got None"),
        ({"layer": True}, "layer must be a whole number from 0 to 3, got True"),
        ({"layer": [1]}, "layer must be a whole number from 0 to 3, got"),
        ({"position": -1}, "from 0 to 9, or None, got -1"),
        ({"stage": "weight"}, "unknown stage 'weight'. Did you mean 'weights'?"),
        ({"wide": 1}, "unknown wide 1. Choose from: False, True"),
        ({"heat": 2.1}, "heat must be a number from 0 to 2, got 2.1"),
        ({"heat": "hot"}, "heat must be a number from 0 to 2, got 'hot'"),
        ({"note": 3}, "note must be a text, got 3"),
        ({"layer": 1.0}, "layer must be a whole number from 0 to 3, got 1.0"),
        ({"nothing": 0}, "unknown field 'nothing'. Choose from: layer, position"),
    ],
)
def test_a_wrong_state_says_what_was_expected(state, words):
    explorer = Squares()
    before = dict(explorer.state)
    with pytest.raises(ValueError, match=re.escape(words)):
        explorer.show(**state)
    with pytest.raises(ValueError, match=re.escape(words)):
        explorer.state = {**before, **state}
    with pytest.raises(ValueError, match=re.escape(words)):
        Squares(**state)
    assert explorer.state == before


def test_what_the_page_picks_is_seen_in_python():
    explorer = Squares()
    seen = []
    explorer.observe(lambda change: seen.append(change["new"]["layer"]), names="state")
    explorer.set_state({"state": {**explorer.state, "layer": 3}})  # as the comm does
    assert seen == [3]


# Links


def test_linked_explorers_follow_each_other():
    one, other, third = Squares(layer=1), Squares(layer=3, stage="scores"), Squares()
    made = link(one, other, third, "layer", "position")
    assert other.state["layer"] == third.state["layer"] == 1
    other.show(layer=2, position=5, stage="weights")
    assert (one.state["layer"], third.state["position"]) == (2, 5)
    third.show(stage="scores")
    assert one.state["stage"] == "weights"
    made.unlink()
    one.show(layer=0)
    assert other.state["layer"] == 2


def test_a_link_leaves_what_another_cannot_show():
    class Small(Squares):
        def fields(self):
            return {**super().fields(), "layer": Choice(range(2), 0)}

    one, small = Squares(), Small()
    link(one, small)
    one.show(layer=3, position=2)
    assert small.state["layer"] == 0
    assert small.state["position"] == 2
    one.show(layer=1)
    assert small.state["layer"] == 1


def test_a_link_needs_explorers_and_fields_that_they_have():
    with pytest.raises(ValueError, match="at least two explorers"):
        link(Squares(), "layer")
    with pytest.raises(ValueError, match="unknown common field 'nothing'"):
        link(Squares(), Squares(), "nothing")
    with pytest.raises(TypeError, match="takes explorers"):
        link(Squares(), Squares(), 3)


# Packing


def test_weights_as_bytes_are_within_half_a_step():
    weights = np.random.default_rng(0).random((3, 4, 5))
    packed = as_bytes(weights)
    assert packed.stored.dtype == np.uint8
    np.testing.assert_allclose(packed.values(), weights, atol=0.5 / 255 + 1e-6)
    assert as_bytes([np.nan, 0, 1]).stored.tolist() == [0, 0, 255]


def test_vectors_as_int16_keep_four_digits_of_their_largest():
    vectors = (
        np.random.default_rng(0).normal(size=(7, 3, 16)) * np.logspace(-6, 4, 7)[:, None, None]
    )
    vectors[0, 0] = 0
    packed = as_int16(vectors)
    step = np.abs(vectors).max(axis=-1, keepdims=True) / 32767
    assert np.all(np.abs(packed.values() - vectors) <= 0.51 * step)
    assert packed.stored.dtype == np.int16


def test_float16_keeps_three_digits():
    values = np.random.default_rng(0).normal(size=100)
    np.testing.assert_allclose(as_float16(values).values(), values, rtol=2**-11)
    assert np.isinf(as_float16([1e6]).stored[0])


def test_a_message_can_be_read_from_its_description():
    rng = np.random.default_rng(0)
    arrays = {
        "weights": as_bytes(rng.random((2, 3))),
        "query": as_int16(rng.normal(size=(4, 2, 8))),
        "ids": np.arange(5),
        "angles": rng.normal(size=7),
        "mask": np.array([True, False]),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "half": as_float16(rng.normal(size=4)),
    }
    specs, buffers = packed_message(arrays)
    json.dumps(specs, allow_nan=False)
    read = unpacked(specs, buffers)
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        expected = array.values() if isinstance(array, Packed) else array
        np.testing.assert_allclose(read[name], expected, rtol=1e-6, err_msg=name)


def test_what_no_page_can_read_is_refused():
    with pytest.raises(TypeError, match="array 'z' is complex128"):
        packed_message({"z": np.zeros(2, complex)})
    with pytest.raises(ValueError, match="do not fit into 32 bits"):
        packed_message({"n": np.array([2**40])})


# Answers


def test_the_page_gets_the_content_and_more():
    explorer = Squares()
    content, buffers = answer(explorer, "content")
    assert content["header"] == {"whole": False, "text": HOSTILE}
    assert unpacked(content["arrays"], buffers)["squares"].tolist() == [0, 1, 4, 9, 16]
    content, buffers = answer(explorer, "more", first=2, last=5)
    assert content["header"] == {"first": 2}
    assert unpacked(content["arrays"], buffers)["more"].tolist() == [2, 3, 4]


def test_what_goes_wrong_is_one_line(caplog):
    explorer = Squares()
    content, _ = answer(explorer, "more", first=2, last=1)
    assert content["error"] == "last must not be before first"
    assert not caplog.text
    content, _ = answer(explorer, "mroe")
    assert content["error"].startswith("unknown request 'mroe'. Did you mean 'more'?")
    content, _ = answer(explorer, "broken")
    assert content["error"] == "ZeroDivisionError: a fault of two lines"
    assert "could not answer its page" in caplog.text


def test_other_messages_are_left_alone():
    explorer = Squares()
    explorer.send = pytest.fail
    explorer._receive(explorer, {"type": "run"}, [])


# Without a kernel


def test_the_bundle_holds_the_picture_of_the_state():
    explorer = Squares(layer=2)
    bundle, _ = explorer._repr_mimebundle_()
    assert bundle["text/plain"] == "Squares at layer 2."
    first = base64.b64decode(bundle["image/png"])
    assert first.startswith(b"\x89PNG")
    assert explorer.still() == first
    explorer.show(layer=1)
    assert explorer.still() != first


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".html", b"<!doctype html>")]
)
def test_save_writes_what_the_suffix_says(tmp_path, suffix, start):
    path = tmp_path / f"page{suffix}"
    Squares().save(path)
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_save_refuses_other_suffixes_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"unknown suffix '.htm'. Did you mean '.html'\?"):
        Squares().save(tmp_path / "page.htm")
    with pytest.raises(OSError, match="does not exist"):
        Squares().save(tmp_path / "nowhere" / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_the_page_holds_everything_and_asks_nobody():
    large = np.repeat(np.arange(400, dtype=np.float32), 100)
    noise = np.random.default_rng(0).integers(0, 255, 3000).astype(np.uint8)
    text = html_page("generation", HOSTILE, {"layer": 1}, {"text": HOSTILE},
                     {"large": large, "noise": noise})  # fmt: skip
    assert text.count("<script") == 1 + 2 + 1
    assert text.count("</script>") == 4
    assert "<img src=x" not in text
    content = re.search(r'id="content">(.*?)</script>', text, re.S)[1]
    assert "<" not in content
    content = json.loads(content)
    assert content["header"]["text"] == HOSTILE
    assert content["state"] == {"layer": 1}
    elements = re.findall(r'data-array(?: data-deflated="(.)")?>([^<]*)<', text)
    assert [size for size, _ in elements] == ["4", ""]
    shuffled = zlib.decompress(base64.b64decode(elements[0][1]))  # byte by byte of all numbers
    joined = np.frombuffer(shuffled, np.uint8).reshape(4, -1).T.tobytes()
    assert joined == large.tobytes()
    assert base64.b64decode(elements[1][1]) == noise.tobytes()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    for part in ("default-src 'none'", "connect-src 'none'", "script-src 'sha256-"):
        assert part in policy
    for head in ('<html lang="en">', '<meta charset="utf-8">', "<title>&lt;/script&gt;"):
        assert head in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|\bimport\b", text)


# Scripts


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.js").write_text(text)
    return folder


def test_modules_become_one_scope(tmp_path):
    write(
        tmp_path,
        main='import { a, B } from "./a.js";\nimport {\n  c,\n} from "./c.js";\n\n'
        "export default a(B, c);\n",
        a='import { c } from "./c.js";\nexport function a() {}\nexport class B {}\n'
        "const own = c;\n",
        c="export const c = 1; // export this\n",
    )
    text = modules.bundled(tmp_path, "main.js")
    assert "import" not in text
    assert re.findall(r"^(?:function|class|const|export default) \w+", text, re.M) == [
        "const c", "function a", "class B", "const own", "export default a",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"main": 'import { a } from "./a.js";\n'}, "no module a.js (imported by main.js)"),
        ({"main": 'import { a } from "./a.js";\n', "a": "const a = 1;\n"},
         "main.js: a.js does not export 'a'"),
        ({"main": 'import { a } from "./a.js";\n',
          "a": 'import { b } from "./main.js";\nexport const a = 1;\n'},
         "modules import each other in a circle: main.js -> a.js -> main.js"),
        ({"main": 'import { a } from "./a.js";\nconst b = 1;\n',
          "a": "export const a = 1;\nfunction b() {}\n"}, "main.js: the name b is taken by a.js"),
        ({"main": 'import { a } from "./a.js";\nconst { b, c } = 1;\n',
          "a": "export const a = 1;\nasync function c() {}\n"}, "the name c is taken by a.js"),
        ({"main": 'import * as a from "./a.js";\n'}, "main.js: cannot resolve 'import * as a"),
        ({"main": 'import { a } from "d3";\n'}, 'main.js: imports "d3"; only files beside it'),
        ({"main": 'import { a } from "../a.js";\n'}, "outside of the package"),
    ],
)  # fmt: skip
def test_what_cannot_be_put_together_is_named(tmp_path, files, words):
    with pytest.raises(modules.ModuleError, match=re.escape(words)):
        modules.bundled(write(tmp_path, **files), "main.js")


def scripts() -> list[str]:
    """The names of all explorers' scripts."""
    return sorted(path.stem for path in Path(widgets.__file__).parent.glob("*.js"))


@pytest.mark.parametrize("name", scripts())
def test_every_explorer_can_be_put_together(name):
    text = modules.script(name)
    assert len(re.findall(r"^export default ", text, re.M)) == 1
    assert text.count("export class") == 0
    page = modules.page_script(name)
    assert "export" not in re.sub(r"//[^\n]*|/\*.*?\*/", "", page)
    assert "</script" not in page
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert unsafe not in page
    assert modules.styles(name).startswith("/* The look of all explorers.")


def test_modules_import_what_they_use_and_no_more():
    folder = Path(widgets.__file__).parent
    files = [*folder.glob("*.js"), *folder.glob("page/*.js")]
    shared = {
        name: path.name
        for path in folder.glob("page/*.js")
        for name in modules.exported_names(path.read_text(encoding="utf-8"))
    }
    for path in files:
        source = path.read_text(encoding="utf-8")
        imported = {
            name.strip()
            for names, _ in modules._IMPORT.findall(source)
            for name in names.split(",")
            if name.strip()
        }
        code = re.sub(r"//[^\n]*|/\*.*?\*/", "", modules._IMPORT.sub("", source), flags=re.S | re.M)
        own = {name for name, _ in modules._top_level(source)}
        for name in imported:
            assert re.search(rf"\b{name}\b", code), f"{path.name} imports {name} for nothing"
        for name, home in shared.items():
            use = rf"(?<![\w.#]){name}\((?!.*\) {{$)|new {name}\b|extends {name}\b"
            calls = re.search(use, code, re.M)
            if calls and name not in own | imported:
                pytest.fail(f"{path.name} uses {name} of {home} and does not import it: {calls[0]}")
