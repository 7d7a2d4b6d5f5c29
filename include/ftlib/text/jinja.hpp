// text/jinja.hpp: the part of Jinja that chat templates are written in, run safely. What is rendered says of each
// character whether the template wrote it or a message, so that no message can write a control token.
#pragma once
#include <ftlib/text/jinja_input.hpp>  // JinjaInput, JinjaLimits
#include <ftlib/text/jinja_piece.hpp>  // JinjaPiece

#include <memory>       // std::shared_ptr
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {
namespace text {

/// A template, parsed once; immutable, cheap to copy, safe from many threads.
///
/// It is run as transformers runs one: trim_blocks, lstrip_blocks, loopcontrols, an immutable sandbox. Known are:
/// - text, comments, {{ }}, if, for (with if, else, unpacking, loop.*, break, continue), set (blocks and namespaces
///   too), macro, generation, raw; white space control by - and +;
/// - every operator but **, slices, inline if, lists, tuples, dicts; tests; the methods of strings and dicts and the
///   filters that chat templates use; raise_exception, strftime_now, range, namespace, dict.
/// Statements that are not known are refused when it is parsed, everything else when it is reached, by line and name.
/// A template cannot read files, call into the program, or use more than `limits` and some 100 levels of nesting.
class JinjaTemplate {
 public:
  /// Throws Error naming the line and the construct. `source` of at most 1 MiB.
  explicit JinjaTemplate(std::string_view source);

  /// Runs it. Neighbouring pieces differ in source, and none is empty. Throws Error naming the line: for what is not
  /// known, where the template itself refuses (raise_exception), beyond the limits.
  std::vector<JinjaPiece> render(const JinjaInput& input, const JinjaLimits& limits = {}) const;

  /// Whether it reads a variable of this name.
  bool mentions(std::string_view name) const;
  /// Whether it says by {% generation %} what the assistant says.
  bool marks_generation() const;

 private:
  struct Program;
  std::shared_ptr<const Program> program_;
};

}  // namespace text
}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/jinja.inl.hpp>
#endif
