// core/error.hpp: the one exception of the library, and the two helpers that make its messages.
#pragma once
#include <ftlib/core/version.hpp>

#include <initializer_list>  // std::initializer_list
#include <sstream>           // std::ostringstream
#include <stdexcept>         // std::runtime_error
#include <string>            // std::string
#include <string_view>       // std::string_view

// Outside the inline namespace, so that one `catch` serves parts of a program that were built in other ways: what an
// Error holds stays as it is in all versions that are to live in one process.
namespace ft {

/// What a host can do about an Error.
enum class ErrorKind {
  bad_argument,  // what was asked for makes no sense, or does not fit what is there: ask for something else
  bad_file,      // a file is missing, damaged, of another kind, or cannot be read or written: give another
  no_memory,     // of the system, the GPU, or a context's memory_limit: ask for less, or again later
  no_space,      // the disk is full, or a quota or a limit of files reached: free some, and ask again
  cancelled,     // the host's own request to stop
  other,         // the system refuses (threads, a GPU), or a training diverged
};

/// What every function of ftlib throws. `what()` is "message\n  hint: ..."; the message names the op or the file,
/// the shapes or the byte offset, and the hint says what to do next (it may be empty).
class Error : public std::runtime_error {
 public:
  explicit Error(std::string message, std::string hint = {}, ErrorKind kind = ErrorKind::bad_argument)
      : std::runtime_error(hint.empty() ? message : message + "\n  hint: " + hint),
        message_(std::move(message)),
        hint_(std::move(hint)),
        kind_(kind) {}

  const std::string& message() const noexcept { return message_; }
  const std::string& hint() const noexcept { return hint_; }
  ErrorKind kind() const noexcept { return kind_; }
  /// For what knows more than who threw, see reading_file().
  void set_kind(ErrorKind kind) noexcept { kind_ = kind; }

 private:
  std::string message_, hint_;
  ErrorKind kind_;
};

/// Thrown where a caller's stop request (a signal, a callback) ends work early but in order.
class Interrupted : public Error {
 public:
  explicit Interrupted(std::string message, std::string hint = {})
      : Error(std::move(message), std::move(hint), ErrorKind::cancelled) {}
};

}  // namespace ft

namespace ft::inline FTLIB_ABI {

namespace detail {

/// A value that can be written, its type left behind: str's hundreds of argument lists then need one writer for each
/// type of argument and one loop, which is what keeps messages cheap to compile.
class Written {
 public:
  Written(const char* text) : value_(text), write_([](std::ostream& out, const void* s) { out << as<char>(s); }) {}
  template <class T>
  Written(const T& value) : value_(&value), write_([](std::ostream& out, const void* x) { out << *as<T>(x); }) {}

  void write(std::ostream& out) const { write_(out, value_); }

 private:
  template <class T> static const T* as(const void* p) { return static_cast<const T*>(p); }

  const void* value_;
  void (*write_)(std::ostream&, const void*);
};

[[gnu::noinline]] inline std::string join(std::initializer_list<Written> values) {
  std::ostringstream out;
  for (const Written& value : values) value.write(out);
  return std::move(out).str();
}

}  // namespace detail

/// All arguments written one after the other, as operator<< writes them.
template <class... Args> std::string str(const Args&... args) { return detail::join({args...}); }

/// Throws Error{message, hint} unless `condition` holds. For messages that cost something to make, use `if (!...)
/// throw`.
inline void require(bool condition, std::string_view message, std::string_view hint = {}) {
  if (!condition) throw Error(std::string(message), std::string(hint));
}

/// read(), in which whatever is found wrong is a file's fault: a bad_argument in there is a bad_file.
template <class F> decltype(auto) reading_file(F&& read) {
  try {
    return read();
  } catch (Error& e) {
    if (e.kind() == ErrorKind::bad_argument) e.set_kind(ErrorKind::bad_file);
    throw;
  }
}

}  // namespace ft::inline FTLIB_ABI
