"""Figures of tokens and embeddings: what is drawn is what was computed, hostile texts included."""

import numpy as np
import pytest

import llama_viz as lv
from llama_viz import figures, vectors
from llama_viz.config import PRESETS
from llama_viz.figures import style
from llama_viz.tokenizers.step_by_step import marked, merge_steps, piece_scores
from llama_viz.training.word_classes import tokens_by_class
from tests.test_figures import HOSTILE, named, panel, png, relabelled

WORD = "understanding"


@pytest.fixture(scope="module")
def lm():
    return lv.load("gqa")


@pytest.fixture(scope="module")
def trace(lm):
    return lv.record_forward(lm, "Lily had a ball. Tom had a ball. The ball was red.")


@pytest.fixture(scope="module")
def tables(lm):
    return vectors.token_tables(lm, tokens_by_class(lm.tokenizer))


def texts(figure):
    inside = [text for axes in figure.axes for text in axes.texts]
    return [text.get_text() for text in (*figure.texts, *inside)]


def said(figure, name):
    inside = [text for axes in figure.axes for text in axes.texts]
    return [text.get_text() for text in (*figure.texts, *inside) if text.get_gid() == name]


def test_merges_draw_every_step_and_the_tokens(lm):
    steps = merge_steps(marked(WORD), piece_scores(lm.tokenizer))
    figure = figures.merges(lm.tokenizer, text=WORD)
    assert said(figure, "letters") == [piece for step in steps for piece in step.pieces]
    ids = lm.tokenizer.encode(WORD)[1:]
    assert said(figure, "token") == [lm.tokenizer.label(token_id) for token_id in ids]
    assert said(figure, "id") == [str(token_id) for token_id in ids]
    assert said(figure, "score") == []
    rows = [found for found in panel(figure, "merges").collections if found.get_gid() == "pieces"]
    for row, before in zip(rows[1:], steps, strict=False):
        filled = [tuple(colour) == (*np.array([86, 180, 233]) / 255, 1.0)
                  for colour in row.get_facecolors()]  # fmt: skip
        assert np.flatnonzero(filled).tolist() == [before.chosen]


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_step_shows_what_can_be_joined_next(lm, step):
    now = merge_steps(marked(WORD), piece_scores(lm.tokenizer))[step]
    figure = figures.merges(lm.tokenizer, text=WORD, step=step)
    assert said(figure, "score") == [f"{score:g}" for score in now.possible.values()]
    winner = [line for line in panel(figure, "merges").lines if line.get_linewidth() > 2]
    assert len(winner) == 1
    assert said(figure, "token") == []


def test_a_late_step_is_the_end_and_a_negative_one_is_refused(lm):
    end = figures.merges(lm.tokenizer, text=WORD)
    assert png(figures.merges(lm.tokenizer, text=WORD, step=99)) == png(end)
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        figures.merges(lm.tokenizer, text=WORD, step=-1)


@pytest.mark.parametrize("text", ["", *HOSTILE, "a" * 300, "🙂" * 30])
def test_any_text_can_be_merged_and_stays_in_view(lm, text):
    for step in (0, None):
        figure = figures.merges(lm.tokenizer, text=text, step=step)
        figure.draw_without_rendering()
        width, height = figure.get_size_inches() * figure.dpi
        for axes in figure.axes:
            for drawn in axes.texts:
                box = drawn.get_window_extent()
                assert box.x0 >= 0, drawn.get_text()
                assert box.x1 <= width, drawn.get_text()
                assert box.y0 >= -1, drawn.get_text()
                assert box.y1 <= height, drawn.get_text()


def test_a_long_text_is_cut_and_says_so(lm):
    figure = figures.merges(lm.tokenizer, text="word " * 20)
    assert any("only the first 25 letters" in text for text in texts(figure))


def test_embedding_rows_are_the_recorded_ones(lm, trace):
    figure = figures.embedding_rows(trace)
    (image,) = panel(figure, "rows").images
    np.testing.assert_array_equal(image.get_array(), trace["embedding"].values)
    labels = [label.get_text() for label in panel(figure, "rows").get_yticklabels()]
    assert labels[0] == f"<s>  {trace['token_id'].values[0]}"
    run = relabelled(lv.record(lm, "Lily had a ball", max_new_tokens=12))
    for draw in (figures.embedding_rows, figures.same_token):
        assert png(draw(run))


