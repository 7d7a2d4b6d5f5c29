#!/usr/bin/env python3
"""What transformers' apply_chat_template makes of chat templates: tests/data/chat/expected.jsonl, and of small pieces of
Jinja: tests/data/chat/snippets.json, pairs of a piece and what it becomes, or null where it is refused.

    tools/make_chat_fixtures.py FOLDER            writes it: the templates in tests/data/chat/ and, in FOLDER, those that
                                                  tools/fetch_chat_templates.py fetches
    tools/make_chat_fixtures.py FOLDER --check    makes it anew and compares

A line a template: its name, its SHA-256, `texts`, and `cases`: for each conversation below the places in `texts` of what it
becomes with (add_generation_prompt, enable_thinking) = (no, no), (no, yes), (yes, no), (yes, yes); null where the template
refuses the conversation. `learned` are the stretches that {% generation %} marks, of the first case of each conversation.
tests/text/chat.cpp holds ours against it.
"""
import argparse
import datetime
import hashlib
import json
import pathlib
import sys

import jinja2
from transformers.utils import chat_template_utils

OWN = pathlib.Path(__file__).parent.parent / "tests" / "data" / "chat"
DATE = datetime.datetime(2024, 7, 26, 9, 30)
TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>", "unk_token": "<UNK>", "pad_token": "<PAD>"}
# Published templates that tests hold: each family of the supported models, and others that write in other ways.
PUBLISHED = """
meta-llama-Llama-3.1-8B-Instruct meta-llama-Llama-3.2-3B-Instruct meta-llama-Llama-3.3-70B-Instruct
Qwen-Qwen2.5-7B-Instruct Qwen-Qwen3-0.6B Qwen3-Coder Qwen3.5-4B Qwen-QwQ-32B google-gemma-2-2b-it google-gemma-4-31B-it
mistralai-Mistral-Nemo-Instruct-2407 Mistral-Small-3.2-24B-Instruct-2506 mistralai-Ministral-3-14B-Reasoning-2512
unsloth-mistral-Devstral-Small-2507 microsoft-Phi-3.5-mini-instruct HuggingFaceTB-SmolLM3-3B
ibm-granite-granite-3.3-2B-Instruct ibm-granite-granite-4.0 deepseek-ai-DeepSeek-R1-Distill-Llama-8B
deepseek-ai-DeepSeek-R1-Distill-Qwen-32B deepseek-ai-DeepSeek-V3.1 deepseek-ai-DeepSeek-V3.2 GLM-4.6 LFM2-8B-A1B
openai-gpt-oss-120b MiniMax-M2
""".split()

# One construct each, with `s` a string, `l`, `n`, `d`, `rows` from VARIABLES.
VARIABLES = {"s": " Ab c\tdé한글\n", "word": "token", "n": 7, "x": 2.5, "yes": True, "nothing": None, "l": [3, 1, 2], "e": [],
             "words": ["b", "A", "c", "a"], "d": {"C": None, "a": [1, {"k": "v"}], "b": 1},
             "rows": [{"r": "u", "k": 2}, {"r": "a", "k": 1}, {"r": "u", "k": 0}, {"k": 5}], "quote": "say \"<é>\" \\ \x07\n"}
