"""The stories: repeatable, true, in good English, and held-out ones apart from training ones."""

import math
import random
import re

import pytest

from llama_viz.training.plots import PLOTS
from llama_viz.training.stories import (
    HELD_OUT_SHARE,
    KINDS,
    Question,
    Telling,
    is_held_out,
    tell_story,
)
from llama_viz.training.words import (
    ANIMALS,
    CHILDREN,
    COLOURS,
    DAYS,
    GROWN_UPS,
    MONTHS,
    NUMBERS,
    OBJECTS,
    RHYMES,
    SETTINGS,
    WORDS,
)

STORIES = [tell_story(number) for number in range(1500)]
HELD_OUT = [tell_story(number, held_out=True) for number in range(500)]
ALL = STORIES + HELD_OUT
PEOPLE = {person.name: person for person in (*CHILDREN, *GROWN_UPS)}


def words(text):
    return re.findall(r"[A-Za-z]+", text)


def people_in(text):
    """Names in the order in which they stand; 'Aunt May' is one."""
    return re.findall(r"\b(" + "|".join(PEOPLE) + r")\b", text)


def test_a_story_is_decided_by_its_number_and_seed():
    assert STORIES[:50] == [tell_story(number) for number in range(50)]
    assert len({story.text for story in STORIES}) == len(STORIES)
    assert tell_story(3).text != tell_story(3, seed=1).text
    assert tell_story(3).text != tell_story(3, held_out=True).text


def test_one_story_is_known_word_by_word():
    assert tell_story(0).text == (
        "There was a party in the park for Anna, James, Amy, Emma, Bill and Alex. Anna had a "
        "big map. It was purple. Anna left the purple map in the bush. Alex danced with Amy. "
        "Anna danced with Bill. James danced with Emma. Then a bell rang, and Anna blew "
        "bubbles. The band played on. Anna danced with Bill. James danced with Emma. Alex "
        "danced with Amy. They danced once more. James danced with Emma. Alex danced with "
        'Amy. Anna danced with Bill. "Whose purple map is this?" asked Aunt May. "It belongs '
        'to Anna," replied James. "What colour is your map?" asked James. "It is purple," '
        "answered Anna. Then they went home together, and Anna carried her map."
    )


@pytest.mark.parametrize(
    ("number", "arguments", "message"),
    [
        (-1, {}, "number must be at least 0, got -1"),
        (0, {"context": 128}, "context must be at least 256, got 128"),
        (0, {"n_facts": 9}, "n_facts must be from 1 to 8, got 9"),
        (0, {"n_facts": 2, "plot": "song"}, "n_facts is for the plot 'belongings', not for 'song'"),
        (0, {"plot": "war"}, "plot 'war'.*belongings.*song"),
    ],
)
def test_impossible_stories_are_refused(number, arguments, message):
    with pytest.raises(ValueError, match=message):
        tell_story(number, **arguments)


@pytest.mark.parametrize("plot", PLOTS)
def test_every_plot_is_told_and_asked_for_by_name(plot):
    assert plot in {story.plot for story in STORIES}
    story = tell_story(1, plot=plot)
    assert story.plot == plot
    assert story.questions


def test_plots_are_told_as_often_as_they_weigh():
    total = sum(weight for weight, _ in PLOTS.values())
    for plot, (weight, _) in PLOTS.items():
        told = sum(story.plot == plot for story in STORIES) / len(STORIES)
        assert told == pytest.approx(weight / total, abs=0.03)


def test_there_are_hundreds_of_words():
    places = {place for setting in SETTINGS.values() for place in setting}
    animals = {animal for pair in ANIMALS for animal in pair}
    rhymes = {word for group in RHYMES for word in group}
    nouns = {*OBJECTS, *places, *animals, *rhymes, *WORDS["food"]}
    adjectives = {*COLOURS, *WORDS["trait"], *WORDS["size"], *WORDS["happy"], *WORDS["sad"],
                  *WORDS["weather"]}  # fmt: skip
    verbs = {*WORDS["did"], *WORDS["put"], *WORDS["said"], *WORDS["answered"]}
    assert len(nouns) > 240
    assert len(CHILDREN) == 64
    assert len(adjectives) > 70
    assert len(verbs) > 30
    # What is a name, an object, a place or a colour is nothing else.
    kinds = [[child.name for child in CHILDREN], OBJECTS, COLOURS, sorted(places)]
    flat = [word for kind in kinds for word in kind]
    assert len(flat) == len(set(flat))


def test_the_answer_stands_where_it_is_asked_for():
    for story in ALL:
        assert story.questions
        for question in story.questions:
            start = question.prompt + question.answer
            assert story.text.startswith(start)
            assert not story.text[len(start)].isalpha()
            follows = question.kind != "quote" and question.prompt[-1] != '"'
            assert question.answer.startswith(" ") == follows


