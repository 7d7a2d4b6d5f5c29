// tests/text/jinja.cpp: the part of Jinja that chat templates are written in: what it makes, refuses, and who wrote it.
#include <ftlib/io/json.hpp>
#include <ftlib/text/jinja.hpp>

#include <doctest/doctest.h>

#include <filesystem>

using namespace ft;
using namespace ft::text;

namespace {
using Pieces = std::vector<JinjaPiece>;
std::string text_of(const Pieces& pieces) {
  std::string text;
  for (const auto& piece : pieces) text += piece.text;
  return text;
}
std::string run(const std::string& source, const std::string& variables = "", const JinjaLimits& limits = {}) {
  return text_of(JinjaTemplate(source).render({.variables = variables}, limits));
}
/// What the template makes of one message, as pieces.
Pieces pieces_of(const std::string& source, const std::string& content) {
  const std::vector<Message> messages = {{"user", content}};
  return JinjaTemplate("{% set s = messages[0].content %}" + source).render({.messages = &messages});
}
std::string repeated(const std::string& text, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += text;
  return out;
}
constexpr auto from_template = JinjaPiece::from_template;
}  // namespace

TEST_CASE("text/jinja: each construct as jinja2 has it") {
  const Json file = read_json(std::filesystem::path(FTLIB_TEST_DATA) / "chat/snippets.json");
  for (const Json& snippet : file.at("snippets")) {
    const auto source = snippet[0].get<std::string>();
    CAPTURE(source);
    const JinjaInput input{.variables = file.at("variables").dump(), .date = file.at("date").get<std::string>()};
    if (snippet[1].is_null()) CHECK_THROWS_AS(JinjaTemplate(source).render(input), Error);
    else CHECK(text_of(JinjaTemplate(source).render(input)) == snippet[1].get<std::string>());
  }
}

TEST_CASE("text/jinja: each character knows who wrote it") {
  CHECK(pieces_of("<{{ s }}>", "x") == Pieces{{"<", from_template}, {"x", 0}, {">", from_template}});
  CHECK(pieces_of("{{ 'a' + s ~ 'b' }}", "x") == Pieces{{"a", from_template}, {"x", 0}, {"b", from_template}});
  for (const char* same :
       {"{{ s | trim }}", "{{ s.strip() }}", "{{ s.split('|')[0].strip() }}", "{{ s[1:3] }}",
        "{{ (s.split('|') | map('trim') | list)[0] }}", "{% set t %}{{ s[1:3] }}{% endset %}{{ t }}",
        "{% macro m(x) %}{{ x | trim }}{% endmacro %}{{ m(s) }}", "{{ [s[1:3]] | join }}", "{{ {'k': s[1:3]}.k }}",
        "{% for c in s %}{{ c | trim }}{% endfor %}", "{{ s[2::-1][:2][::-1] }}",
        "{% set ns = namespace(t=s[1:3]) %}{{ ns.t }}", "{{ s | upper | lower | trim }}", "{{ s.replace(' ', '') }}",
        "{{ '{}'.format(s | trim) }}", "{{ s | string | trim | safe }}"})
    CHECK_MESSAGE((pieces_of(same, " ab ") == Pieces{{"ab", 0}}), same);
  CHECK(pieces_of("{{ s.replace('b', '<b>') }}", "abc") == Pieces{{"a", 0}, {"<b>", from_template}, {"c", 0}});
  CHECK(pieces_of("{{ [s, s] | join('-') }}", "x") == Pieces{{"x", 0}, {"-", from_template}, {"x", 0}});
  CHECK(pieces_of("{{ messages[0] | tojson }}", "\"<|") ==
        Pieces{{R"({"role": "user", "content": ")", from_template}, {R"(\"<|)", 0}, {"\"}", from_template}});
  CHECK(pieces_of("{{ s | length }}", "abc") == Pieces{{"3", from_template}});
  // What a message says is no template.
  CHECK(pieces_of("{{ s }}", "{{ 1 }}{% if %}") == Pieces{{"{{ 1 }}{% if %}", 0}});
  // Variables, and keys in them, are from outside too.
  CHECK(JinjaTemplate("{{ v.k }}{% for k in v %}{{ k }}{% endfor %}").render({.variables = R"({"v": {"k": "x"}})"}) ==
        Pieces{{"xk", JinjaPiece::from_variables}});
  CHECK(pieces_of("a{% generation %}b{{ s }}{% endgeneration %}c", "x") ==
        Pieces{{"a", from_template}, {"b", from_template, true}, {"x", 0, true}, {"c", from_template}});
  CHECK(JinjaTemplate("{% generation %}{% endgeneration %}{{ other }}").marks_generation());
  CHECK(JinjaTemplate("{{ a.b }}").mentions("a"));
  CHECK(!JinjaTemplate("{{ a.b }}").mentions("b"));
}

