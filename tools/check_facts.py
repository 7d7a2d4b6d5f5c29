#!/usr/bin/env python3
"""Checks the bundled facts (examples/qa/data/facts.en.jsonl, facts.ko.jsonl) for what their README promises.

Needs Python 3 alone:  tools/check_facts.py [FOLDER]
Prints what is wrong, one line each, and ends with status 1 if anything is.
"""
import json
import pathlib
import re
import sys
from collections import Counter, defaultdict

FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "examples/qa/data")
SPLITS = ["train"] * 5 + ["valid"] + ["test"] * 2  # of a trained fact's eight questions, in their order
REQUIRED = ["지구에서 가장 높은 산은 무엇인가요?", "태양계에서 가장 큰 행성은 무엇인가요?"]

faults = []


def check(good, *words):
    if not good:
        faults.append(" ".join(map(str, words)))


def plain(text):
    return re.sub(r"\W", "", text.lower())


def answers_of(record):
    return record.get("answers") or [record["answer"]]


def contains(question, answer, lang):
    if lang == "ko":  # particles are written onto the word
        return plain(answer) in plain(question)
    return re.search(r"(?<!\w)" + re.escape(answer.lower()) + r"(?!\w)", question.lower()) is not None


def check_language(lang):
    facts, seen = defaultdict(list), {}
    for number, line in enumerate((FOLDER / f"facts.{lang}.jsonl").read_text(encoding="utf-8").splitlines(), 1):
        record = json.loads(line)
        where = f"facts.{lang}.jsonl:{number}: {record['id']}:"
        question, answers = record["question"], answers_of(record)
        facts[record["id"].rpartition("/")[0]].append(record)
        check(record["lang"] == lang, where, "language is", record["lang"])
        check(bool(re.search("[가-힣]", question)) == (lang == "ko"), where, "not in its language:", question)
        check(all(answer == answer.strip() != "" for answer in answers) and len(set(answers)) == len(answers), where, "answers", answers)
        check(plain(question) not in seen, where, "asked before, by", seen.get(plain(question)))
        seen[plain(question)] = record["id"]
        for answer in answers:
            check(not contains(question, answer, lang), where, "the question holds the answer", answer)

    check(list(facts) == sorted(facts), f"facts.{lang}.jsonl: not sorted by fact")
    trained = {fact: records for fact, records in facts.items() if records[0]["split"] != "untrained"}
    untrained = {fact: records for fact, records in facts.items() if fact not in trained}
    check(len(trained) >= 200, f"facts.{lang}.jsonl: {len(trained)} trained facts, not 200")
    check(len(untrained) == 40, f"facts.{lang}.jsonl: {len(untrained)} untrained facts, not 40")
    for fact, records in facts.items():
        check([r["id"] for r in records] == [f"{fact}/{i}" for i in range(len(records))], fact, "is numbered wrongly")
        check(len({tuple(answers_of(r)) for r in records}) == 1, fact, "has other answers in some records")
        splits = [r["split"] for r in records]
        check(splits == (SPLITS if fact in trained else ["untrained"] * 2), fact, "has the splits", splits)

    known = {plain(answer): fact for fact, records in trained.items() for answer in answers_of(records[0])}
    for fact, records in untrained.items():
        for answer in answers_of(records[0]):
            check(plain(answer) not in known, fact, "is not trained, but its answer is, by", known.get(plain(answer)))
    return {fact: records[0]["split"] == "untrained" for fact, records in facts.items()}, set(seen)


english, _ = check_language("en")
korean, korean_questions = check_language("ko")
check(english == korean, "not the same facts in both languages:", set(english.items()) ^ set(korean.items()))
for required in REQUIRED:
    check(plain(required) in korean_questions, "missing:", required)

print("\n".join(faults) if faults else f"{Counter(english.values())[False]} trained and {Counter(english.values())[True]} untrained facts, as promised")
sys.exit(1 if faults else 0)