SNIPPETS = r"""
{{ 1 + 2 * 3 - 4 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 7 / 2 }}|{{ 8 / 2 }}|{{ 2.5 * 2 }}|{{ -x }}|{{ +n }}
{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 1 == 1.0 }}{{ 'a' < 'b' }}{{ l == [3, 1, 2] }}{{ d != {} }}{{ true == 1 }}
{{ not yes or n }}{{ yes and word }}{{ e or 'empty' }}{{ nothing and 1 }}{{ missing or 'm' }}{{ not not yes }}
{{ 'a' in 'cat' }}{{ 'x' not in 'cat' }}{{ 3 in l }}{{ 'b' in d }}{{ 'z' in missing }}{{ 9 not in l }}
{{ 'yes' if yes else 'no' }}{{ 'only' if not yes }}{{ 1 if nothing else 2 if missing else 3 }}
{{ n ~ '-' ~ x ~ '-' ~ nothing ~ '-' ~ missing ~ '-' ~ yes }}
{{ 'a' 'b' "c" }}{{ 'q\n\'x\x41\u00e9\t' }}{{ '\d\w' }}{{ "it's" }}{{ 'é' }}{{ '\101' }}
{{ l[0] }}{{ l[-1] }}{{ l[9] }}{{ s[1] }}{{ word[-1] }}{{ d['b'] }}{{ d.b }}{{ d['q'] }}{{ d.a[1].k }}{{ d.a.1.k }}{{ rows[0].r }}
{{ word[1:] }}|{{ word[:2] }}|{{ word[-2:] }}|{{ word[::-1] }}|{{ word[::2] }}|{{ word[10:] }}|{{ word[3:1] }}|{{ word[3:1:-1] }}|{{ s[-4:-1] }}|{{ word[:-1] }}
{{ l[::-1] | join(',') }}|{{ l[1:] | join(',') }}|{{ l[-2:] | join }}|{{ l[:1] | length }}|{{ e[::-1] | length }}|{{ l[5:0:-2] | join(',') }}|{{ l[none:2] | join }}
{{ (1, 2) | join('-') }}{{ [1, [2, 3]][1] | join('+') }}{{ () | length }}{{ [1, 2,] | length }}{{ {'a': 1,}.a }}{{ {1: 'one'}[1] }}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('x', 'y') }};{% endfor %}
{% for i in e %}{{ i }}{% else %}none{% endfor %}{% for i in missing %}{{ i }}{% else %}nothing{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v is none }},{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'ab' %}{{ c }}.{% endfor %}
{% for i in l if i > 1 %}{{ i }}{{ loop.index }}{{ loop.last }}{% endfor %}{% for i in range(5) if i is odd %}{{ i }}{% endfor %}
{% for i in l %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}{% for i in l %}{{ i }}{% if i == 1 %}{% break %}{% endif %}{% endfor %}
{% for a in l %}{% set outer = loop %}{% for b in 'xy' %}{{ outer.index }}{{ b }}{{ loop.index }} {% endfor %}{% endfor %}
{% set a = 1 %}{% for i in l %}{% set a = a + i %}{{ a }} {% endfor %}{{ a }}
{% set ns = namespace(a=1, b='x') %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{{ ns['a'] }}
{% set t %}x{{ n }}{% set inner = 5 %}y{% endset %}{{ t }}{{ t | length }}{{ inner }}
{% if yes %}{% set z = 5 %}{% endif %}{{ z }}{% if nothing %}a{% elif n > 5 %}b{% elif yes %}c{% else %}d{% endif %}
{% macro m(a, b=2, c='z') %}{{ a }}{{ b }}{{ c }}{{ n }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c='q') }} {{ m(b=5, a=6) }} {{ m() }}
{% macro f(i) %}{% if i > 0 %}{{ i }}{{ f(i - 1) }}{% endif %}{% endmacro %}{{ f(4) }}{% set g = f(2) %}{{ g ~ '!' }}
{% macro f() %}{{ later }}{% endmacro %}{% set later = 'L' %}{{ f() }}{% for i in l %}{% set inside = i %}{{ f() }}{% endfor %}
{{ s | trim }}|{{ '  x ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip() }}|{{ 'abcba'.strip('ab') }}|{{ missing | trim }}
{{ 'a,b,,c'.split(',') | join('|') }};{{ ' a  b '.split() | join('|') }};{{ 'a,b,c'.split(',', 1) | join('|') }};{{ 'a b  c '.split(None, 1) | join('|') }};{{ 'a,b,c'.rsplit(',', 1) | join('|') }};{{ ''.split('x') | length }};{{ ''.split() | length }};{{ 'a</t>b'.split('</t>')[-1] }}
{{ word.startswith('to') }}{{ word.endswith('x') }}{{ word.startswith(('a', 't')) }}{{ word.find('k') }}{{ word.find('z') }}{{ s.find('한') }}{{ 'abab'.rfind('b') }}{{ 'abab'.count('ab') }}
{{ word.upper() }}{{ 'ABC'.lower() }}{{ 'ab cd'.title() }}{{ 'aB cD'.capitalize() }}{{ '한a글'.upper() }}{{ word | upper | lower | capitalize }}{{ "a-b c1d" | title }}
{{ 'aXbXc'.replace('X', '--') }}{{ 'aXbXc'.replace('X', '', 1) }}{{ 'abc' | replace('b', 'Q') }}{{ 'ab'.replace('', '.') }}{{ 5 | replace('5', 'five') }}
{{ '-'.join(['a', 'b']) }}{{ ', '.join(words) }}{{ '{} and {}'.format(n, word) }}{{ '{{}}'.format() }}
{{ l | length }}{{ s | length }}{{ d | length }}{{ e | count }}{{ '한글' | length }}{{ missing | length }}
{{ l | first }}{{ l | last }}{{ e | first }}{{ word | first }}{{ word | last }}{{ d | first }}
{{ missing | default('x') }}{{ '' | default('y') }}{{ '' | default('z', true) }}{{ nothing | default('w', boolean=true) }}{{ missing | d }}{{ n | default(0) }}
{{ d | tojson }}|{{ l | tojson }}|{{ quote | tojson }}|{{ nothing | tojson }}|{{ yes | tojson }}|{{ x | tojson }}|{{ e | tojson }}|{{ {} | tojson }}|{{ '😀\x7f' | tojson }}
{{ d | tojson(indent=2) }}|{{ {'a': {}, 'b': []} | tojson(indent=4) }}
{{ '한é😀' | tojson(ensure_ascii=true) }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}{{ [1, 2] | tojson(separators=(',', ':')) }}{{ d | tojson(separators=(',', ':'), indent=1) }}
{{ d | items | map(first) | join }}
{{ d | items | map('first') | join(',') }}{{ d.keys() | list | join }}{{ d.values() | list | length }}{{ d.get('b') }}{{ d.get('q') }}{{ d.get('q', 'fall') }}{{ d | list | join }}
{{ rows | map(attribute='k') | join }}{{ rows | map(attribute='r', default='-') | join }}{{ words | map('upper') | join }}{{ [' a '] | map('trim') | join }}
{{ rows | selectattr('r', 'equalto', 'u') | list | length }}{{ rows | selectattr('r', 'defined') | map(attribute='k') | join }}{{ rows | rejectattr('k') | map(attribute='r') | join }}{{ rows | selectattr('k', '>', 1) | list | length }}
{{ [1, none, 'a', 0] | select | join }}{{ [1, 'a'] | select('string') | join }}{{ [1, 2, 3] | reject('odd') | join }}{{ [1, 2] | select('in', [2, 3]) | join }}{{ nothing | select | list | length }}
{{ words | sort | join }}{{ words | sort(reverse=true) | join }}{{ words | sort(case_sensitive=true) | join }}{{ rows | sort(attribute='k') | map(attribute='k') | join }}{{ [3, 1, 3] | unique | join }}{{ l | min }}{{ l | max }}{{ l | reverse | join }}{{ word | reverse }}
{% for k, v in d | dictsort %}{{ k }}{% endfor %}{% for k, v in {'x': 2, 'y': 1} | dictsort(by='value') %}{{ k }}{% endfor %}
{{ '5' | int }}{{ 'x' | int }}{{ 'x' | int(3) }}{{ '2.7' | float }}{{ 2.7 | int }}{{ -5 | abs }}{{ (-5) | abs }}{{ n | string ~ 'x' }}{{ true | int }}
{{ 'a\nb\n\nc' | indent(2) }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\nb' | indent(1, first=true) }}|{{ 'a\n\nb' | indent(1, blank=true) }}
{{ n is defined }}{{ missing is defined }}{{ missing is undefined }}{{ nothing is none }}{{ n is not none }}{{ word is string }}{{ d is mapping }}{{ l is mapping }}{{ l is sequence }}{{ word is iterable }}{{ n is iterable }}{{ n is number }}{{ yes is number }}{{ yes is integer }}{{ x is float }}{{ yes is boolean }}{{ yes is true }}{{ 1 is true }}{{ nothing is false }}
{{ 3 is odd }}{{ 4 is even }}{{ 6 is divisibleby 3 }}{{ 6 is divisibleby(4) }}{{ 1 is eq 1 }}{{ 1 is ne(2) }}{{ 3 is gt 2 }}{{ 3 is in l }}{{ 'a' is lower }}{{ 'aB' is lower }}{{ 'AB' is upper }}{{ n is callable }}{{ raise_exception is callable }}
{{ n is defined and word is string or false }}{{ not n is defined }}{{ 1 + n | string | length }}{{ (1 + n) | string | length }}{{ -1 | abs }}{{ 2 * word | length }}
{{ range(3) | join }}{{ range(1, 4) | join }}{{ range(6, 0, -2) | join }}{{ range(0) | list | length }}
{{ dict(a=1, b='x') | tojson }}{{ dict({'q': 1}, r=2) | tojson }}{{ strftime_now('%Y-%m-%d %H:%M:%S %a %A %b %B %y %j %p %I %-d %%') }}
{{ (l + [4]) | length }}{{ 'ab' * 2 }}{{ ('a' if yes else 'b') + 'c' }}
x {# comment #} y{#- c -#} z\n{# line #}\nend
  {% if yes %}\n  a\n  {% endif %}\nb {{ n }}\n
  {%- if yes -%}  a  {%- endif -%}  b
 {%+ if yes %} a{% endif +%}\n b
{{ 'x' -}}  \n y {{- 'z' }}\n\n
{% raw %}{{ n }} {% if %}{% endraw %}|{%- raw -%}  {% x %} {%- endraw -%}  !
{% for i in l -%}\n  {{ i }}\n{%- endfor %}|{% for i in l %}\n{{ i }}\n{% endfor %}
a\r\nb{% if yes %}\r\nc{% endif %}
\n\n  {% set a = 1 %}  \n\n{{ a }}\n  {# c #}  \n
{{ {'a': {'b': {}}} | tojson }}{{ '}}' }}{{ "%}" }}{% set b = '%}' %}{{ b }}
{% set a = 'x' -%} b {%- set a = 'y' %} c{{ a }}
{{ missing.x }}
{{ missing + 'x' }}
{{ nothing + 1 }}
{{ 'a' + 1 }}
{{ 1 < 'a' }}
{{ l.append(1) }}
{{ raise_exception('no') }}
{{ nothing() }}
{% for a, b in l %}{% endfor %}
{{ 1 // 0 }}
{{ ''.join([1, 2]) }}
{{ n is unknown_test }}
{{ n | unknown_filter }}
{% unknown %}
{% if yes %}
{{ 'a }}
{{ (1 }}
{{ 1 2 }}
{% endif %}
{# not ended
{{ l[::0] }}
{{ range(1000000) | length }}
""".strip("\n").split("\n")


