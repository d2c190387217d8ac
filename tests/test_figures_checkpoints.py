"""Figures of checkpoints: every byte is drawn, every line says what it was given."""

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import figures
from llama_viz.figures.check import read
from llama_viz.figures.checkpoints import NO_WEIGHT, part_of
from tests.reference import random_model

FILES = {
    "one": [("", 100), ("embedding.weight", 4000), ("blocks.0.attention.query.weight", 1000)],
    "other": [("output.weight", 2000), ("blocks.0.feed_forward.up.weight", 2500), ("", 600)],
}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("embedding.weight", "embedding"),
        ("blocks.3.attention.output.weight", "attention"),
        ("blocks.3.attention_norm.weight", "norms"),
        ("blocks.12.feed_forward_norm.weight", "norms"),
        ("blocks.0.feed_forward.down.weight", "feed-forward"),
        ("norm.weight", "norms"),
        ("output.weight", "output head"),
        ("", NO_WEIGHT),
    ],
)
def test_every_weight_belongs_to_a_part(name, part):
    assert part_of(name) == part


def test_all_weights_of_a_model_have_a_part():
    names = [name for name, _ in random_model().model.named_parameters()]
    assert NO_WEIGHT not in {part_of(name) for name in names}


def test_every_byte_of_the_files_is_drawn():
    figure = figures.file_map(FILES, "Two files")
    (panel,) = figure.axes
    for row, (label, pieces) in enumerate(FILES.items()):
        spans = [
            path.get_extents()
            for drawn in panel.collections
            if (drawn.get_gid() or "").endswith(f" of {label}")
            and not drawn.get_gid().startswith("ends")
            for path in drawn.get_paths()
        ]
        spans.sort(key=lambda span: span.x0)
        ends = np.cumsum([n_bytes for _, n_bytes in pieces]) / 1e6
        assert np.allclose([span.x1 for span in spans], ends)
        assert np.allclose([span.x0 for span in spans], [0, *ends[:-1]])
        assert all(abs((span.y0 + span.y1) / 2 - row) < 1e-9 for span in spans)
    words = " ".join(read(figure).structure())
    assert "name of output head" in words
    assert "'one' 'other'" in words


def test_lines_part_pieces_that_can_be_seen():
    figure = figures.file_map({"file": [("embedding.weight", 4000), ("", 1),
                                        ("output.weight", 4000)]}, "A file")  # fmt: skip
    (lines,) = [drawn for drawn in figure.axes[0].collections if drawn.get_gid() == "ends of file"]
    assert [segment[0][0] for segment in lines.get_segments()] == pytest.approx([0.004])


def test_nothing_to_draw_is_said():
    for empty in ({}, {"file": []}):
        with pytest.raises(ValueError, match="no files"):
            figures.file_map(empty, "No files")
    for lines in ({}, {"a": [1.0], "b": [1.0, 2.0]}):
        with pytest.raises(ValueError, match="a number for every layer"):
            figures.differences(lines, "None")


def test_differences_draw_what_they_are_given():
    lines = {"half": [1e-3, 2e-3, 4e-3], "quarter": [0.1, 0.2, 0.0], "same": [0.0, 0.0, 0.0]}
    figure = figures.differences(lines, "How far apart", allowed=1e-5)
    panel = figure.axes[0]
    drawn = {line.get_gid(): line.get_ydata() for line in panel.lines}
    assert np.allclose(drawn["half"], lines["half"])
    assert np.isnan(drawn["quarter"][2])
    assert np.isnan(drawn["same"]).all()
    assert np.allclose(drawn["allowed"], 1e-5)
    low, high = panel.get_ylim()
    assert low < 1e-5
    assert high > 0.2
    names = {text.get_text(): text.get_position()[1] for text in panel.texts}
    assert set(names) == {"half", "quarter", "same: 0 everywhere", "allowed"}
    assert names["quarter"] > names["half"] > names["allowed"] > names["same: 0 everywhere"]
    assert "10⁻⁵" in [label.get_text() for label in panel.get_yticklabels()]


def test_names_at_one_height_are_moved_apart():
    figure = figures.differences({name: [1e-3] for name in "abcd"}, "Alike")
    places = sorted(text.get_position()[1] for text in figure.axes[0].texts)
    assert min(np.diff(places)) * 3.0 * 72 > 10.5


def test_models_that_are_the_same_draw_nothing_but_say_so():
    figure = figures.differences({"copy": [0.0, 0.0]}, "A copy")
    assert figure.axes[0].texts[0].get_text() == "copy: 0 everywhere"


def test_a_long_line_below_the_title_fits():
    detail = "the median goes from 0.11 to 26; farthest from it: position 0, The, 178 times that"
    for more in range(0, 60, 7):
        figure = figures.differences({"a": [1.0]}, "Title", detail + "m" * more)
        figure.canvas.draw()
        extent = next(text for text in figure.texts if text.get_gid() == "detail")
        assert extent.get_window_extent().x1 <= figure.width * figure.dpi


def test_differences_of_two_recorded_runs():
    lm, other = random_model(), random_model()
    other.model.blocks[1].feed_forward.down.weight.mul_(1.01)
    reference, trace = (lv.record_forward(one, list(range(12))) for one in (lm, other))
    off = lv.analysis.difference_by_layer(trace, reference)
    assert off.dims == ("layer",)
    assert off[0] == 0
    assert 0 < off[1] < 0.1
    expected = [
        float(abs(trace.residual_out[n] - reference.residual_out[n]).max())
        / max(1.0, float(abs(reference.residual_out[n]).max()))
        for n in range(3)
    ]
    assert off.values == pytest.approx(expected)
    shorter = lv.record_forward(lm, [1, 2, 3])
    with pytest.raises(ValueError, match="no match"):
        lv.analysis.difference_by_layer(shorter, reference)
    others = [reference.sel(layer=[layer]) for layer in (0, 1)]
    with pytest.raises(ValueError, match=r"layers \[0\] and \[1\]: no match"):
        lv.analysis.difference_by_layer(*others)
