"""The compare explorer without a browser: its data against the traces, its runs, its words."""

import asyncio
import dataclasses
import json
import re
import time

import numpy as np
import pytest
import torch

import llama_viz as lv
from llama_viz.tokenizer import Tokenizer
from llama_viz.widgets import CompareExplorer, compare
from llama_viz.widgets.readings import all_tokens, candidates, prompt_loss, text_ends
from tests.reference import n_hooks, random_model
from tests.test_explorer import answer, unpacked
from tests.vocabularies import SAMPLES, byte_level_json, sentence_piece_model

IDS = [5, 9, 3, 5, 9, 7, 3, 11]
TEXT = "Once upon a time  🙂\n<s> $x$ &amp; שלום"


def tokenizers():
    """One of each kind, as their files hold them."""
    return {
        "sentence piece": Tokenizer.from_bytes(sentence_piece_model()),
        "byte level": Tokenizer.from_bytes(byte_level_json()),
    }


def with_tokenizer(kind, name, **sizes):
    """A random model that reads text."""
    tokenizer = tokenizers()[name]
    lm = random_model(kind, vocab_size=tokenizer.vocab_size, **sizes)
    return dataclasses.replace(lm, tokenizer=tokenizer, name=f"{kind} {name}")


def with_other_sizes():
    """Two models that differ in tokenizer, depth and heads."""
    return [
        with_tokenizer("gqa", "sentence piece"),
        with_tokenizer("mha", "byte level", n_layers=5, n_heads=4, n_kv_heads=4),
    ]


@pytest.fixture(scope="module")
def models():
    return [random_model(kind) for kind in ("mha", "gqa", "mqa")]


@pytest.fixture
def explorer(models):
    explorer = CompareExplorer(models, prompt=IDS, max_new_tokens=6)
    yield explorer
    explorer.close()
    assert all(n_hooks(lm.model) == 0 for lm in models)


def read(explorer, *, whole=False):
    """Header and arrays as the page gets them."""
    if whole:
        header, arrays = explorer.content(whole=True)
        json.dumps(header, allow_nan=False)
        return header, {name: getattr(a, "values", lambda a=a: a)() for name, a in arrays.items()}
    content, buffers = answer(explorer, "content")
    return content["header"], unpacked(content["arrays"], buffers)


def run(explorer, **settings):
    """Press Run, as the page does, and wait for the end; all messages that were sent."""
    sent = []
    explorer.send = lambda content, buffers=None: sent.append(content)
    asked = {"type": "ask", "request": "r1", "name": "run", "parameters": settings}

    async def pressed():
        explorer._receive(explorer, asked, [])
        assert {"type": "answer", "request": "r1", "header": {}, "arrays": []} in sent
        await explorer._task

    asyncio.run(pressed())
    return sent


async def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0)


# What the page gets


@pytest.mark.parametrize("whole", [False, True])
def test_the_page_gets_what_was_recorded(explorer, whole):
    header, arrays = read(explorer, whole=whole)
    assert [column["kind"] for column in header["columns"]] == ["MHA", "GQA", "MQA"]
    for number, (column, trace) in enumerate(
        zip(header["columns"], explorer.traces.values(), strict=True)
    ):
        weights = trace["attention_weights"].values
        np.testing.assert_allclose(arrays[f"attention {number}"], weights, atol=0.5 / 255 + 1e-6)
        labels = [str(label) for label in trace["token"].values]
        labels.append(str(trace["sampled_token"].values[-1]))
        assert [token["label"] for token in column["tokens"]] == labels
        assert column["cache"] == trace["cache_bytes_used"].sum("layer").values.tolist()
        # The formula, written out: 2 x layers x kv_heads x head_dim x positions x 4 bytes.
        kv_heads = (8, 2, 1)[number]
        held = len(IDS) + np.arange(6)
        assert column["formula"] == (2 * 3 * kv_heads * 8 * held * 4).tolist() == column["cache"]
        assert column["step_of"] == trace["step_of_position"].values.tolist()
        assert column["missing"] == {}