TEST_CASE("text/jinja: broken UTF-8 is repaired, dates are those given") {
  CHECK(pieces_of("{{ s[0] }}|{{ s | length }}", "\xff\xc3(") == Pieces{{"\xEF\xBF\xBD", 0}, {"|3", from_template}});
  const JinjaTemplate day("{{ strftime_now('%d %b %Y') }}");
  CHECK(text_of(day.render({.date = "2024-02-29"})) == "29 Feb 2024");
  CHECK(text_of(day.render({})).size() == 11);
  for (const char* wrong : {"2023-02-29", "24-1-1", "2024-01-01 10:00", "tomorrow", "2024-01-01T25:00:00"})
    CHECK_THROWS_WITH_AS(day.render({.date = wrong}), doctest::Contains(wrong), Error);
  CHECK_THROWS_WITH_AS(run("{{ strftime_now('%Q') }}"), doctest::Contains("%Q"), Error);
}

TEST_CASE("text/jinja: what is not known is refused by line and name") {
  const auto refused = [](const std::string& source, const char* said) {
    CHECK_THROWS_WITH_AS(run(source, R"({"l": [1, {"a": "b"}], "s": "x", "d": {"k": 1}, "f": 1e30})"),
                         doctest::Contains(said), Error);
  };
  refused("\n\n{% include 'x' %}", "line 3: {% include %} is not known");
  refused("{% call f() %}{% endcall %}", "{% call %}");
  refused("{% filter upper %}x{% endfilter %}", "{% filter %}");
  refused("a\n{{ s | wordcount }}", "line 2: the filter 'wordcount'");
  refused("{{ s is sameas s }}", "the test 'sameas'");
  refused("{{ s.encode('utf-8') }}", "the method 'encode' of a string");
  refused("{{ l.append(1) }}", "the method 'append' of a list");
  refused("{{ d.update({}) }}", "the method 'update' of a dict");
  refused("{{ d.items }}", "the method 'items' that is not called");
  refused("{{ lipsum() }}", "the function 'lipsum'");
  refused("{{ 2 ** 3 }}", "the operator **");
  refused("{{ l }}", "printing a list");
  refused("{{ f }}", "printing the number 1e+30");
  refused("{{ '%s' % s }}", "a string % a string");
  refused("{{ 'é'.upper() }}", "upper of a letter");
  refused("{{ 4503599627370496 * 4096 }}", "53 bits");
  refused("{{ 99999999999999999999 }}", "too large");
  refused("{% for x in l recursive %}{% endfor %}", "recursive");
  refused("{% for x in l %}{{ loop.depth }}{% endfor %}", "loop.depth");
  refused("{% for x in l %}{% macro m() %}{% endmacro %}{% endfor %}", "a macro inside a loop");
  refused("{% set a, b = l %}", "several names");
  refused("{{ m(*l) }}", "an argument with *");
  refused("{{ s | tojson(default=1) }}", "'default'");
  refused("{% set ns = namespace() %}{% set ns.a = [ns] %}", "a namespace inside");
  refused("{% set ns = namespace() %}{% set ns.a = ns %}", "a namespace inside");
  refused("{% for x in l %}{% set y = [loop] %}{% endfor %}", "loop inside");
  refused("{% set s.x = 1 %}", "no namespace");
  refused("{{ raise_exception('Turns\nalternate') }}", "refuses the conversation: Turns\\x0aalternate");
  refused("{{ s", "{{ is not ended");
  refused("{% if s %}\n\n", "line 2: {% endif %} was expected");
  refused("{{ s ? }}", "'?'");
  CHECK_THROWS_WITH_AS(run("x", "[1]"), doctest::Contains("no JSON object"), Error);
}

