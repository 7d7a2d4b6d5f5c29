// tests/fuzz/qa_readers.cpp: any bytes as each kind of file that `qa prepare` reads: bad rows, or records without a
// fault, each with its line.
#include "../../examples/qa/readers.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  using namespace qa;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const auto decoded = decode(bytes, "file.csv");
  if (!decoded.fault.empty()) {
    if (decoded.hint.empty()) __builtin_trap();
    return 0;
  }
  const std::string_view text = decoded.text;
  for (const auto form : {Form::qa, Form::context}) {
    ReadOptions options(form);
    for (const bool no_header : {false, true}) {
      options.no_header = no_header;
      for (const auto read : {+[](Collector&out, std::string_view t) { read_table(out, t, ','); },
                              +[](Collector&out, std::string_view t) { read_json(out, t); },
                              +[](Collector&out, std::string_view t) { read_json_lines(out, t); },
                              +[](Collector&out, std::string_view t) { read_trivia(out, t); }}) {
        Collector out("file", options);
        read(out, text);
        const auto source = out.take();
        if (source.lines.size() != source.records.size()) __builtin_trap();
        for (const auto& record : source.records)
          if (!ft::text::record_fault(record).empty()) __builtin_trap();
        for (const auto line : source.lines)
          if (line < 1) __builtin_trap();
        if (!source.refused.empty() && !source.records.empty()) __builtin_trap();
      }
    }
  }
  (void)goes_over_lines(text);
  (void)is_object_a_line(text);
  return 0;
}
