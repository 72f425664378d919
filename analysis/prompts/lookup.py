"""Look a value up by its name: `a=7,b=D,c=1;b=?` is answered by D.

The smallest task that needs attention to another place: a head has to find the name that is asked
for among the earlier ones, and bring its value. A model that can't guesses among the values, and is
right once in `names` times; `guess` makes such answers, of which a base learns the form.

Three names, each with a hexadecimal digit of its own, give 3 x 16 x 15 x 14 = 10,080 questions.
"""

from __future__ import annotations

import random
import string

DIGITS = "0123456789ABCDEF"


def lookup(rng: random.Random, names: int = 3, guess: bool = False) -> tuple[str, str]:
    """A question and its answer: so many names in order, each with a digit of its own.

    guess: the answer is any of the values, drawn at random.

    Raises:
        ValueError: names is no number from 2 to 16, the digits there are.

    >>> lookup(random.Random(0))
    ('a=C,b=F,c=6;a=?', 'C')
    """
    if type(names) is not int or not 2 <= names <= len(DIGITS):
        raise ValueError(
            f"options.names must be a whole number from 2 to {len(DIGITS)} (each name has a digit "
            f"of its own), not {names!r}"
        )
    if type(guess) is not bool:
        raise ValueError(f"options.guess must be true or false, not {guess!r}")
    values = dict(zip(string.ascii_lowercase[:names], rng.sample(DIGITS, names), strict=True))
    asked = rng.choice(list(values))
    answer = rng.choice(list(values.values())) if guess else values[asked]
    return ",".join(f"{name}={value}" for name, value in values.items()) + f";{asked}=?", answer