def turns(*contents, system=None):
    said = [{"role": "system", "content": system}] if system is not None else []
    return said + [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


CONVERSATIONS = [
    turns("Hi"),
    turns("What is 6 x 7?", system="Be brief."),
    turns("a", "b", "c", "d", "e"),
    turns("Say it again.", "It.", "And \"again\"?", system="You say what you are asked to."),
    turns(" \tleading\n", "\n\n both ends \n", "trailing \u3000", system=" s \n"),
    turns("서울의 인구는 몇 명인가요?", "약 940만 명입니다.", "부산은요? 🌊", system="한국어로 답하세요."),
    turns("x<|im_end|>\n<|im_start|>system\ny<end_of_turn>[/INST]</s><EOS>", "<|eot_id|><|end|>{{ bos_token }}",
          "<｜end▁of▁sentence｜><|end_of_text|>"),
    turns("", "", "q", system=""),
    turns("1?", "<think>\nhm\n</think>\n\nYes", "2?", "<think>\nso\n</think>\n\nNo"),
    turns("/no_think 3?", "Three.", system="Cut. /think"),
]


def snippet(source):
    source = source.replace("\\\\", "\0").replace("\\r", "\r").replace("\\n", "\n").replace("\0", "\\")
    try:
        text = chat_template_utils._compile_jinja_template(source).render(**VARIABLES)
    except Exception as error:
        return [source, None, type(error).__name__]
    return [source, text]


def rendered(template, conversation, answer_next, thinking):
    kwargs = {"enable_thinking": thinking, "thinking": thinking}
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            conversations=[conversation], chat_template=template, add_generation_prompt=answer_next, **TOKENS, **kwargs)
    except (jinja2.TemplateError, TypeError) as error:
        return None, str(error)
    return texts[0], None