def test_losses_and_candidates_agree_with_the_model(explorer, models):
    header, arrays = read(explorer)
    for number, lm in enumerate(models):
        column = header["columns"][number]
        ids = explorer.columns[number].trace["token_id"].values.tolist()
        with torch.inference_mode():
            logits = lm.model(torch.tensor([ids]))[0].double()
        expected = torch.nn.functional.cross_entropy(logits[: len(IDS) - 1], torch.tensor(IDS[1:]))
        assert column["loss"]["nats"] == pytest.approx(float(expected), rel=1e-4)
        assert column["loss"]["tokens"] == len(IDS) - 1
        likely = logits.softmax(-1).topk(compare.N_CANDIDATES)
        probabilities = arrays[f"candidate_probability {number}"]
        np.testing.assert_allclose(probabilities, likely.values, rtol=1e-3, atol=1e-6)
        assert arrays[f"candidate_id {number}"].tolist() == likely.indices.tolist()
        assert column["candidates"][0] == [lm.label(i) for i in likely.indices[0].tolist()]


def test_a_text_prompt_gives_its_loss_by_character(models):
    lms = with_other_sizes()
    header, _ = read(CompareExplorer(lms, prompt=TEXT, max_new_tokens=3))
    for lm, column in zip(lms, header["columns"], strict=True):
        ids = torch.tensor([lm.encode(TEXT)])
        with torch.inference_mode():
            logits = lm.model(ids)[0, :-1].double()
        nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        assert column["loss"]["per_character"] == pytest.approx(float(nats) / len(TEXT), rel=1e-4)


def test_large_attention_comes_layer_by_layer(explorer, monkeypatch):
    monkeypatch.setattr(compare, "ATTENTION_BYTES", 1000)
    monkeypatch.setattr(compare, "SAVED_ATTENTION_BYTES", 1000)
    explorer.show(layer=1)
    for whole in (False, True):
        header, arrays = read(explorer, whole=whole)
        assert header["columns"][0]["sent_layers"] == [1]
        assert arrays["attention 0"].shape[0] == 1
    content, buffers = answer(explorer, "attention", number=2, layer=0, version="1")
    weights = explorer.columns[2].trace["attention_weights"].values[:1]
    sent = unpacked(content["arrays"], buffers)["attention"]
    np.testing.assert_allclose(sent, weights, atol=0.5 / 255 + 1e-6)


# How columns belong together


def test_equal_prompts_are_locked_by_their_tokens(explorer):
    assert read(explorer)[0]["lock"]["kind"] == "ids"


def test_other_tokenizers_are_locked_by_characters():
    lms = with_other_sizes()
    explorer = CompareExplorer(lms, prompt=TEXT, max_new_tokens=4)
    header, _ = read(explorer)
    assert header["lock"]["kind"] == "characters"
    assert "character" in header["lock"]["words"]
    for lm, column in zip(lms, header["columns"], strict=True):
        n_prompt = column["n_prompt"]
        assert column["ends"][n_prompt - 1] == len(TEXT)
        for place, end in enumerate(column["ends"][:n_prompt]):
            ids = lm.encode(TEXT)[: place + 1]
            whole = lm.tokenizer.decode_bytes(ids).decode("utf-8", errors="ignore")
            assert end == len(whole), (lm.name, place)
    assert len(header["columns"][0]["layers"]) == 3
    assert explorer.fields()["layer"].values == range(5)
    assert explorer.fields()["head"].values == range(8)


def looking_back(trace, layer, head):
    """The rule by which the first head is chosen, row by row."""
    rows = trace["attention_weights"].sel(layer=layer, head=head).values
    return np.mean([rows[query, 1:query].max() for query in range(2, len(rows))])