RULES = ("pronoun", "quote", "order", "plural")  # known without having been told


def test_what_is_no_rule_was_told_before_it_is_asked():
    for story in ALL:
        for question in story.questions:
            if question.kind not in RULES:
                assert question.told is not None, question
                said = question.prompt[question.told :].lower()
                assert said.startswith(question.answer.strip().lower())


def test_told_is_the_last_time_that_the_answer_was_said():
    question = Question("place", "The top was in the box. The box, the well. It is in the", " box")
    assert question.prompt[question.told :].startswith("box, the well")
    assert Question("place", "The boxes were in the", " box").told is None


def test_every_kind_of_question_is_asked():
    kinds = [question.kind for story in STORIES for question in story.questions]
    assert set(kinds) == set(KINDS)
    assert min(kinds.count(kind) for kind in KINDS) > 100


def test_a_place_asked_for_is_where_the_story_put_something():
    for story in ALL:
        places = {place for _, _, place in story.facts}
        for question in story.questions:
            if question.kind == "place":
                assert question.answer.split()[-1] in places


def test_an_owner_asked_for_owns_the_object():
    for story in ALL:
        for question in story.questions:
            if question.kind == "owner":
                thing = [word for word in words(question.prompt) if word in OBJECTS][-1]
                owners = [owner for owner, owned, _ in story.facts if owned == thing]
                assert owners == [question.answer.strip()]


def test_an_object_has_one_colour_from_beginning_to_end():
    for story in ALL:
        coloured = re.findall(rf"\b({'|'.join(COLOURS)}) ({'|'.join(OBJECTS)})\b", story.text)
        assert len(set(coloured)) == len({thing for _, thing in coloured})
        told = {colour for colour in COLOURS if re.search(rf"\b{colour}\b", story.text)}
        assert len(told) <= len({thing for _, thing, _ in story.facts})


def test_pronouns_agree_with_whom_they_stand_for():
    for story in ALL:
        for question in story.questions:
            if question.kind == "pronoun":
                person = PEOPLE[people_in(question.prompt)[-1]]
                forms = {person.he, person.his, person.him}
                assert question.answer.strip().lower() in forms, question


def test_a_child_alone_among_its_own_kind_is_never_called_by_the_other_pronoun():
    checked = 0
    for story in ALL:
        kinds = {PEOPLE[name].child for name in people_in(story.text)}
        if len(kinds) == 1:
            other = {"he", "his", "him"} if kinds == {"girl"} else {"she", "her"}
            assert not other & set(words(story.text.lower())), story.text
            checked += 1
    assert checked > 500


def test_counting_goes_up_one_by_one_to_the_number_told():
    for story in ALL:
        for question in story.questions:
            if question.kind == "count":
                counted = re.search(r"One(, \w+)+", question.prompt)
                if counted:
                    numbers = words(counted[0].lower())
                    assert numbers == list(NUMBERS[: len(numbers)])
                    assert numbers[-1] == question.answer.strip()


def test_days_and_months_follow_each_other():
    for story in ALL:
        for question in story.questions:
            if question.kind == "order":
                row = DAYS if question.answer.strip() in DAYS else MONTHS
                before = [word for word in words(question.prompt) if word in row][-1]
                after = row[(row.index(before) + 1) % len(row)]
                assert question.answer == f" {after}"


def test_animals_agree_with_their_number():
    singular, plural = ({pair[form] for pair in ANIMALS} for form in (0, 1))
    for story in ALL:
        for question in story.questions:
            if question.kind == "plural":
                number = words(question.prompt)[-1]
                assert question.answer.strip() in (singular if number == "one" else plural)
                if " there " in question.prompt[-20:]:
                    assert words(question.prompt)[-2] == ("was" if number == "one" else "were")


def test_a_pair_dances_again_as_it_did():
    for story in ALL:
        pairs = re.findall(r"(\w+) danced with (\w+)\.", story.text)
        if pairs:
            assert len(set(pairs)) * 2 == len({name for pair in pairs for name in pair})
            assert len(pairs) >= 2 * len(set(pairs))


def test_a_quotation_is_closed_where_it_is_asked():
    for story in ALL:
        for question in story.questions:
            if question.kind == "quote":
                assert question.prompt.count('"') % 2 == 1
                assert question.answer == ',"'


# How much there is to hold, and how long.


