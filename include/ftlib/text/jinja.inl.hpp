// text/jinja.inl.hpp: the bodies of text/jinja.hpp: chat templates run.
#pragma once
#include <ftlib/text/jinja.hpp>
#include <ftlib/text/jinja_calls.hpp>
#include <ftlib/text/jinja_filters.hpp>
#include <ftlib/text/jinja_statements.hpp>
#include <ftlib/text/jinja_strings.hpp>
#include <ftlib/text/jinja_syntax.hpp>  // Lexer, Parser

#include <algorithm>  // std::replace, std::find

namespace ft::inline FTLIB_ABI {
namespace text {

struct JinjaTemplate::Program {
  jinja::Nodes nodes;
  std::vector<std::string> variables;
  bool generation = false;
};

[[gnu::cold]] FTLIB_INLINE JinjaTemplate::JinjaTemplate(std::string_view source) {
  if (source.size() > (std::size_t{1} << 20))
    throw Error(str("chat template: has ", source.size(), " bytes"), "1 MiB are read.");
  std::string text;  // as jinja2: lines end in \n, and the last one's end is left out
  for (const char c : replace_broken_utf8(source)) {
    if (c == '\n' && !text.empty() && text.back() == '\r') text.back() = '\n';
    else text.push_back(c);
  }
  std::replace(text.begin(), text.end(), '\r', '\n');
  if (text.ends_with('\n')) text.pop_back();
  jinja::Parser parser(jinja::Lexer(std::move(text)).run());
  auto program = std::make_shared<Program>();
  program->nodes = parser.run();
  program->variables = std::move(parser.variables);
  program->generation = parser.generation;
  program_ = std::move(program);
}

FTLIB_INLINE std::vector<JinjaPiece> JinjaTemplate::render(const JinjaInput& input, const JinjaLimits& limits) const {
  const jinja::Text text = jinja::Run(limits, input.date).all(program_->nodes, input);
  std::vector<JinjaPiece> pieces;
  std::size_t begin = 0;
  for (const auto& run : text.runs()) {
    pieces.push_back({text.bytes().substr(begin, run.end - begin), run.source.from, run.source.generated});
    begin = run.end;
  }
  return pieces;
}

FTLIB_INLINE bool JinjaTemplate::mentions(std::string_view name) const {
  return std::find(program_->variables.begin(), program_->variables.end(), name) != program_->variables.end();
}
FTLIB_INLINE bool JinjaTemplate::marks_generation() const { return program_->generation; }

}  // namespace text
}  // namespace ft::inline FTLIB_ABI
