"""The plots of the stories, and the sentences that they are told with.

Letters are slots: children a, b and c, objects x, y and z. A sentence that several plots share is
told for whoever plays the role: `_show(story, "b", "y")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_viz.training.words import ANIMALS, DAYS, MONTHS, RHYMES, WORDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama_viz.training.stories import Telling

# What comes after the last distraction, a question and an ending, takes about this share of the
# context; a longer context is filled up to half before anything is asked.
DISTRACTED, DISTRACTED_LONG = 0.47, 0.5

# How many belongings a story holds, and how often.
HELD = {1: 4, 2: 6, 3: 3, 4: 2, 5: 1, 6: 0.5, 7: 0.5, 8: 0.5}


# Openings.


def _open_alone(story: Telling) -> None:
    story.tell(
        "One {weather} {time}, {a.name} was playing {here}.",
        "Once there was a {trait} {a.child} named {a.name}. One {time} {a.he} was {here}.",
        "Once there was a {a.child} named {a.name}. {a.He} liked to play {here}.",
        "Once upon a time there was a {trait} {a.child} named {a.name}. {a.He} played {here}.",
        "{a.name} was a {trait} {a.child}. {a.He} liked to play {here}.",
        "It was a {weather} {time}. {a.name} was {here}, all alone.",
        "On {weekday}, {a.name} was {here} all {time} long.",
        "In {month}, {a.name} often played {here}.",
    )


def _open_together(story: Telling) -> None:
    story.tell(
        "One {weather} {time}, {a.name} and {b.name} were playing {here}.",
        "{a.name} and {b.name} were good friends. On {weekday} they played {here}.",
        "{a.name} was {here} with {a.his} {trait} friend {b.name}.",
        "Once there were two {trait} friends, {a.name} and {b.name}. They often played {here}.",
        "Once upon a time {a.name} and {b.name} met {here}.",
        "It was a {weather} {time}. {a.name} and {b.name} were {here}.",
        "In {month}, {a.name} and {b.name} were {here} every {time}.",
    )


def _open_in_three(story: Telling) -> None:
    story.tell(
        "One {weather} {time}, {a.name}, {b.name} and {c.name} were playing {here}.",
        "Once there were three friends, {a.name}, {b.name} and {c.name}. They often met {here}.",
        "It was a {weather} {time}. {a.name}, {b.name} and {c.name} were {here}.",
        "{a.name} was {here} with two {trait} friends, {b.name} and {c.name}.",
    )


# What somebody owns, and where it is.


def _show(story: Telling, a: str, x: str) -> None:
    """Somebody owns an object of some colour."""
    story.tell(
        "{a.name} had a {x.colour} {x.object}.",
        "{a.name} had a {size} {x.object}. It was {x.colour}.",
        "{a.name} had brought [pronoun:a.his] {x.colour} {x.object}.",
        "{a.name} loved [pronoun:a.his] {size} {x.colour} {x.object}.",
        "The {x.colour} {x.object} belonged to {a.name}.",
        a=a,
        x=x,
    )


def _put_away(story: Telling, a: str, x: str) -> None:
    """Somebody puts the object somewhere."""
    story.tell(
        "{a.name} {put} the [colour:x.colour] {x.object} {x.where}.",
        "{a.name} {slowly} {put} [pronoun:a.his] {x.object} {x.where}.",
        "Then {a.name} {put} the [colour:x.colour] {x.object} {x.where}.",
        "The [colour:x.colour] {x.object} was {x.where}, where {a.name} {put} it.",
        "{a.name} wanted to keep the {x.object} safe, so [pronoun:a.he] {put} it {x.where}.",
        a=a,
        x=x,
    )


def _show_and_put_away(story: Telling, a: str, x: str) -> None:
    """Both in one sentence."""
    story.tell(
        "{a.name} {put} [pronoun:a.his] {x.colour} {x.object} {x.where}.",
        "{x.where} was the {x.colour} {x.object} of {a.name}.",
        "The {x.colour} {x.object} of {a.name} lay {x.where}.",
        a=a,
        x=x,
    )


def _echo(story: Telling, a: str, x: str, b: str) -> None:
    """Somebody, b, says it again, as people do who want to be sure."""
    story.tell(
        '"[place:x.where]?" asked {b.name}. "Yes, [place:x.where]," {answered} {a.name}.',
        '"Is the [colour:x.colour] {x.object} [place:x.where]?" asked {b.name}. '
        '"Yes, it is [place:x.where]," {answered} {a.name}.',
        "{b.name} saw the [colour:x.colour] {x.object} {x.preposition} the [place:x.place].",
        "So the {x.object} of [owner:a.name] was {x.preposition} the [place:x.place].",
        a=a,
        b=b,
        x=x,
    )


# What happens meanwhile has nothing to do with it.


def _meanwhile(story: Telling, a: str = "a") -> None:
    story.tell(
        "Then {change}.",
        "Then {change}, and {a.name} {did}.",
        "{a.name} {did}, and then [pronoun:a.he] {did}.",
        "{a.name} washed [pronoun:a.his] hands and ate some {food}.",
        "{a.name} opened [pronoun:a.his] eyes and saw {visitor}.",
        "After that, {adult.name} gave {a.name} some {food}.",
        '{visitor} came by. "Hello[quote:,"] {said} {a.name}.',
        "{a.name} saw {visitor} {somewhere}.",
        "{a.name} was {happy} and {slowly} {did}.",
        '"It is a {weather} {time}[quote:,"] {said} {a.name}.',
        '"Yesterday I {did}, and then I {did}[quote:,"] {said} {a.name}.',
        '"When it was {weather}, we {did}[quote:,"] {answered} {adult.name}.',
        a=a,
    )


def _pass_time(story: Telling, *children: str) -> None:
    """Any number of distractions: a few, or in a long context as many as it takes."""
    if story.context > 256:
        while story.room(DISTRACTED_LONG):
            _meanwhile(story, story.pick(children))
        return
    for _ in range(story.weighted({0: 4, 1: 5, 2: 3, 3: 2, 5: 1, 8: 0.5})):
        if story.room(DISTRACTED):
            _meanwhile(story, story.pick(children))


# Questions.


def _ask_place(story: Telling, a: str, x: str, b: str) -> None:
    """The owner a or somebody else, b, asks where the object is."""
    story.tell(
        '"Where is your {x.colour} {x.object}?" asked {b.name}. '
        '"It is {x.preposition} the [place:x.place]," {answered} {a.name}.',
        '"Where is my {x.object}?" asked {a.name}. '
        '"It is {x.preposition} the [place:x.place]," {answered} {b.name}.',
        '"I cannot see my {x.object}," {said} {a.name}. '
        '"You {put} it [place:x.where][quote:,"] {answered} {b.name}.',
        "Where was the {x.object}? It was still {x.preposition} the [place:x.place].",
        "{b.name} asked for the {x.colour} {x.object}, so they looked {x.preposition} the "
        "[place:x.place].",
        "At last {a.name} needed [pronoun:a.his] {x.object}. "
        "[pronoun:a.He] found it {x.preposition} the [place:x.place].",
        a=a,
        b=b,
        x=x,
    )


def _ask_colour(story: Telling, a: str, x: str, b: str) -> None:
    """Somebody, b, asks which colour the object has."""
    story.tell(
        '"What colour is your {x.object}?" asked {b.name}. '
        '"It is [colour:x.colour]," {answered} {a.name}.',
        '"Which {x.object} is yours?" asked {b.name}. '
        '"The [colour:x.colour] one," {answered} {a.name}.',
        "{b.name} did not know the {x.object} of {a.name}. "
        '"Look for something [colour:x.colour][quote:,"] {said} {a.name}.',
        "What colour was the {x.object}? It was [colour:x.colour].",
        a=a,
        b=b,
        x=x,
    )


def _ask_owner(story: Telling, a: str, x: str, b: str) -> None:
    """Somebody asks, b or a grown-up, whose the object is."""
    story.tell(
        '{b.name} picked up the {x.object}. "Whose {x.object} is this?" {b.he} asked. '
        '"It belongs to [owner:a.name]," {answered} {adult.name}.',
        '"Whose {x.colour} {x.object} is this?" asked {adult.name}. '
        '"It belongs to [owner:a.name]," {answered} {b.name}.',
        '"Is this {x.object} yours?" {adult.name} asked {b.name}. '
        '"No, the {x.object} belongs to [owner:a.name]," {answered} {b.name}.',
        "Whose was the {x.object}? It belonged to [owner:a.name].",
        a=a,
        b=b,
        x=x,
    )


def _ask_twice(story: Telling, a: str, x: str, b: str) -> None:
    """Two different questions about the object."""
    for ask in story.several((_ask_place, _ask_colour, _ask_owner), 2):
        ask(story, a, x, b)


# Endings.


def _end_alone(story: Telling) -> None:
    story.tell(
        "{a.name} was very {happy}.",
        "{a.name} took the {x.colour} {x.object} and smiled.",
        "Then {a.name} went home with [pronoun:a.his] {x.object}.",
        '"Thank you," {said} {a.name}, and [pronoun:a.he] hugged {adult.name}.',
        "{a.name} clapped [pronoun:a.his] hands. What a {happy} {time}!",
        "That night {a.name} slept well, and the {x.object} lay beside {a.him}.",
    )


def _end_together(story: Telling) -> None:
    story.tell(
        "{a.name} and {b.name} were very {happy}.",
        '"Thank you," {said} {b.name}. They laughed and played until {adult.name} came.',
        "Then they went home together, and {a.name} carried [pronoun:a.his] {x.object}.",
        '"You are my best friend," {said} {a.name}, and {b.name} smiled.',
        "They {did} until {adult.name} called them.",
        "{a.name} held [pronoun:a.his] {x.colour} {x.object} and was {happy}.",
    )


# The plots.


def _belongings(story: Telling) -> None:
    """One to three children, one to eight belongings: which was where, which colour, and whose?"""
    n_facts = story.n_facts or story.weighted(HELD)
    children = "abc"[: min(story.weighted({1: 1, 2: 3, 3: 2}), n_facts)]
    story.set_scene(*children)
    (_open_alone, _open_together, _open_in_three)[len(children) - 1](story)
    # Every child owns something as far as there is enough, in an order of its own.
    owners = story.several(children, len(children))
    owners += [story.pick(children) for _ in range(n_facts - len(children))]
    belongings = [(owner, f"x{number}") for number, owner in enumerate(owners)]
    in_short = n_facts > 3 or story.toss()
    for owner, thing in belongings:
        story.own(owner, thing)
        if in_short:
            _show_and_put_away(story, owner, thing)
        else:
            _show(story, owner, thing)
            _put_away(story, owner, thing)
        if n_facts < 4:
            _echo(story, owner, thing, "adult")
    story.slots["x"] = story.slots[f"x{owners.index('a')}"]  # what the ending speaks of
    _pass_time(story, *children)
    n_asked = min(n_facts, story.pick((2, 3)) if n_facts < 6 else 2)
    for owner, thing in story.several(belongings, n_asked):
        others = [child for child in children if child != owner]
        other = story.pick(others) if others else "adult"
        asks = (_ask_place, _ask_colour, _ask_owner) if others else (_ask_place, _ask_colour)
        story.pick(asks)(story, owner, thing, other)
    _end_together(story) if len(children) > 1 else _end_alone(story)


def _find_again(story: Telling) -> None:
    """A child puts an object away, and somebody asks for it."""
    story.set_scene("a")
    story.own("a", "x")
    _open_alone(story)
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    _echo(story, "a", "x", "adult")
    _pass_time(story, "a")
    story.tell(
        "Soon {adult.name} came.", "Then {adult.name} came to help.", "{adult.name} sat down."
    )
    _ask_place(story, "a", "x", "adult")
    _ask_colour(story, "a", "x", "adult")
    _end_alone(story)


def _two_owners(story: Telling) -> None:
    """Two children, two objects, two places, each shown first and put away later."""
    story.set_scene("a", "b")
    story.own("a", "x")
    story.own("b", "y")
    _open_together(story)
    _show(story, "a", "x")
    _show(story, "b", "y")
    turns = [("a", "x", "b"), ("b", "y", "a")]
    for owner, thing, other in turns if story.toss() else turns[::-1]:
        _put_away(story, owner, thing)
        _echo(story, owner, thing, other)
    _pass_time(story, "a", "b")
    for owner, thing, other in turns if story.toss() else turns[::-1]:
        story.pick((_ask_place, _ask_colour, _ask_owner))(story, owner, thing, other)
    _end_together(story)


def _lost_and_found(story: Telling) -> None:
    """Somebody finds a lost object, and it goes back to its owner."""
    story.set_scene("a", "b")
    story.own("a", "x")
    story.own("b", "y")
    _open_together(story)
    turns = [("a", "x"), ("b", "y")]
    for owner, thing in turns if story.toss() else turns[::-1]:
        _show(story, owner, thing)
    _put_away(story, "b", "y")
    story.tell(
        "Then {a.name} lost the {x.object}. "
        "[pronoun:a.He] looked {somewhere}, but it was not there.",
        "But {a.name} dropped [pronoun:a.his] {x.object} and did not see it fall.",
        "But where was the {x.object}? {a.name} was {sad}.",
    )
    _pass_time(story, "b")
    story.tell(
        "{b.name} looked {x.where} and found a {x.object}.",
        "There was a {x.object} {x.where}.",
        "{adult.name} saw a {x.object} {x.where}.",
    )
    _ask_owner(story, "a", "x", "b")
    story.pick((_ask_place, _ask_colour))(story, "b", "y", "a")
    _end_together(story)


def _moved(story: Telling) -> None:
    """An object is put somewhere, then somewhere else: the last place is the right one."""
    story.set_scene("a", "b")
    story.own("a", "x", "z")
    _open_together(story)
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    _pass_time(story, "a", "b")
    story.tell(
        "{b.name} took the {x.object} and {put} it {z.where}.",
        "When nobody looked, {b.name} moved the {x.object}. Now it was {z.where}.",
        '"I will play a trick," {said} {b.name}, and {put} the {x.object} {z.where}.',
    )
    story.tell(
        "{a.name} looked {x.preposition} the [place:x.place], but the {x.object} was gone.",
        "The {x.object} was no longer {x.preposition} the [place:x.place].",
        '{a.name} was {sad}. "I {put} it {x.preposition} the [place:x.place]," {a.he} said.',
    )
    story.tell(
        '"Look {z.preposition} the [place:z.place]," {said} {b.name}.',
        '"Now it is {z.preposition} the [place:z.place]," {said} {b.name}.',
        "Then {a.name} found it {z.preposition} the [place:z.place].",
    )
    _ask_colour(story, "a", "x", "adult")
    _end_together(story)


def _hide_and_seek(story: Telling) -> None:
    """One child counts, another one hides."""
    story.set_scene("a")
    story.own("a", "x")
    story.hide("a", "b", "h")
    story.count(9)
    _open_together(story)
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    story.tell(
        '"Let us play hide and seek," {said} {b.name}.',
        "They wanted to play hide and seek.",
        '"Can you find me?" asked {b.name}.',
    )
    story.tell(
        '"{counting}," {a.name} counted, and {b.name} hid {h.where}.',
        '{b.name} hid {h.where}. {a.name} closed [pronoun:a.his] eyes. "{counting}!"',
    )
    story.tell(
        "{a.name} looked {somewhere}, but {b.name} was not there.",
        "Where was {b.name}? {a.name} looked {somewhere}.",
        '"Are you {somewhere}?" asked {a.name}. Nobody was there.',
    )
    story.tell(
        '"I see you, {b.name}! You are {h.preposition} the [place:h.place]."',
        "At last {a.name} found {b.name} {h.preposition} the [place:h.place].",
        '"Come out," {said} {a.name}. "You are {h.preposition} the [place:h.place]."',
    )
    _ask_twice(story, "a", "x", "b")
    _end_together(story)


def _picnic(story: Telling) -> None:
    """Each child has a favourite food, and each gets it."""
    story.set_scene("a", "b")
    story.own("a", "x")
    story.slots["f"], story.slots["g"] = story.several(WORDS["food"], 2)
    _open_together(story)
    story.tell(
        "{a.name} loves {f}, and {b.name} loves {g}.",
        "{a.name} liked {f} best. {b.name} liked {g} best.",
        "{b.name} was fond of {g}. {a.name} was fond of {f}.",
    )
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    _pass_time(story, "a", "b")
    story.tell(
        "When it was time to eat, {a.name} took the [food:f] and {b.name} took the [food:g].",
        '"Are you hungry?" asked {adult.name}. '
        "{b.name} ate the [food:g], and {a.name} ate the [food:f].",
        '"{a.name}, take the [food:f]," said {adult.name}. "{b.name}, take the [food:g]."',
    )
    _ask_twice(story, "a", "x", "b")
    _end_together(story)


def _gift(story: Telling) -> None:
    """A grown-up gives a child an object, and asks about it later."""
    story.set_scene("a")
    story.own("a", "x")
    story.count(9)
    story.slots["things"] = story.pick(ANIMALS)[1]
    _open_alone(story)
    story.tell(
        "{adult.name} gave {a.him} a {x.colour} {x.object}.",
        "It was the birthday of {a.name}. {adult.name} gave {a.him} a {x.colour} {x.object}.",
        "{adult.name} had a gift for {a.him}: a {size} {x.object}. It was {x.colour}.",
    )
    _put_away(story, "a", "x")
    story.tell(
        'Then {a.he} saw some {things}. "{counting}," {a.he} counted. '
        "There were [count:number] {things}.",
        'Then {a.he} met some {things}. "{counting}!" {said} {a.name}. '
        '"I see [count:number] {things}!"',
        "{number} {things} came by. {a.name} counted them: {counting}. "
        '"Hello," {a.he} said to all [count:number].',
    )
    _pass_time(story, "a")
    story.tell("After dinner {adult.name} came back.", "Later {adult.name} wanted to see it.")
    _ask_place(story, "a", "x", "adult")
    _ask_colour(story, "a", "x", "adult")
    _end_alone(story)


def _errand(story: Telling) -> None:
    """A child goes for an object; on the way there is much to see."""
    story.set_scene("a")
    story.own("a", "x")
    story.count(9)
    story.slots["things"] = story.pick(ANIMALS)[1]
    _open_alone(story)
    story.tell(
        '"You left your {x.colour} {x.object} {x.where}," said {adult.name}. "Please bring it."',
        '"Bring your {x.object}," said {adult.name}. "It is the {x.colour} one {x.where}."',
        "{a.name} wanted [pronoun:a.his] {x.colour} {x.object}. It lay {x.where}.",
    )
    story.tell(
        "On the way {a.he} saw {number} {things}.",
        "On the way {a.he} counted {number} {things}.",
        "There were {number} {things} on the way.",
    )
    _pass_time(story, "a")
    story.tell(
        "{a.name} looked {x.preposition} the [place:x.place], "
        "and there was the [colour:x.colour] {x.object}.",
        "Then {a.name} went to look {x.preposition} the [place:x.place]. The {x.object} was there.",
        "{a.name} found the {x.object} {x.preposition} the [place:x.place]. "
        "It was [colour:x.colour].",
    )
    story.tell(
        '"How many {things} did you see?" asked {adult.name}. '
        '"I saw [count:number]," {answered} {a.name}.',
        "{a.name} told {adult.name} about the [count:number] {things}.",
        '"I saw [count:number] {things}[quote:,"] {said} {a.name}.',
    )
    _end_alone(story)


def _week(story: Telling) -> None:
    """Day follows day, and each has its deed."""
    story.set_scene("a")
    story.own("a", "x")
    first, length = story.pick(range(len(DAYS))), story.pick((3, 4, 5))
    deeds = story.several(WORDS["did"], length)
    for number, deed in enumerate(deeds):
        story.slots[f"day{number}"] = DAYS[(first + number) % len(DAYS)]
        story.slots[f"deed{number}"] = deed
    _open_alone(story)
    story.tell("On {day0} {a.name} {deed0}.", "On {day0} [pronoun:a.he] {deed0}.")
    for number in range(1, length):
        story.tell(
            "On [order:d] [pronoun:a.he] {deed}.",
            "The next day was [order:d], and {a.name} {deed}.",
            "Then came [order:d]. {a.name} {deed}.",
            d=f"day{number}",
            deed=f"deed{number}",
        )
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    for number in story.several(range(length), 2):
        story.tell(
            '"What did you do on {d}?" asked {adult.name}. "I [deed:deed]," {answered} {a.name}.',
            '"On {d} I [deed:deed]," {said} {a.name}.',
            "{adult.name} knew that on {d} {a.name} [deed:deed].",
            d=f"day{number}",
            deed=f"deed{number}",
        )
    _end_alone(story)


def _year(story: Telling) -> None:
    """Month follows month, and animals come and go."""
    story.set_scene("a")
    story.own("a", "x")
    first, length = story.pick(range(len(MONTHS))), story.pick((2, 3, 4))
    animal = story.pick(ANIMALS)
    story.slots["one"], story.slots["month0"] = animal[0], MONTHS[first]
    _open_alone(story)
    story.tell(
        "In {month0} a {size} {one} came to {a.name}.",
        "In {month0} {a.name} met a {size} {one}.",
        "{a.name} found a {size} {one} in {month0}.",
    )
    for number in range(1, length + 1):
        story.slots[f"month{number}"] = MONTHS[(first + number) % len(MONTHS)]
        story.meet(animal, f"n{number}")
        story.tell(
            "In [order:m] there {n.were} {n.number} [plural:n.kind].",
            "Then it was [order:m], and {a.name} saw {n.number} [plural:n.kind].",
            "In [order:m] [pronoun:a.he] counted {n.number} [plural:n.kind].",
            m=f"month{number}",
            n=f"n{number}",
        )
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    _pass_time(story, "a")
    for ask in story.several((_ask_place, _ask_colour), 2):
        ask(story, "a", "x", "adult")
    _end_alone(story)


def _dance(story: Telling) -> None:
    """Who danced with whom, and again."""
    n_pairs = story.pick((2, 3))
    dancers = "abcdef"[: 2 * n_pairs]
    story.set_scene(*dancers)
    names = [story.slots[letter].name for letter in dancers]
    story.slots["all"] = ", ".join(names[:-1]) + f" and {names[-1]}"
    story.own("a", "x")
    story.tell(
        "One {weather} {time}, {all} had a party {here}.",
        "{all} were at a party {here}.",
        "There was a party {here} for {all}.",
    )
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    shuffled = story.several(dancers, len(dancers))
    pairs = [*zip(shuffled[::2], shuffled[1::2], strict=True)]
    for p, q in pairs:
        story.tell("{p.name} danced with {q.name}.", p=p, q=q)
    _pass_time(story, "a")
    for _ in range(story.pick((1, 2))):
        story.tell("Then the music began again.", "They danced once more.", "The band played on.")
        for p, q in story.several(pairs, n_pairs):
            story.tell("{p.name} danced with [pair:q.name].", p=p, q=q)
    _ask_twice(story, "a", "x", "b")
    _end_together(story)


def _song(story: Telling) -> None:
    """A song that comes back."""
    story.set_scene("a", "b")
    story.own("a", "x")
    r, q = story.several(story.pick(RHYMES), 2)
    story.slots["song"] = story.pick((
        f"Sing of {r}, sing of {q}",
        f"Hey for {r}, ho for {q}",
        f"First comes {r}, then comes {q}",
        f"Over {r}, under {q}",
        f"Little {r} and little {q}",
    ))  # fmt: skip
    _open_together(story)
    story.tell(
        '{a.name} sang: "{song}! [refrain:song]!"',
        '{a.name} made a song: "{song}! [refrain:song]!"',
    )
    _show(story, "a", "x")
    _put_away(story, "a", "x")
    _pass_time(story, "a", "b")
    for again in range(story.pick((1, 2, 3))):
        if again and not story.room(0.6):
            break
        story.tell(
            '{b.name} sang it too: "[refrain:song]!"',
            'Then they both sang: "[refrain:song]!"',
            'Once more: "[refrain:song]!"',
        )
    _ask_twice(story, "a", "x", "b")
    if story.room(0.75) and story.toss():
        story.tell('All the way home they sang: "[refrain:song]!"')
    _end_together(story)


# How often each plot is told, and how.
PLOTS: dict[str, tuple[float, Callable[[Telling], None]]] = {
    "belongings": (6, _belongings),
    "find again": (1, _find_again),
    "two owners": (3, _two_owners),
    "lost and found": (1, _lost_and_found),
    "moved": (1, _moved),
    "hide and seek": (1, _hide_and_seek),
    "picnic": (1, _picnic),
    "gift": (1, _gift),
    "errand": (1, _errand),
    "week": (1, _week),
    "year": (1, _year),
    "dance": (2.5, _dance),
    "song": (2.5, _song),
}