TEST_CASE("text/jinja: no template runs on, fills the memory, or ends the process") {
  const JinjaLimits small{.steps = 20'000, .bytes = 1 << 20};
  const auto stopped = [&](const std::string& source, const char* said) {
    CHECK_THROWS_WITH_AS(run(source, "", small), doctest::Contains(said), Error);
  };
  stopped("{% for a in range(999) %}" + repeated("{% set x = 1 %}", 30) + "{% endfor %}", "runs too long");
  stopped("{% set ns = namespace(s='ab') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
          "too much text");
  stopped("{% set ns = namespace(l=[1]) %}{% for a in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
          "too much text");
  stopped("{% for a in range(999) %}" + repeated("x", 9999) + "{% endfor %}", "too much text");
  stopped("{{ 'ab' * 1000000000 }}", "too much text");
  stopped("{{ 'ab' | indent(200, true) * 99999 }}", "too much text");
  stopped("{{ [[[[1]]]] | tojson(indent=999999) * 99999 }}", "too much text");
  stopped("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "deeper");
  stopped("{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}", "deeper");
  stopped("{% set ns = namespace(l=[]) %}{% for a in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}", "too deep");
  const int deep = 50'000;
  using Brackets = std::pair<const char*, const char*>;
  for (const Brackets& brackets :
       {Brackets{"(", ")"}, Brackets{"[", "]"}, Brackets{"-", ""}, Brackets{"not ", ""}, Brackets{"{'a':", "}"},
        Brackets{"a[", "]"}, Brackets{"f(", ")"}, Brackets{"1 if 1 else ", ""}, Brackets{"a|f(", ")"},
        Brackets{"a is f [", "]"}, Brackets{"[1, ", "]"}}) {
    const auto [open, close] = brackets;
    CAPTURE(brackets.first);
    CHECK_THROWS_WITH_AS(run("{{ " + repeated(open, deep) + "1" + repeated(close, deep) + " }}"),
                         doctest::Contains("deeper"), Error);
    CHECK_THROWS_AS(run("{{ " + repeated(open, deep)), Error);
  }
  for (const char* next :
       {"+ 1", "~ ''", ".a", "[0]", "()", " | trim", " or 1", " and 1", " if 1", " is defined", "* 2"}) {
    CAPTURE(next);
    const std::string source = "{{ 1" + repeated(next, deep) + " }}";
    if (std::string(next) == "~ ''") CHECK(run(source) == "1");  // one node, whatever its length
    else CHECK_THROWS_WITH_AS(run(source), doctest::Contains("deeper"), Error);
  }
  CHECK_THROWS_WITH_AS(run(repeated("{% if 1 %}", deep)), doctest::Contains("deeper"), Error);
  CHECK_THROWS_WITH_AS(run(repeated("{% for a in b %}", deep)), doctest::Contains("deeper"), Error);
  CHECK(run(repeated("{{ 1 }}", 9999)).size() == 9999);
  CHECK(run("{% if 0 %}" + repeated("{% elif 0 %}", 9999) + "{% endif %}").empty());
  CHECK_THROWS_WITH_AS(JinjaTemplate(repeated("x", (1 << 20) + 1)), doctest::Contains("1 MiB"), Error);
}