@pytest.mark.parametrize("n_facts", range(1, 9))
def test_a_story_holds_as_many_facts_as_asked_for(n_facts):
    for number in range(40):
        story = tell_story(number, n_facts=n_facts, held_out=True)
        assert len(set(story.facts)) == n_facts
        told = re.findall(rf"\b(?:{'|'.join(COLOURS)})\b", story.text)
        assert len(set(told)) == n_facts
        for _, thing, place in story.facts:
            assert re.search(rf"\b{thing}\b", story.text)
            assert re.search(rf"\b{place}\b", story.text)


def test_answers_of_a_long_context_lie_far_back():
    short, long = (
        [
            len(question.prompt) - question.told
            for number in range(150)
            for question in tell_story(number, n_facts=3, context=context).questions
            if question.kind in ("place", "colour")
        ]
        for context in (256, 512)
    )
    assert sum(long) / len(long) > 2 * sum(short) / len(short)
    assert max(len(tell_story(number, context=512).text) for number in range(300)) > 1200


def test_articles_capitals_and_quotation_marks_are_right():
    for story in ALL:
        assert not re.search(r"\b[Aa] [aeiou]", story.text), story.text
        assert not re.search(r"\b[Aa]n (?!hour)[^aeiou]", story.text), story.text
        assert not re.search(r"(^|[.!?] )\"?[a-z](?!\w* (asked|counted))", story.text), story.text
        assert not re.search(r"[\[\]{}_]|  ", story.text), story.text
        assert story.text.count('"') % 2 == 0
        assert story.text[-1] in '.!"'


def test_training_and_held_out_stories_share_no_fact():
    training = {fact for story in STORIES for fact in story.facts}
    held_out = {fact for story in HELD_OUT for fact in story.facts}
    assert not training & held_out
    assert not any(is_held_out(*fact) for fact in training)
    assert all(is_held_out(*fact) for fact in held_out)
    assert not {story.text for story in STORIES} & {story.text for story in HELD_OUT}


def test_about_a_tenth_of_all_combinations_is_held_out():
    places = {place for setting in SETTINGS.values() for place in setting}
    kept = [
        is_held_out(child.name, thing, place)
        for child in CHILDREN
        for thing in OBJECTS
        for place in places
    ]
    assert sum(kept) / len(kept) == pytest.approx(1 / HELD_OUT_SHARE, abs=0.01)


def test_held_out_stories_use_the_words_of_training_stories():
    more = [tell_story(number) for number in range(1500, 5000)]
    training = {word for story in STORIES + more for word in words(story.text)}
    held_out = {word for story in HELD_OUT for word in words(story.text)}
    assert held_out <= training


def test_the_information_counts_every_choice():
    # A plot, a setting, a child, a belonging in its place: no story holds less than that.
    least = math.log(3) + math.log(len(SETTINGS) * len(CHILDREN) * len(OBJECTS) * 12 * len(COLOURS))
    for story in ALL:
        assert least < story.nats < 220
    spread = [sum(story.nats for story in part) / len(part) for part in (STORIES, HELD_OUT)]
    assert spread[0] == pytest.approx(spread[1], rel=0.05)


def test_the_information_is_that_of_the_draws():
    """A second count, of what the random numbers themselves were asked for."""
    drawn = []

    class Counting(random.Random):
        def choice(self, options):
            drawn.append(math.log(len(options)))
            return super().choice(options)

        def choices(self, options, weights):
            (chosen,) = super().choices(options, weights)
            drawn.append(-math.log(weights[list(options).index(chosen)] / sum(weights)))
            return [chosen]

        def sample(self, options, count):
            drawn.append(math.log(math.perm(len(options), count)))
            return super().sample(options, count)

    checked = 0
    for number in range(300):
        drawn.clear()
        telling = Telling(Counting(f"training story {number} of seed 0"), False, 256, None)
        plot = telling.weighted({name: weight for name, (weight, _) in PLOTS.items()})
        PLOTS[plot][1](telling)
        assert telling.text == STORIES[number].text
        # A combination that is kept for held-out stories is drawn again, and not counted twice.
        assert sum(drawn) >= telling.nats - 1e-9
        checked += math.isclose(sum(drawn), telling.nats)
    assert checked > 150


def test_a_place_that_opens_a_speech_is_not_due():
    """Where such a question stands, a speech of another form is told about as often."""
    stories = [tell_story(number, plot="belongings") for number in range(400)]
    questions = [question for story in stories for question in story.questions]
    open_ = [question for question in questions if not question.is_due]
    assert {question.kind for question in open_} == {"place"}
    assert all(question.answer[0].isupper() for question in open_)
    others = sum(
        len(re.findall(r'"Is the \w+ \w+ [^"?]+\?" asked', story.text)) for story in stories
    )
    assert 0.8 < len(open_) / others < 1.25
    assert all(question.is_due for question in questions if question.kind != "place")