def test_the_same_token_is_one_row_and_then_is_not(trace):
    figure = figures.same_token(trace)
    axes = panel(figure, "depth")
    ids = trace["token_id"].values
    for line in axes.lines:
        token_id = int(line.get_gid().removeprefix("token "))
        places = [place for place in np.flatnonzero(ids == token_id) if place > 0]
        means = line.get_ydata()
        assert means[0] == pytest.approx(1, abs=1e-12)
        for layer, mean in enumerate(means[1:]):
            stream = trace["residual_out"].values[layer].astype(float)
            pairs = [
                stream[a] @ stream[b] / np.linalg.norm(stream[a]) / np.linalg.norm(stream[b])
                for a in places for b in places if a < b
            ]  # fmt: skip
            assert mean == pytest.approx(np.mean(pairs), rel=1e-9)
            assert mean < 1 - 1e-6
    with pytest.raises(ValueError, match="no token stands twice"):
        figures.same_token(trace.isel(position=slice(0, 2)))


def test_a_look_up_draws_the_rows_it_picks():
    table = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 1, 0]])
    figure = figures.lookup(table, [2, 0, 2], ["Dan", "<b>", "$x$", "cream"])
    numbers = [text.get_text() for text in panel(figure, "rows").texts]
    assert numbers == ["7", "8", "9", "1", "2", "3", "7", "8", "9"]
    ones = [text.get_text() for text in panel(figure, "one-hot").texts]
    assert ones == list("001010000010")
    with pytest.raises(ValueError, match="ids 0 to 3"):
        figures.lookup(table, [4], ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="at most 12 named rows"):
        figures.lookup(np.ones((13, 2)), [0], ["a"] * 13)


def test_neighbours_are_the_nearest_rows_of_each_table(tables):
    token = str(tables["token"].values[300])
    figure = figures.nearest_tokens(tables, token=token, count=5)
    for name, table in tables.items():
        found = vectors.nearest(table.values, 300, 5)
        axes = panel(figure, name)
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert labels == [style.shortened(str(tables["token"].values[row])) for row, _ in found]
        lengths = [bar.get_width() for bar in axes.patches]
        np.testing.assert_allclose(lengths, [likeness for _, likeness in found])
    with pytest.raises(ValueError, match="unknown token 'no such'"):
        figures.nearest_tokens(tables, token="no such")


def test_the_map_has_a_dot_for_every_word(tables):
    words = tables.isel(token_id=tables["word_class"].values != "")
    figure = figures.word_map(tables)
    for name, table in words.items():
        points = vectors.project(table.values).points
        for dots in panel(figure, name).collections:
            of_class = words["word_class"].values == dots.get_gid()
            np.testing.assert_allclose(dots.get_offsets(), points[of_class])
    assert said(figure, "word") == []
    with pytest.raises(ValueError, match="unknown class 'verbs'"):
        figures.word_map(tables, highlight="verbs")


def test_the_words_of_a_class_stand_beside_their_dots_inside_the_map(tables):
    figure = figures.word_map(tables, highlight="girls")
    figure.draw_without_rendering()
    girls = tables["token"].values[tables["word_class"].values == "girls"]
    for name in tables:
        axes = panel(figure, name)
        edges, boxes = axes.get_window_extent(), []
        assert len(axes.texts) > 3
        for text in axes.texts:
            assert text.get_text() in girls
            box = text.get_window_extent()
            assert edges.x0 <= box.x0
            assert box.x1 <= edges.x1 + 1
            boxes.append(box)
        for index, box in enumerate(boxes):
            assert not any(box.overlaps(other.shrunk(0.8, 0.6)) for other in boxes[:index])


def test_the_share_of_the_tables_is_by_the_formula():
    configs = {name: PRESETS[name] for name in ("llama2-7b", "smollm2-135m")}
    figure = figures.embedding_share(configs)
    bars = {bar.get_gid(): [] for bar in panel(figure, "shares").patches}
    for bar in panel(figure, "shares").patches:
        bars[bar.get_gid()].append(bar.get_width())
    assert bars["embedding"][0] == 32000 * 4096 / 6_738_415_616 == bars["output_head"][0]
    assert bars["output_head"][1] == 0
    assert any("21.0% of 134,515,008" in text for text in texts(figure))


def test_sequence_lengths_draw_their_counts():
    figure = figures.sequence_lengths({"a <b>": {384: 30, 512: 20}, "$x$": {384: 9, 512: 9}})
    line = named(panel(figure, "lengths").lines, "a <b>")
    assert line.get_xdata().tolist() == [384, 512]
    assert line.get_ydata().tolist() == [30, 20]
    png(figure)
