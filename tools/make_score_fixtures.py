#!/usr/bin/env python3
"""Writes tests/data/scores/pairs.jsonl: answers, accepted answers, and the scores they must get.

The rules are those of SQuAD's evaluate-v2.0.py and of KorQuAD v1.0's script, set down anew from what they do.
Needs Python 3 alone:  tools/make_score_fixtures.py tests/data/scores/pairs.jsonl
"""
import json
import random
import re
import string
import sys
from collections import Counter

PUNCTUATION = str.maketrans("", "", string.punctuation)
KORQUAD_MARKS = str.maketrans({mark: " " for mark in "'\"<>()《》〈〉‘’"})


def squad(text):
    text = text.lower().translate(PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def korquad(text):
    return " ".join(text.translate(KORQUAD_MARKS).lower().translate(PUNCTUATION).split())


def bag_f1(prediction, gold):
    same = sum((Counter(prediction) & Counter(gold)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(prediction), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def squad_scores(prediction, golds):
    golds = [gold for gold in golds if squad(gold)] or [""]
    words = squad(prediction).split()
    match = max(squad(prediction) == squad(gold) for gold in golds)
    f1 = max(float(words == squad(gold).split()) if not words or not squad(gold) else bag_f1(words, squad(gold).split())
             for gold in golds)
    return match, f1


def korquad_scores(prediction, golds):
    characters = lambda text: korquad(text).replace(" ", "")
    match = max(korquad(prediction) == korquad(gold) for gold in golds)
    return match, max(bag_f1(characters(prediction), characters(gold)) for gold in golds)


# Chosen by hand: where the rules have an edge.
CASES = [
    ("Mount Everest", ["Mount Everest", "Everest"]), ("the mount everest.", ["Mount Everest"]),
    ("Everest", ["Mount Everest"]), ("It is Mount Everest", ["Mount Everest"]), ("K2", ["Mount Everest"]),
    ("", ["Jupiter"]), ("Jupiter", [""]), ("", [""]), ("the", [""]), ("the", ["a"]), ("a an the", ["the end"]),
    ("...", ["!?"]), ("...", ["Jupiter", "!?"]), ("Jupiter", ["Jupiter", "!?"]), (" \t\n", ["x"]),
    ("U.S.A.", ["USA", "United States"]), ("United-States", ["United States"]), ("O'Brien", ["OBrien"]),
    ("the theory of the atom", ["theory of an atom"]), ("Athens", ["athens"]), ("a-b", ["ab"]), ("a b", ["b"]),
    ("The_Who", ["Who", "the who"]), ("\u201cthe Who\u201d", ["Who"]), ("\u201cthe\u201d", ["x"]), ("caf\u00e9 A", ["CAF\u00c9"]),
    ("\u00c0 la carte", ["\u00e0 la carte"]), ("Stra\u00dfe", ["STRA\u1e9eE"]), ("\u00c5ngstr\u00f6m", ["\u00e5NGSTR\u00d6M"]),
    ("\u0141\u00f3d\u017a", ["\u0142\u00d3D\u0179"]), ("\u0397 \u0391\u03b8\u03ae\u03bd\u03b1", ["\u03b7 \u03b1\u03b8\u03ae\u03bd\u03b1"]),
    ("\u041c\u043e\u0441\u043a\u0432\u0430", ["\u043c\u041e\u0421\u041a\u0412\u0410"]), ("\u0401\u043b\u043a\u0430", ["\u0451\u043b\u043a\u0430"]),
    ("\u0110\u00e0 N\u1eb5ng", ["\u0111\u00c0 n\u1eb4ng"]), ("\uff2b\uff12", ["\uff4b\uff12"]), ("1,000 km", ["1000 km"]), ("3.14", ["314"]),
    ("one two two three", ["two two two one"]), ("no\u00a0break", ["no break"]), ("full\u3000width", ["full width"]),
    ("zero\u200bwidth", ["zerowidth"]), ("line\u2028break", ["line break"]), ("\x1cfile", ["file"]), ("a\u2014b", ["b"]),
    ("an\u00b7the", ["x"]), ("\u00e9a", ["\u00e9"]), ("a\u0301 la", ["la"]), ("\u2167 a", ["\u2177"]), ("a\u20ac the\u00b2", ["x"]), ("the\uac00", ["\uac00"]), ("\U0001f642 a", ["\U0001f642"]), ("$100", ["100"]), ("50%", ["50"]),
    ("에베레스트산", ["에베레스트산", "에베레스트"]), ("에베레스트", ["에베레스트산"]), ("에베레스트 산", ["에베레스트산"]),
    ("에베레스트산입니다.", ["에베레스트산"]), ("《훈민정음》", ["훈민정음"]), ("〈기생충〉", ["기생충"]), ("‘기생충’", ["기생충"]),
    ("<기생충>", ["기생충"]), ("기생충(영화)", ["기생충 영화", "기생충"]), ("\"세종대왕\"", ["세종대왕"]), ("세종 대왕", ["세종대왕"]), ("세종'대왕", ["세종 대왕"]),
    ("“세종대왕”", ["세종대왕"]), ("「홍길동전」", ["홍길동전"]), ("목성", ["토성"]), ("목성", ["수성", "금성"]), ("1989년 2월 15일", ["1989년 2월15일"]),
    ("3.1 운동", ["31운동", "삼일운동"]), ("the 서울", ["서울"]), ("A형", ["a형"]), ("KBS", ["kbs"]), ("서울특별시", ["서울", "특별시"]),
    ("가가나", ["가나나"]), ("", ["서울"]), ("서울", ["()"]), ("()", ["()"]), ("백두산\u3000천지", ["백두산 천지"]), ("1,950m", ["1950m", "1950 m"]),
    ("ㅋㅋㅋ", ["ㅋㅋ"]), ("\u1112\u1161\u11ab", ["한"]), ("東京", ["東京都"]), ("도쿄(東京)", ["도쿄"]), ("이순신 장군", ["이순신"]),
]

WORDS = ["the", "a", "An", "Nile", "river", "of", "Blue", "blue.", "K2", "1,969", "U.S.", "and", "\"quoted\"", "caf\u00e9", "(north)", "pole"]
EOJEOL = ["한강", "한강은", "서울", "서울의", "《논어》", "'거북선'", "세종", "대왕", "1443년", "(조선)", "The", "a", "이순신,", "‘난중일기’", "KTX", "독도."]


def random_cases(words, count):
    draw = random.Random(7)
    phrase = lambda: " ".join(draw.choice(words) for _ in range(draw.randint(1, 5)))
    return [(phrase(), [phrase() for _ in range(draw.randint(1, 3))]) for _ in range(count)]


with open(sys.argv[1], "w", encoding="utf-8") as out:
    for prediction, golds in CASES + random_cases(WORDS, 80) + random_cases(EOJEOL, 80):
        squad_match, squad_f1 = squad_scores(prediction, golds)
        korquad_match, korquad_f1 = korquad_scores(prediction, golds)
        print(json.dumps({"prediction": prediction, "golds": golds,
                          "squad": [squad(prediction), squad_match, squad_f1],
                          "korquad": [korquad(prediction), korquad_match, korquad_f1]}, ensure_ascii=False), file=out)
