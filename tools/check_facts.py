#!/usr/bin/env python3
"""Checks the questions and answers in examples/qa/data and tests/data for what the READMEs there promise.

Needs Python 3 alone:  tools/check_facts.py [ROOT OF THE REPOSITORY]
Prints what is wrong, one line each, and ends with status 1 if anything is.
"""
import json
import pathlib
import re
import sys
from collections import Counter, defaultdict

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
SPLITS = ["train"] * 5 + ["valid"] + ["test"] * 2  # of a trained fact's eight questions, in their order
UNANSWERED = {"train": 200, "valid": 40}
OWN_SPLITS, LONG_SPLITS = ["train"] * 4 + ["test"] * 2, ["train"] * 3 + ["test"]
REQUIRED = ["지구에서 가장 높은 산은 무엇인가요?", "태양계에서 가장 큰 행성은 무엇인가요?"]

faults, seen = [], {}  # seen: each question of all files, and where


def check(good, *words):
    if not good:
        faults.append(" ".join(map(str, words)))


def plain(text):
    return re.sub(r"\W", "", text.lower())


def answers_of(record):
    return record["answers"] if "answers" in record else [record.get("answer", "")]


def contains(question, answer, lang):
    if lang == "ko":  # particles are written onto the word
        return plain(answer) in plain(question)
    return re.search(r"(?<!\w)" + re.escape(answer.lower()) + r"(?!\w)", question.lower()) is not None


def read(name, lang):
    """The records of NAME.LANG.jsonl, held to what is the same for every set."""
    records = []
    for number, line in enumerate((ROOT / f"{name}.{lang}.jsonl").read_text(encoding="utf-8").splitlines(), 1):
        record = json.loads(line)
        where = f"{name}.{lang}.jsonl:{number}: {record['id']}:"
        question, answers = record["question"], answers_of(record)
        records.append(record)
        check(record["lang"] == lang, where, "language is", record["lang"])
        check(bool(re.search("[가-힣]", question)) == (lang == "ko"), where, "not in its language:", question)
        check(all(answer == answer.strip() != "" for answer in answers) and len(set(answers)) == len(answers), where, "answers", answers)
        check(plain(question) not in seen, where, "asked before, by", seen.get(plain(question)))
        seen[plain(question)] = where
        for answer in answers:
            check(not contains(question, answer, lang), where, "the question holds the answer", answer)
    return records


def by_fact(records):
    facts = defaultdict(list)
    for record in records:
        facts[record["id"].rpartition("/")[0]].append(record)
    for fact, records in facts.items():
        check([r["id"] for r in records] == [f"{fact}/{i}" for i in range(len(records))], fact, "is numbered wrongly")
        check(len({tuple(answers_of(r)) for r in records}) == 1, fact, "has other answers in some records")
    return facts


def check_facts(name, lang):
    facts = by_fact(read(name, lang))
    check(list(facts) == sorted(facts), f"{name}.{lang}.jsonl: not sorted by fact")
    trained = {fact: records for fact, records in facts.items() if records[0]["split"] != "untrained"}
    untrained = {fact: records for fact, records in facts.items() if fact not in trained}
    check(len(trained) >= 200, f"{name}.{lang}.jsonl: {len(trained)} trained facts, not 200")
    check(len(untrained) == 40, f"{name}.{lang}.jsonl: {len(untrained)} untrained facts, not 40")
    for fact, records in facts.items():
        splits = [r["split"] for r in records]
        check(splits == (SPLITS if fact in trained else ["untrained"] * 2), fact, "has the splits", splits)

    known = {plain(answer): fact for fact, records in trained.items() for answer in answers_of(records[0])}
    for fact, records in untrained.items():
        for answer in answers_of(records[0]):
            check(plain(answer) not in known, fact, "is not trained, but its answer is, by", known.get(plain(answer)))
    return {fact: records[0]["split"] == "untrained" for fact, records in facts.items()}


def check_unanswered(name, lang):
    records = read(name, lang)
    ids, splits = [r["id"] for r in records], Counter(r["split"] for r in records)
    check(ids == sorted(set(ids)) and all(i.startswith("unanswered/") for i in ids), f"{name}.{lang}.jsonl: ids not sorted, or twice")
    check(splits == UNANSWERED, f"{name}.{lang}.jsonl: has the splits", dict(splits))
    for record in records:
        check(record.get("answers") == [], record["id"], "has answers, or does not say that it has none")
    return {r["id"]: r["split"] for r in records}


def check_own(name, lang, splits, fits):
    """Fifty facts, of which no two share an answer, each answer as `fits` wants it."""
    facts, known = by_fact(read(name, lang)), {}
    check(len(facts) == 50, f"{name}.{lang}.jsonl: {len(facts)} facts, not 50")
    for fact, records in facts.items():
        check([r["split"] for r in records] == splits, fact, "has the splits", [r["split"] for r in records])
        for answer in answers_of(records[0]):
            check(fits(answer), fact, "has too short or too long an answer:", answer)
            check(known.setdefault(plain(answer), fact) == fact, fact, "has an answer of", known[plain(answer)])
    return dict.fromkeys(facts, "own")


def check_own_facts(name, lang):
    return check_own(name, lang, OWN_SPLITS, lambda answer: 1 <= len(answer.split()) <= 5)


def check_long_answers(name, lang):
    return check_own(name, lang, LONG_SPLITS, lambda answer: answer.count("\n") == 2 and 20 <= len(answer.split()) <= 50)


SETS = [
    ("examples/qa/data/facts", ["en", "ko"], check_facts),
    ("examples/qa/data/unanswered", ["en", "ko"], check_unanswered),
    ("tests/data/own_facts/dev", ["en", "ko"], check_own_facts),
    ("tests/data/own_facts/kept", ["en", "ko"], check_own_facts),
    ("tests/data/long_answers", ["en"], check_long_answers),
]
counts, sets = [], {}
for name, languages, check_set in SETS:
    found = [check_set(name, lang) for lang in languages]
    check(found[0] == found[-1], f"{name}: not the same in both languages:", set(found[0].items()) ^ set(found[-1].items()))
    for other, ids in sets.items():
        check(not ids & set(found[0]), name, "and", other, "share", ids & set(found[0]))
    sets[name] = set(found[0])
    counts.append(f"{name}: {len(found[0])} in {' and '.join(languages)}")
for required in REQUIRED:
    check(plain(required) in seen, "missing:", required)

print("\n".join(faults or [*counts, "as promised"]))
sys.exit(1 if faults else 0)