def test_it_opens_on_the_head_that_looks_back_most(explorer):
    sums = {
        (layer, head): sum(looking_back(trace, layer, head) for trace in explorer.traces.values())
        for layer in range(3)
        for head in range(8)
    }
    opened = explorer.state["layer"], explorer.state["head"]
    assert opened == max(sums, key=sums.get)
    again = CompareExplorer(list(explorer.traces.values()))
    assert (again.state["layer"], again.state["head"]) == opened


def with_one_head(trace, layer, head, key):
    """The same, but that one head gives all of its weight to one position, and others to theirs."""
    n = trace.sizes["position"]
    weights = np.zeros((trace.sizes["layer"], trace.sizes["head"], n, n), np.float32)
    weights[:, ::2, range(n), range(n)] = 1
    weights[:, 1::2, :, 0] = 1
    weights[layer, head] = np.eye(n)[key]
    return trace.assign(attention_weights=(trace["attention_weights"].dims, weights))


def test_the_first_token_and_the_query_itself_do_not_count(models):
    lm = random_model("mha", n_layers=5, n_heads=4, n_kv_heads=4)
    large, small = lv.record(lm, IDS, 3), lv.record(models[1], IDS, 3)
    explorer = CompareExplorer([with_one_head(large, 3, 2, 1), with_one_head(large, 3, 1, 0)])
    assert (explorer.state["layer"], explorer.state["head"]) == (3, 2)
    # Layers 1 and 2 of five stand beside layer 1 of three: of equals the first.
    explorer = CompareExplorer([with_one_head(large, 4, 3, 0), with_one_head(small, 1, 6, 1)])
    assert (explorer.state["layer"], explorer.state["head"]) == (1, 6)
    given = CompareExplorer([with_one_head(large, 3, 2, 1)] * 2, layer=0, head=1)
    assert (given.state["layer"], given.state["head"]) == (0, 1)


def test_only_the_last_rows_decide_where_it_opens(models, monkeypatch):
    monkeypatch.setattr(compare, "LAST_QUERIES", 2)
    trace = with_one_head(lv.record(models[0], IDS, 3), 1, 5, 1)
    trace["attention_weights"].values[2, 3, :-2] = np.eye(trace.sizes["position"])[1]
    trace["attention_weights"].values[2, 1, -1] = np.nan  # what was dropped from the cache
    trace["attention_weights"].values[2, 2, 1:-1] = np.eye(trace.sizes["position"])[1]
    explorer = CompareExplorer([trace, trace])
    assert (explorer.state["layer"], explorer.state["head"]) == (1, 5)


def test_where_nothing_can_be_looked_back_at_it_opens_on_the_first_head(models):
    traces = [lv.record_forward(models[0], [3, 4]), lv.record(models[1], IDS, 2, taps=["rms"])]
    assert [CompareExplorer(traces).state[name] for name in ("layer", "head")] == [0, 0]


@pytest.mark.parametrize("name", tokenizers())
@pytest.mark.parametrize("text", [text for text in SAMPLES if text])
def test_every_token_knows_where_its_text_ends(name, text):
    lm = with_tokenizer("mqa", name)
    trace = lv.record_forward(lm, text, taps=["logits"])
    ends = text_ends(all_tokens(trace), text)
    for place, end in enumerate(ends):
        if place == 1 and text.startswith(" ") and name == "sentence piece":
            continue  # its own space or the one that SentencePiece put there: a label cannot tell
        written = lm.tokenizer.decode_bytes(lm.encode(text)[: place + 1])
        assert end == len(written.decode("utf-8", errors="ignore"))


def test_other_prompts_are_locked_by_number(models):
    traces = [lv.record(models[0], ids, 2) for ids in (IDS, IDS[:4])]
    header, _ = read(CompareExplorer(traces))
    assert header["lock"]["kind"] == "number"
    assert header["runs"] is False


@pytest.mark.parametrize(
    ("count", "other", "places"),
    [(4, 4, [0, 1, 2, 3]), (30, 4, [0] * 5 + [1] * 10 + [2] * 10 + [3] * 5), (1, 5, [0]),
     (5, 1, [0] * 5), (3, 5, [0, 2, 4])],
)  # fmt: skip
def test_places_at_the_same_depth(count, other, places):
    assert [compare._same_depth(number, count, other) for number in range(count)] == places


