// tests/fuzz/records.cpp: any bytes as a file of records: an Error, or records that are written and read back the same,
// and answers that score full marks against themselves.
#include <ftlib/text/records.hpp>
#include <ftlib/text/scores.hpp>

#include <sys/mman.h>  // ::memfd_create
#include <unistd.h>    // ::ftruncate, ::pwrite

namespace {
/// A file in memory: read_records() wants a path, and a disk would be slow.
class MemoryFile {
 public:
  void fill(const void* data, std::size_t size) {
    if (::ftruncate(file_, 0) != 0 || ::pwrite(file_, data, size, 0) != static_cast<ssize_t>(size)) __builtin_trap();
  }
  std::string path() const { return ft::str("/proc/self/fd/", file_); }

 private:
  int file_ = ::memfd_create("records", MFD_CLOEXEC);
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static MemoryFile file;
  file.fill(data, size);
  std::vector<ft::text::BadRecord> bad;
  try {
    const auto records = ft::text::read_records(file.path(), bad);
    std::string lines;
    for (const auto& record : records) {
      lines += ft::text::to_json_line(record) + '\n';
      if (record.answers.empty()) continue;
      if (!ft::text::strict_match(record.answers.back(), record.answers)) __builtin_trap();
      for (const auto rules : {ft::text::Rules::squad, ft::text::Rules::korquad}) {
        const auto& answer = record.answers.back();  // of which something is left: SQuAD's rules pass over others
        if (!ft::text::normalize_answer(answer, rules).empty() && !ft::text::exact_match(answer, record.answers, rules))
          __builtin_trap();
        const double f1 = ft::text::f1(record.question, record.answers, rules);
        if (!(f1 >= 0 && f1 <= 1)) __builtin_trap();
      }
    }
    file.fill(lines.data(), lines.size());
    if (ft::text::read_records(file.path()) != records) __builtin_trap();
  } catch (const ft::Error&) {
    // A file with text in it is refused only with a reason: its lines', or another encoding's mark.
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    const bool marked = bytes.starts_with("\xFF\xFE") || bytes.starts_with("\xFE\xFF") ||
                        bytes.starts_with(std::string_view("\0\0\xFE\xFF", 4));
    if (bad.empty() && !marked && bytes.find('"') != bytes.npos) __builtin_trap();
  }
  return 0;
}
