"""The stories: repeatable, true, in good English, and held-out ones apart from training ones."""

import re

import pytest

from llama_viz.training.stories import (
    CHILDREN,
    COLOURS,
    GROWN_UPS,
    HELD_OUT_SHARE,
    KINDS,
    NUMBERS,
    OBJECTS,
    SETTINGS,
    is_held_out,
    tell_story,
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
        "One cloudy evening, Leo and Anna were playing in the park. Anna was fond of cheese. Leo "
        "was fond of cake. Leo had brought his purple bear. Leo wanted to keep the bear safe, so "
        'he put it under the swing. Then the wind blew. "Are you hungry?" asked Dad. Anna ate the '
        'cheese, and Leo ate the cake. Anna picked up the bear. "Whose bear is this?" she asked. '
        '"It belongs to Leo," said Dad. Leo held his bear and was cheerful.'
    )


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        tell_story(-1)


def test_the_answer_stands_where_it_is_asked_for():
    for story in ALL:
        assert story.questions
        for question in story.questions:
            start = f"{question.prompt} {question.answer}"
            assert story.text.startswith(start)
            assert not story.text[len(start)].isalpha()


def test_all_but_pronouns_was_told_before_it_is_asked():
    for story in ALL:
        for question in story.questions:
            if question.kind != "pronoun":
                told = words(question.prompt.lower())
                assert words(question.answer.lower())[-1] in told, question


def test_every_kind_of_question_is_asked():
    kinds = [question.kind for story in STORIES for question in story.questions]
    assert set(kinds) == set(KINDS)
    assert min(kinds.count(kind) for kind in KINDS) > 200


def test_a_place_asked_for_is_where_the_story_put_something():
    for story in ALL:
        places = {place for _, _, place in story.facts}
        for question in story.questions:
            if question.kind == "place":
                assert words(question.answer)[-1] in places


def test_an_owner_asked_for_owns_the_object():
    for story in ALL:
        for question in story.questions:
            if question.kind == "owner":
                thing = [word for word in words(question.prompt) if word in OBJECTS][-1]
                assert [owner for owner, owned, _ in story.facts if owned == thing] == [
                    question.answer
                ]


def test_an_object_has_one_colour_from_beginning_to_end():
    for story in ALL:
        coloured = re.findall(rf"\b({'|'.join(COLOURS)}) ({'|'.join(OBJECTS)})\b", story.text)
        assert len(set(coloured)) == len({thing for _, thing in coloured})
        told = {colour for colour in COLOURS if re.search(rf"\b{colour}\b", story.text)}
        for question in story.questions:
            if question.kind == "colour":
                assert question.answer in told
                owned = {thing for _, thing, _ in story.facts}
                assert len(told) <= len(owned)


def test_pronouns_agree_with_whom_they_stand_for():
    for story in ALL:
        for question in story.questions:
            if question.kind == "pronoun":
                assert question.answer == PEOPLE[people_in(question.prompt)[-1]].his, question


def test_a_child_alone_among_its_own_kind_is_never_called_by_the_other_pronoun():
    checked = 0
    for story in ALL:
        kinds = {PEOPLE[name].child for name in people_in(story.text)}
        if len(kinds) == 1:
            other = {"he", "his", "him"} if kinds == {"girl"} else {"she", "her"}
            assert not other & set(words(story.text.lower())), story.text
            checked += 1
    assert checked > 300


def test_counting_goes_up_one_by_one_to_the_number_told():
    for story in ALL:
        for question in story.questions:
            if question.kind == "count":
                counted = re.search(r"One(, \w+)+", question.prompt)
                if counted:
                    numbers = words(counted[0].lower())
                    assert numbers == list(NUMBERS[: len(numbers)])
                    assert numbers[-1] == question.answer


def test_articles_capitals_and_quotation_marks_are_right():
    for story in ALL:
        assert not re.search(r"\b[Aa] [aeiou]", story.text), story.text
        assert not re.search(r"\b[Aa]n [^aeiou]", story.text), story.text
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
    training = {word for story in STORIES for word in words(story.text)}
    held_out = {word for story in HELD_OUT for word in words(story.text)}
    assert held_out <= training


def test_the_information_counts_every_choice():
    # Eight plots, and in each at least a setting and a child: no story holds less than that.
    least = 3 + 3 + 5  # bits
    for story in ALL:
        assert least * 0.693 < story.nats < 120
    spread = [sum(story.nats for story in part) / len(part) for part in (STORIES, HELD_OUT)]
    assert spread[0] == pytest.approx(spread[1], rel=0.05)
