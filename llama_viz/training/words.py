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
    "Ada Alice Amy Anna Bella Carla Clara Daisy Ella Emily Emma Esther Eva Fiona Flora Frida Grace "
    "Greta Hanna Heidi Helen Holly Ida Iris Ivy Jane Julia Kate Laura Lena Lily Lucy Luna Mary "
    "Maya Mia Mina Molly Nelly Nina Nora Olga Paula Penny Pia Polly Rosa Ruth Ruby Sally Sara "
    "Selma Sophie Susan Tess Tilda Vera Viola Wendy Zoe"
)
BOYS = (
    "Adam Alex Anton Arthur Ben Bill Bruno Carl Chris Colin Dan David Edgar Eli Emil Eric Felix "
    "Finn Frank Fred George Gus Hans Harry Henry Hugo Ian Ivan Jack Jacob James Jim Joe John Jonas "
    "Karl Kurt Lars Leo Liam Louis Luke Mark Martin Max Milo Nils Noah Oscar Otto Paul Peter "
    "Ralph Robin Sam Simon Theo Tim Tom Victor"
)
CHILDREN = (*map(_girl, GIRLS.split()), *map(_boy, BOYS.split()))
GROWN_UPS = (
    *(_girl(name) for name in ("Mum", "Grandma", "Aunt May", "Aunt Jo", "Mrs Hill")),
    *(_boy(name) for name in ("Dad", "Grandpa", "Uncle Bob", "Uncle Ned", "Mr Wood")),
)