def learned(template, conversation):
    texts, ranges = chat_template_utils.render_jinja_template(
        conversations=[conversation], chat_template=template, return_assistant_tokens_mask=True, **TOKENS,
        enable_thinking=False, thinking=False)
    return [texts[0][begin:end] for begin, end in ranges[0]]


def line_of(path):
    template = path.read_bytes().decode()
    texts, cases, marked = [], [], []
    for conversation in CONVERSATIONS:
        places = []
        for answer_next in (False, True):
            for thinking in (False, True):
                text, _ = rendered(template, conversation, answer_next, thinking)
                if text is not None and text not in texts:
                    texts.append(text)
                places.append(None if text is None else texts.index(text))
        cases.append(places)
        if "generation %}" in template and "endgeneration" in template and places[0] is not None:
            marked.append(learned(template, conversation))
        else:
            marked.append(None)
    line = {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "texts": texts, "cases": cases}
    if any(marked):
        line["learned"] = marked
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--all", action="store_true", help="every template in FOLDER, to stdout")
    args = parser.parse_args()

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return DATE

    chat_template_utils.datetime = Fixed
    paths = sorted(OWN.glob("*.jinja"))
    paths += sorted(args.folder.glob("*.jinja")) if args.all else [args.folder / (name + ".jinja") for name in PUBLISHED]
    head = {"conversations": CONVERSATIONS, "tokens": TOKENS, "date": DATE.isoformat()}
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [head] + [line_of(p) for p in paths])
    if args.all:
        return print(lines, end="")
    pieces = json.dumps({"variables": VARIABLES, "date": DATE.isoformat(), "snippets": [snippet(s) for s in SNIPPETS]},
                        ensure_ascii=False, indent=0) + "\n"
    for target, text in (OWN / "expected.jsonl", lines), (OWN / "snippets.json", pieces):
        if not args.check:
            target.write_text(text)
            print(f"{target}: {len(text.encode()):,} bytes")
        elif target.read_text() != text:
            sys.exit(f"{target}: differs from what transformers makes now")
    print(f"{len(paths)} templates, {len(SNIPPETS)} pieces" + (", the same" if args.check else ""))


if __name__ == "__main__":
    main()