# Traces, from memory and from files


def test_traces_and_their_files_need_no_model(models, tmp_path):
    traces = [lv.record(lm, IDS, 5) for lm in models]
    paths = []
    for number, trace in enumerate(traces):
        paths.append(tmp_path / f"run {number}.trace")
        lv.save_trace(trace, paths[-1])
    from_memory, from_files = CompareExplorer(traces), CompareExplorer(paths)
    assert from_memory.still() == from_files.still()
    (one, arrays), (other, same) = read(from_memory), read(from_files)
    assert one == other
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, same[name])
    with pytest.raises(ValueError, match="there is no model here that could run"):
        from_files.measure_times()
    content, _ = answer(from_files, "run", prompt="x")
    assert "no model here" in content["error"]


def test_what_was_not_recorded_is_said(models):
    traces = [
        lv.record(models[0], IDS, 4, taps=["logits", "sampled_id"]),
        lv.record(models[1], IDS, 4, taps=["attention_weights", "cache_bytes_used"], layers=[1]),
        lv.record_forward(models[2], IDS, taps=["candidate_id", "candidate_probability"]),
    ]
    explorer = CompareExplorer(traces)
    header, arrays = read(explorer)
    first, second, third = header["columns"]
    assert set(first["missing"]) == {"attention", "cache"}
    assert 'taps=["attention_weights", ...]' in first["missing"]["attention"]
    assert set(second["missing"]) == {"logits"}
    assert second["loss"] is None
    assert second["layers"] == [1]
    assert "attention 0" not in arrays
    # Of the last one only the end of its one step is known.
    known = ~np.isnan(arrays["candidate_probability 2"][:, 0])
    assert known.tolist() == [False] * (len(IDS) - 1) + [True]
    np.testing.assert_allclose(
        arrays["candidate_probability 2"][-1], traces[2]["candidate_probability"].values[0, :5]
    )
    assert third["cache"] is None
    assert third["formula"] is not None
    assert explorer.still().startswith(b"\x89PNG")
    assert explorer.describe()


def test_readings_of_nothing_are_none(models):
    trace = lv.record_forward(models[0], [3], taps=["rms"])
    assert candidates(trace, 3) is None
    assert prompt_loss(trace) is None
    assert prompt_loss(lv.record_forward(models[0], [3], taps=["logits"])) is None


@pytest.mark.parametrize(
    ("sources", "error", "words"),
    [
        (["gqa"], ValueError, "two to four models or traces, got 1"),
        ("gqa", ValueError, "got 1"),
        (["gqa"] * 5, ValueError, "got 5"),
        (["gqa", "gqb"], ValueError, "unknown model 'gqb'. Did you mean 'gqa'?"),
        (["gqa", 3], TypeError, "got int"),
    ],
)
def test_wrong_sources_say_what_was_expected(sources, error, words):
    with pytest.raises(error, match=re.escape(words)):
        CompareExplorer(sources)


def test_models_and_traces_are_not_mixed(models):
    trace = lv.record(models[0], IDS, 2)
    with pytest.raises(ValueError, match="models or traces, not both"):
        CompareExplorer([models[0], trace])
    with pytest.raises(ValueError, match="leave out the prompt"):
        CompareExplorer([trace, trace], prompt="x")


def test_equal_names_are_told_apart(models):
    trace = lv.record(models[0], IDS, 2)
    explorer = CompareExplorer([trace, trace, trace])
    assert list(explorer.traces) == [
        "random mha", "random mha (2)", "random mha (3)"
    ]  # fmt: skip


