"""English words that spaCy's tokenizer takes apart or leaves whole against its rules: contractions, abbreviations, smileys.

As in spaCy 3.8 for English, but for rare smileys made of other scripts.
"""

from collections.abc import Iterable, Iterator
from functools import cache

SUBJECTS = "i you he she it we they"
QUESTIONS = "who what when where why how there that this"
PLURALS = "these those"
# Words, and what may follow them one upon another; each with an apostrophe before it or without.
FOLLOWED = {
    "i": ["m"],
    f"{SUBJECTS} {QUESTIONS} {PLURALS}": ["ll", "ll ve", "d", "d ve"],
    f"i you we they who what when where why how there {PLURALS} not could might must should would": ["ve"],
    f"you we they who what when where why how there {PLURALS}": ["re"],
    f"he she it {QUESTIONS}": ["s"],
}
NEGATED = "ca could do does did had may might must need ought sha should wo would"
NEGATED_ONLY = "ai are is was were have has dare"
# Read as words of their own, not as contractions that lack an apostrophe.
WORDS = "Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore"
PARTS = (
    "I|'m|a i|'m|a I|m|a i|m|a y'|all y|all how|'d|'y How|'d|'y can|not Can|not gon|na Gon|na got|ta Got|ta let|'s Let|'s "
    "c'm|on C'm|on"
)
WHOLE = (
    "' '' 'S 's \N{LEFT SINGLE QUOTATION MARK}S \N{LEFT SINGLE QUOTATION MARK}s 'd 'em 'll 'nuff 're 'bout and/or w/o "
    "'Cause 'cause 'Cos 'cos 'Coz 'coz 'Cuz 'cuz ma'am Ma'am o'clock O'clock C++ <space> "
    "doin' goin' nothin' nuthin' ol' somethin' lovin' havin' Doin' Goin' Nothin' Nuthin' Ol' Somethin' Lovin' Havin' "
    "Adm. Ak. Ala. Apr. Ariz. Ark. Aug. Bros. Calif. Co. Colo. Conn. Corp. D.C. Dec. Del. Dr. E.G. E.g. Feb. Fla. Ga. "
    "Gen. Gov. I.E. I.e. Ia. Id. Ill. Inc. Ind. Jan. Jr. Jul. Jun. Kan. Kans. Ky. La. Ltd. Mar. Mass. Md. Messrs. Mich. "
    "Minn. Miss. Mo. Mont. Mr. Mrs. Ms. Mt. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. Ph.D. "
    "Prof. Rep. Rev. S.C. Sen. Sep. Sept. St. Tenn. Va. Wash. Wis. a.m. co. e.g. i.e. p.m. v.s. vs."
)
SMILEYS = (
    ":-] :] :} :-} :1 :o) (= (: (-: =) [: [-: [= =] (o: 8) 8-) (-8 ;) ;-) (; (-; ): )-: =( >:( :') :'-) :'( :'-( =/ =| "
    "]= =[ =3 :() >:o ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- v.v V.V v_v V_V o_o o_O "
    "O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<) (*_*) ><(((*>"
)
MOUTHS = ") )) ))) ( (( ((( ] / | P p O o 0 * 3 > X x D"
# 2 and 3 for the raised digits, y for the micro sign, but for those of PLAIN
UNITS = (
    "km km2 km3 m m2 m3 dm dm2 dm3 cm cm2 cm3 mm mm2 mm3 ha ym nm yd in ft kg g mg yg t lb oz m/s km/h kmh mph hPa Pa mbar mb "
    "MB kb KB gb GB tb TB T G M K % US$ C$ A$"
)
PLAIN = ("yd",)


def capitals(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        yield from (word, word.capitalize())


@cache
def specials() -> dict[str, list[str]]:
    """Tokens of each word that has its own, by the word."""
    found: dict[str, list[str]] = {}
    for words, endings in FOLLOWED.items():
        for word in capitals(words.split()):
            for ending in (e.split() for e in endings):
                for apostrophe in ("'", ""):
                    tokens = [word, *(apostrophe + part for part in ending)]
                    found["".join(tokens)] = tokens
    for word in capitals(f"{NEGATED} {NEGATED_ONLY}".split()):
        for tokens in ([word, "n't"], [word, "nt"], [word, "n't", "'ve"], [word, "nt", "ve"]):
            if len(tokens) == 2 or word.lower() in NEGATED.split():
                found["".join(tokens)] = tokens
    for parts in PARTS.split():
        found[parts.replace("|", "")] = parts.split("|")
    for hour in range(1, 13):
        found |= {f"{hour}{half}": [str(hour), half] for half in ("a.m.", "am", "p.m.", "pm")}
    letters = [f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyz\N{LATIN SMALL LETTER A WITH DIAERESIS}"]
    letters += ["\N{LATIN SMALL LETTER O WITH DIAERESIS}.", "\N{LATIN SMALL LETTER U WITH DIAERESIS}."]
    faces = [f":{nose}{mouth}" for nose in ("", "-") for mouth in MOUTHS.split()] + [
        ":-]",
        ":]",
        ":}",
        ":-}",
        ":1",
        ":o)",
        "(=",
    ]
    for whole in [*WHOLE.split(), *letters, *SMILEYS.split(), *faces]:
        found[whole] = [whole]
    degree = "\N{DEGREE SIGN}"
    found |= {f"{degree}{scale}.": [degree, scale, "."] for scale in "cfkCFK"}
    found = {word: tokens for word, tokens in found.items() if word not in WORDS.split()}
    curly = str.maketrans("'", "\N{RIGHT SINGLE QUOTATION MARK}")
    return found | {word.translate(curly): [t.translate(curly) for t in tokens] for word, tokens in found.items()}


def units() -> list[str]:
    """What is parted from the digit before it, beside signs of currency; units in Latin letters alone."""
    square = {"2": "\N{SUPERSCRIPT TWO}", "3": "\N{SUPERSCRIPT THREE}", "y": "\N{MICRO SIGN}"}
    return [unit if unit in PLAIN else "".join(square.get(c, c) for c in unit) for unit in UNITS.split()]