OBJECTS = tuple(
    "ball balloon banner bat bear bell belt boat book boot bottle bow bowl bracelet brush bucket "
    "button camera candle cap car card clock coat coin comb compass crayon crown cup dice doll "
    "dress drum envelope fan feather flag flute fork globe glove hammer hat helmet hoop horn "
    "jacket jar jug kettle key kite knife lamp lantern letter map marble mask mirror mitten mug "
    "needle paper pebble pen pencil photo pillow pipe plate puppet purse puzzle ring robot rope "
    "ruler scarf shell shirt shoe shovel sock spoon stamp star stick stone string sword thimble "
    "ticket top torch towel toy train truck trumpet umbrella vase violin wagon wand watch wheel "
    "whistle wig yoyo".split()
)
COLOURS = tuple(
    "beige black blue bronze brown crimson golden green grey lilac navy orange pink purple red "
    "scarlet silver violet white yellow".split()
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
    "in the attic": {
        "trunk": "in under behind", "ladder": "under behind beside", "beam": "on under near",
        "cradle": "in under behind", "chimney": "behind beside near", "wardrobe": "in under behind",
        "crate": "in under behind", "carpet": "on under beside", "harp": "under behind beside",
        "hatch": "on beside near", "desk": "on under behind", "cage": "in under behind",
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
    "on the ship": {
        "mast": "on behind beside", "anchor": "on under behind", "cabin": "in behind beside",
        "sail": "under behind near", "rudder": "on behind beside", "hammock": "in under beside",
        "net": "in under behind", "deck": "on under near", "cannon": "in under behind",
        "barrel": "in behind beside", "hold": "in under near", "chest": "in behind beside",
    },
    "in the woods": {
        "cave": "in behind near", "oak": "under behind near", "stump": "on behind beside",
        "leaves": "in under on", "log": "on under behind", "rock": "on under behind",
        "stream": "in beside near", "bush": "in under behind", "moss": "on under in",
        "nest": "in under beside", "hut": "in behind near", "path": "on beside near",
    },
    "at school": {
        "desk": "on under behind", "board": "under behind near", "piano": "on under behind",
        "mat": "on under beside", "window": "under beside near", "shelf": "on under beside",
        "door": "behind beside near", "box": "in under behind", "chair": "on under behind",
        "locker": "in behind beside", "easel": "on under behind", "tank": "in behind beside",
    },
    "at the market": {
        "stall": "on under behind", "crate": "in under behind", "fountain": "in behind near",
        "statue": "behind beside near", "counter": "on under behind", "sack": "in under behind",
        "barrel": "in behind beside", "cart": "in under behind", "tent": "in behind beside",
        "bench": "on under behind", "wall": "on behind beside", "basket": "in under behind",
    },
    "at the castle": {
        "tower": "in behind near", "throne": "on under behind", "moat": "in beside near",
        "gate": "behind beside near", "stairs": "on under beside", "well": "in behind beside",
        "shield": "on under behind", "armour": "in behind beside", "chapel": "in behind near",
        "wall": "on behind beside", "carriage": "in under behind", "table": "on under beside",
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
    ("crab", "crabs"), ("deer", "deer"), ("dog", "dogs"), ("duck", "ducks"), ("fish", "fish"),
    ("fly", "flies"), ("fox", "foxes"), ("frog", "frogs"), ("goat", "goats"), ("goose", "geese"),
    ("hen", "hens"), ("horse", "horses"), ("lamb", "lambs"), ("mouse", "mice"), ("owl", "owls"),
    ("pig", "pigs"), ("pony", "ponies"), ("rabbit", "rabbits"), ("sheep", "sheep"),
    ("snail", "snails"), ("swan", "swans"), ("toad", "toads"), ("wolf", "wolves"),
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
    "weather": tuple("bright chilly cloudy cold fine foggy hot mild misty rainy snowy stormy "
                     "sunny warm windy".split()),
    "time": ("morning", "day", "afternoon", "evening"),
    "adult": GROWN_UPS,
    "weekday": DAYS,
    "month": MONTHS,
    "trait": tuple("bold brave busy calm careful cheerful clever curious eager friendly funny "
                   "gentle honest jolly kind lively little lucky merry neat patient playful polite "
                   "quick quiet shy silly strong sweet tall tidy wild wise young".split()),
    "happy": tuple("cheerful content delighted glad happy jolly merry pleased proud thankful "
                   "thrilled".split()),
    "sad": tuple("afraid angry cross gloomy lonely puzzled sad sorry unhappy upset "
                 "worried".split()),
    "size": tuple("big broken clean dear fine funny heavy huge large little lovely narrow new nice "
                  "odd old plain pretty rare round shiny small smooth soft strange thin tiny "
                  "wooden".split()),
    "slowly": tuple("carefully eagerly gladly happily loudly proudly quickly quietly sadly "
                    "secretly slowly softly suddenly".split()),
    "put": ("dropped", "hid", "laid", "left", "placed", "put", "stored", "stuffed"),
    "said": ("called", "cried", "laughed", "said", "shouted", "whispered"),
    "answered": ("answered", "explained", "replied", "said"),
    "did": ("baked bread", "blew bubbles", "built a tower", "caught a fish", "climbed a tree",
            "counted the clouds", "danced", "dug a hole", "drew a picture", "fed the hens",
            "flew like a bird", "helped with the dishes", "hummed a tune", "jumped up and down",
            "laughed out loud", "learned a poem", "looked at the stars", "made a face",
            "painted a wall", "picked some flowers", "planted a seed", "played a game",
            "read a story", "ran around", "rode a pony", "sang a song", "slept for an hour",
            "stood on one leg", "swam in the river", "swept the floor", "told a joke",
            "walked in the rain", "watered the plants", "wrote a letter"),
    "change": ("a bell rang", "a cloud came by", "a door creaked", "a leaf fell",
               "it began to rain", "it grew dark", "it was time to rest", "it was very quiet",
               "somebody laughed",
               "the birds sang", "the moon rose", "the rain stopped", "the sun came out",
               "the wind blew"),
    "food": ("apples", "bread", "beans", "berries", "biscuits", "butter", "cake", "carrots",
             "cheese", "cherries", "corn", "cream", "eggs", "grapes", "honey", "ice cream", "jam",
             "melon", "milk", "nuts", "olives", "onions", "pancakes", "peaches", "pears", "peas",
             "pie", "plums", "potatoes", "pudding", "rice", "salad", "soup", "toast"),
}  # fmt: skip
