"""The words of the stories: who, what, where, which and how. Data, and the rules of agreement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Character:
    """Somebody in a story, with the pronouns that agree."""

    name: str
    he: str
    his: str
    him: str
    child: str

    @property
    def He(self) -> str:  # noqa: N802  (the capital letter is the meaning)
        return self.he.capitalize()

    @property
    def His(self) -> str:  # noqa: N802
        return self.his.capitalize()


@dataclass(frozen=True)
class Belonging:
    """An object of somebody's: its colour, and where it was put."""

    object: str
    colour: str
    preposition: str
    place: str

    @property
    def where(self) -> str:
        return f"{self.preposition} the {self.place}"


@dataclass(frozen=True)
class Animals:
    """So many animals of a kind, with the words that agree with their number."""

    number: str
    kind: str
    were: str

    @property
    def some(self) -> str:
        return f"{self.number} {self.kind}"


def _girl(name: str) -> Character:
    return Character(name, "she", "her", "her", "girl")


def _boy(name: str) -> Character:
    return Character(name, "he", "his", "him", "boy")


GIRLS = (
    "Ada Amy Anna Bella Clara Daisy Ella Emma Eva Flora Grace Hanna Ida Ivy Jane Kate Lena Lily "
    "Lucy Mary Maya Mia Nina Nora Olga Polly Rosa Ruby Sara Tilda Vera Zoe"
)
BOYS = (
    "Adam Alex Ben Bill Carl Dan David Eli Eric Felix Finn Frank Fred Gus Henry Hugo Ivan Jack "
    "James Jim Karl Leo Luke Mark Max Noah Oscar Otto Paul Sam Tim Tom"
)
CHILDREN = (*map(_girl, GIRLS.split()), *map(_boy, BOYS.split()))
GROWN_UPS = (
    *(_girl(name) for name in ("Mum", "Grandma", "Aunt May", "Aunt Jo", "Mrs Hill")),
    *(_boy(name) for name in ("Dad", "Grandpa", "Uncle Bob", "Uncle Ned", "Mr Wood")),
)

OBJECTS = tuple(
    "ball balloon bell belt boat book bottle bowl brush bucket button camera candle cap clock "
    "coat coin comb crown cup doll drum feather flag flute glove hammer hat helmet horn jacket "
    "kettle key kite lamp letter map mask mirror mug needle pen pillow plate puppet purse ring "
    "robot rope scarf shell shoe sock spoon stamp stick ticket torch truck whistle".split()
)
COLOURS = tuple(
    "black blue bronze brown golden green grey orange pink purple red silver white yellow".split()
)

# Where a story plays, and what stands there: every noun goes with several prepositions, so that the
# preposition does not give the place away.
SETTINGS: dict[str, dict[str, str]] = {
    "in the house": {
        "bed": "on under beside", "table": "on under beside", "chair": "on under behind",
        "sofa": "on under behind", "box": "in under behind", "basket": "in under behind",
        "chest": "in behind beside", "shelf": "on under beside", "door": "behind beside near",
        "rug": "on under beside", "curtain": "behind under near", "stairs": "on under beside",
    },
    "in the kitchen": {
        "oven": "in behind beside", "stove": "on behind beside", "sink": "in under near",
        "fridge": "in behind beside", "stool": "on under behind", "drawer": "in under beside",
        "cupboard": "in behind under", "pan": "in under behind", "tray": "on under beside",
        "table": "on under beside", "window": "under beside near", "bin": "in behind beside",
    },
    "in the garden": {
        "bench": "on under behind", "bush": "in under behind", "fence": "behind beside near",
        "gate": "behind beside near", "shed": "in behind beside", "pot": "in under behind",
        "barrow": "in under behind", "tree": "under behind near", "wall": "on behind beside",
        "swing": "on under beside", "well": "in behind beside", "roses": "in under near",
    },
    "at the farm": {
        "barn": "in behind near", "hay": "in under beside", "cart": "in under behind",
        "sack": "in under behind", "barrel": "in behind beside", "ladder": "under behind beside",
        "mill": "in behind near", "stable": "in behind near", "tractor": "on under behind",
        "pump": "under behind beside", "gate": "behind beside near", "trough": "in under beside",
    },
    "by the lake": {
        "bridge": "on under near", "rock": "on behind under", "tent": "in behind beside",
        "reeds": "in behind near", "log": "on under behind", "hut": "in behind near",
        "sand": "in under on", "pier": "on under beside", "canoe": "in under beside",
        "tree": "under behind near", "steps": "on under beside", "fire": "behind beside near",
    },
    "in the woods": {
        "cave": "in behind near", "oak": "under behind near", "stump": "on behind beside",
        "leaves": "in under on", "log": "on under behind", "rock": "on under behind",
        "stream": "in beside near", "bush": "in under behind", "moss": "on under in",
        "nest": "in under beside", "hut": "in behind near", "path": "on beside near",
    },
    "at the market": {
        "stall": "on under behind", "crate": "in under behind", "fountain": "in behind near",
        "statue": "behind beside near", "counter": "on under behind", "sack": "in under behind",
        "barrel": "in behind beside", "cart": "in under behind", "tent": "in behind beside",
        "bench": "on under behind", "wall": "on behind beside", "basket": "in under behind",
    },
    "in the park": {
        "slide": "on under behind", "swing": "on under beside", "pond": "in beside near",
        "hill": "on behind near", "tree": "under behind near", "bridge": "on under near",
        "statue": "behind beside near", "kiosk": "in behind beside", "bench": "on under behind",
        "tunnel": "in behind near", "bush": "in under behind", "hedge": "in under behind",
    },
}  # fmt: skip