def test_wrong_fields_and_settings_are_refused(explorer):
    with pytest.raises(ValueError, match="layer must be a whole number from 0 to 2, got 3"):
        explorer.show(layer=3)
    for settings, words in (
        ({"order": "all at once"}, "unknown order 'all at once'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"seed": 1.5}, "seed must be a number"),
        ({"sead": 1}, "unknown setting 'sead'. Did you mean 'seed'?"),
        ({"prompt": "text"}, "has no tokenizer to encode text"),
        ({"prompt": ""}, "has no tokenizer"),
    ):
        content, _ = answer(explorer, "run", **settings)
        assert words in content["error"]
    assert not explorer.running
    assert explorer.columns[0].trace is not None


# Runs


@pytest.mark.parametrize("order", compare.ORDERS)
def test_a_run_writes_what_generate_writes(explorer, models, order):
    sent = run(explorer, order=order, max_new_tokens=5, temperature=0.9, seed=3)
    for column, lm in zip(explorer.columns, models, strict=True):
        expected = lv.generate(lm, IDS, 5, temperature=0.9, seed=3)
        assert column.trace["token_id"].values.tolist() == expected.ids[:-1]
        assert column.trace["sampled_id"].values.tolist() == expected.new_ids
        assert len(column.seconds) == 5
        assert min(column.seconds) > 0
    tokens = [message for message in sent if message["type"] == "token"]
    numbers = [message["number"] for message in tokens]
    in_turns = [0, 1, 2] * 5
    assert numbers == (in_turns if order == "in turns" else sorted(in_turns))
    assert all(message["run"] == 2 for message in tokens)
    assert [message["place"] for message in tokens if message["number"] == 1] == [8, 9, 10, 11, 12]
    assert explorer.status == {"text": "Done.", "share": 1.0, "problem": False}
    assert not explorer.running
    assert sent[-1]["type"] == "column"


def test_times_come_from_runs_without_hooks(explorer, models, monkeypatch):
    hooks = []
    real = compare.stream

    def watched(lm, *args, **kwargs):
        for step in real(lm, *args, **kwargs):
            hooks.append(n_hooks(lm.model))
            yield step

    monkeypatch.setattr(compare, "stream", watched)
    assert read(explorer)[0]["columns"][0]["seconds"] is None
    times = explorer.measure_times()
    assert hooks == [0] * 18
    for column in explorer.columns:
        assert times[column.name] == pytest.approx(np.median(column.seconds[1:]))
    assert "with nothing recorded" in explorer.differences[-1]
    header, _ = read(explorer)
    assert header["columns"][1]["seconds"] == explorer.columns[1].seconds


def test_stop_keeps_what_was_written(explorer):
    async def pressed():
        explorer.start(max_new_tokens=60)
        await until(lambda: explorer.columns[0].n_positions > 12)
        began = time.monotonic()
        answer(explorer, "stop")
        await explorer._task
        return time.monotonic() - began

    assert asyncio.run(pressed()) < 0.5
    assert explorer.columns[0].trace.sizes["step"] < 60
    assert explorer.columns[1].trace is None
    header, _ = read(explorer)
    assert header["columns"][1]["n_positions"] == 0
    assert len(header["columns"][1]["tokens"]) == len(IDS)
    assert "Stopped" in explorer.status["text"]
    assert explorer.still().startswith(b"\x89PNG")
    assert explorer.state["position"] == len(IDS) - 1


def test_others_are_heard_after_every_token(explorer):
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def pressed():
        other = asyncio.create_task(others())
        await explorer.start()
        other.cancel()

    asyncio.run(pressed())
    assert turns > 2 * 3 * 6


def test_one_run_at_a_time(explorer):
    async def pressed():
        task = explorer.start()
        with pytest.raises(RuntimeError, match="stop it first"):
            explorer.start()
        content, _ = answer(explorer, "run")
        assert content["error"] == "a run is under way; stop it first"
        await task

    asyncio.run(pressed())


def test_what_goes_wrong_in_a_run_is_one_line(explorer, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("of two\nlines")

    monkeypatch.setattr(compare, "stream", broken)
    run(explorer)
    assert explorer.status["problem"]
    assert explorer.status["text"] == "ZeroDivisionError: of two lines"
    assert not explorer.running
    assert "the run of the compare explorer failed" in caplog.text


def test_a_full_context_is_said(models):
    small = [random_model(kind, max_seq_len=12) for kind in ("mha", "mqa")]
    explorer = CompareExplorer(small, prompt=IDS, max_new_tokens=2)
    run(explorer, max_new_tokens=30)
    assert explorer.status["text"] == (
        "Done; the context of random mha is full, the context of random mqa is full."
    )


def test_a_new_prompt_of_a_text_model():
    explorer = CompareExplorer(with_other_sizes(), prompt="Once", max_new_tokens=2)
    run(explorer, prompt=TEXT, max_new_tokens=3)
    assert explorer.settings["prompt"] == TEXT
    assert all(trace.attrs["prompt"] == TEXT for trace in explorer.traces.values())
    content, _ = answer(explorer, "column", number=1)
    assert content["header"]["column"]["n_prompt"] == len(explorer.columns[1].prompt_ids)


# Words


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [(1, 4, "a quarter"), (2, 16, "an eighth"), (1, 2, "half"), (3, 4, "three quarters"),
     (3, 8, "38%"), (1, 3, "a third"), (5, 5, "all"), (1, 1000, "0.001")],
)  # fmt: skip
def test_shares_in_words(part, whole, words):
    assert compare.share_in_words(part, whole) == words


def test_differences_are_said_in_words(explorer):
    words = explorer.differences
    assert words[0].endswith("random mqa keeps 1 key/value head for its 8 query heads.")
    assert words[1] == (
        "random gqa keeps a quarter of random mha's cache, random mqa an eighth "
        "(bytes for each position: random mha 1,536, random gqa 384, random mqa 192)."
    )
    losses = [prompt_loss(trace)["nats"] for trace in explorer.traces.values()]
    assert words[2].startswith(f"{list(explorer.traces)[int(np.argmin(losses))]} expects")
    for loss in losses:
        assert f"{loss:.3f}" in words[2]
    assert explorer.describe().splitlines()[1:] == words


def test_of_equal_losses_none_is_the_best():
    trace = lv.record(with_tokenizer("gqa", "byte level"), TEXT, 2)
    loss = prompt_loss(trace)["nats"]
    for number, who in ((2, "Both"), (3, "All")):
        words = CompareExplorer([trace] * number).differences
        assert f"{who} expect this prompt alike: {loss:.3f} nats per token." in words
    other = lv.record(with_tokenizer("mha", "byte level"), TEXT, 2)
    explorer = CompareExplorer([trace, other, trace])
    losses = {name: round(prompt_loss(run)["nats"], 3) for name, run in explorer.traces.items()}
    best = [name for name, one in losses.items() if one == min(losses.values())]
    said = f"{' and '.join(best)} {'expects' if len(best) == 1 else 'expect'} this prompt best: "
    assert explorer.differences[2].startswith(said)
    assert len(set(losses.values())) == 2


def test_texts_are_compared(models):
    lm = with_tokenizer("gqa", "byte level")
    trace = lv.record(lm, TEXT, 6)
    other = trace.assign_attrs(text=trace.attrs["text"][:3] + "\0")
    assert "Both write the same text." in CompareExplorer([trace, trace]).differences
    assert any("after 3 characters" in line for line in CompareExplorer([trace, other]).differences)


# Without a kernel


def test_a_saved_page_holds_all(explorer, tmp_path):
    path = tmp_path / "page.html"
    explorer.save(path)
    text = path.read_text(encoding="utf-8")
    content = json.loads(re.search(r'id="content">(.*?)</script>', text, re.DOTALL)[1])
    assert len(content["header"]["columns"]) == 3
    assert content["state"] == explorer.state
    assert len(content["arrays"]) == 9


def test_the_picture_follows_the_state(explorer):
    before = explorer.still()
    explorer.show(layer=0)
    assert explorer.still() != before
    bundle, _ = explorer._repr_mimebundle_()
    assert bundle["text/plain"].startswith("Compare explorer: random mha, random gqa")