NUMBERS = tuple("one two three four five six seven eight nine".split())
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
MONTHS = tuple(
    "January February March April May June July August September October November December".split()
)

# One animal, several animals.
ANIMALS = (
    ("ant", "ants"), ("bee", "bees"), ("bird", "birds"), ("cat", "cats"), ("cow", "cows"),
    ("dog", "dogs"), ("duck", "ducks"), ("fish", "fish"), ("fox", "foxes"), ("frog", "frogs"),
    ("goat", "goats"), ("hen", "hens"), ("lamb", "lambs"), ("mouse", "mice"), ("owl", "owls"),
    ("pig", "pigs"), ("rabbit", "rabbits"), ("sheep", "sheep"), ("snail", "snails"),
    ("swan", "swans"),
)  # fmt: skip

# Words of one group rhyme with each other.
RHYMES = tuple(
    tuple(group.split())
    for group in (
        "bat cat hat mat rat", "bear chair hare pear", "bee key sea tea tree",
        "boat coat goat moat", "bell shell well", "duck luck truck", "dog fog frog log",
        "door floor shore", "fox box socks", "house mouse", "king ring spring string swing",
        "moon spoon tune noon", "cake lake snake",
        "rain train lane", "hand land sand band", "car jar star", "kite light night",
        "hill mill pill", "pie sky fly", "cook book brook", "nose rose toes", "clown crown town",
        "snow crow bow", "sun bun fun",
    )
)  # fmt: skip

WORDS: dict[str, tuple[Any, ...]] = {
    "weather": tuple("bright cloudy cold fine foggy hot misty rainy snowy sunny warm "
                     "windy".split()),
    "time": ("morning", "day", "afternoon", "evening"),
    "adult": GROWN_UPS,
    "weekday": DAYS,
    "month": MONTHS,
    "trait": tuple("brave busy careful cheerful clever curious friendly funny gentle jolly kind "
                    "little lucky merry patient playful polite quiet shy strong tall "
                   "wise young".split()),
    "happy": tuple("cheerful content glad happy jolly merry pleased proud".split()),
    "sad": tuple("angry cross gloomy lonely puzzled sad unhappy worried".split()),
    "size": tuple("big clean fine funny heavy huge large little lovely new nice old pretty "
                   "round shiny small soft strange tiny wooden".split()),
    "slowly": tuple("carefully gladly happily loudly proudly quickly quietly sadly slowly "
                    "softly".split()),
    "put": ("dropped", "hid", "laid", "left", "placed", "put"),
    "said": ("called", "cried", "said", "whispered"),
    "answered": ("answered", "replied", "said"),
    "did": ("baked bread", "blew bubbles", "climbed a tree", "danced", "dug a hole",
            "drew a picture", "fed the hens", "hummed a tune", "jumped up and down",
            "laughed out loud", "made a face", "painted a wall", "picked some flowers",
            "planted a seed", "played a game", "read a story", "ran around", "sang a song",
            "slept for an hour", "stood on one leg", "swept the floor", "told a joke",
            "walked in the rain", "wrote a letter"),
    "change": ("a bell rang", "a cloud came by", "a leaf fell", "it grew dark",
               "it was time to rest", "it was very quiet", "the birds sang", "the rain stopped",
               "the sun came out", "the wind blew"),
    "food": ("apples", "bread", "beans", "berries", "butter", "cake", "carrots", "cheese", "corn",
             "eggs", "grapes", "honey", "ice cream", "jam", "milk", "nuts", "pancakes", "pears",
             "pie", "plums", "rice", "salad", "soup", "toast"),
}  # fmt: skip
