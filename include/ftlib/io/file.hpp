// io/file.hpp: reading a whole file, folders, and the words of io's errors: the system's text, byte numbers, names.
#pragma once
#include <ftlib/core/message.hpp>  // quote, printable

#include <fcntl.h>     // ::open
#include <sys/stat.h>  // ::fstat
#include <unistd.h>    // ::read, ::close

#include <algorithm>     // std::min, std::sort
#include <bit>           // std::endian
#include <cerrno>        // errno
#include <cstddef>       // std::size_t
#include <cstdint>       // std::uint64_t
#include <filesystem>    // std::filesystem::path
#include <limits>        // std::numeric_limits
#include <string>        // std::string
#include <string_view>   // std::string_view
#include <system_error>  // std::generic_category
#include <utility>       // std::exchange
#include <vector>        // std::vector

namespace ft::inline FTLIB_ABI {

static_assert(std::endian::native == std::endian::little,
              "ftlib reads little-endian files without swapping, and so runs on little-endian machines only");

/// What kind of Error a file's system error is: no_space, no_memory or bad_file.
inline ErrorKind kind_of_errno(int code) {
  if (code == ENOSPC || code == EDQUOT || code == EFBIG) return ErrorKind::no_space;
  return code == ENOMEM ? ErrorKind::no_memory : ErrorKind::bad_file;
}

/// "path: what: No such file or directory", from errno.
inline Error system_error(const std::filesystem::path& path, std::string_view what, std::string_view hint = {},
                          int code = errno) {
  return Error(str(path.string(), ": ", what, ": ", std::generic_category().message(code)), std::string(hint),
               kind_of_errno(code));
}

// std::filesystem's own functions throw what is no ft::Error, or hide what went wrong; these are for the library.

namespace detail {
inline std::filesystem::file_type type_of(const std::filesystem::path& path) {
  std::error_code error;
  const auto type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::none) throw system_error(path, "cannot look for it", {}, error.value());
  return type;
}
}  // namespace detail

/// Whether there is a folder, or anything, at `path`; a link counts as what it points to. Throws Error where the system
/// cannot say: no permission, a name that is too long.
inline bool is_folder(const std::filesystem::path& path) {
  return detail::type_of(path) == std::filesystem::file_type::directory;
}
inline bool path_exists(const std::filesystem::path& path) {
  return detail::type_of(path) != std::filesystem::file_type::not_found;
}

/// What is in a folder, by name. Throws Error where it cannot be read.
inline std::vector<std::filesystem::path> files_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    files.push_back(at->path());
  if (error) throw system_error(folder, "cannot list the folder", {}, error.value());
  std::sort(files.begin(), files.end());
  return files;
}

/// Makes a folder and those above it, as far as they are not there. Throws Error.
inline void make_folders(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw system_error(folder, "cannot make the folder", {}, error.value());
}

/// Copies a file to where there is none. Throws Error, naming the source.
inline void duplicate_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code error;
  std::filesystem::copy_file(from, to, error);
  if (error) throw system_error(from, str("cannot copy to ", to.string()), {}, error.value());
}

namespace detail {

/// An open file, closed when it goes.
class FileDescriptor {
 public:
  explicit FileDescriptor(int value = -1) : value_(value) {}
  FileDescriptor(FileDescriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    if (this != &other) {
      close();
      value_ = std::exchange(other.value_, -1);
    }
    return *this;
  }
  ~FileDescriptor() { close(); }

  explicit operator bool() const { return value_ >= 0; }
  int get() const { return value_; }
  /// False, with errno, where the system reports a late write error.
  bool close() { return value_ < 0 || ::close(std::exchange(value_, -1)) == 0; }

 private:
  int value_;
};

/// Throws Error for what is often there in the place of a file: Git LFS's pointer to it, a web page that speaks of it.
inline void refuse_substitute(std::string_view bytes, const std::string& name) {
  if (bytes.starts_with("version https://git-lfs"))
    throw Error(name + ": is a pointer of Git LFS, not the file itself", "fetch it: git lfs pull.",
                ErrorKind::bad_file);
  std::string head(bytes.substr(0, 32));
  for (char& c : head) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  const auto first = head.find_first_not_of(" \t\r\n");
  if (first != head.npos && (head.compare(first, 9, "<!doctype") == 0 || head.compare(first, 5, "<html") == 0))
    throw Error(name + ": is a web page", "fetch the file itself: the link for downloads, not the page that shows it.",
                ErrorKind::bad_file);
}

struct OpenFile {
  FileDescriptor descriptor;
  std::uint64_t size;
};

/// Opens a regular file to read. A folder, a FIFO or a device is an Error: its size says nothing, and a FIFO would wait
/// for a writer (hence O_NONBLOCK).
inline OpenFile open_to_read(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) throw system_error(path, "cannot open", errno == ENOENT ? "check the path; is it a relative one?" : "");
  struct stat facts {};
  if (::fstat(file.get(), &facts) != 0) throw system_error(path, "cannot read its size");
  if (S_ISDIR(facts.st_mode))
    throw Error(str(path.string(), ": is a folder, a file was expected"), {}, ErrorKind::bad_file);
  if (!S_ISREG(facts.st_mode)) throw Error(str(path.string(), ": is not a regular file"), {}, ErrorKind::bad_file);
  return {std::move(file), static_cast<std::uint64_t>(facts.st_size)};
}

}  // namespace detail

/// The bytes of a regular file. Throws Error where it cannot be read or is longer than `max_bytes`.
inline std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const auto file = detail::open_to_read(path);
  if (file.size > max_bytes)
    throw Error(str(path.string(), ": has ", grouped(file.size), " bytes, at most ", grouped(max_bytes), " are read"),
                {}, ErrorKind::bad_file);
  std::string bytes(static_cast<std::size_t>(file.size), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const auto got = ::read(file.descriptor.get(), bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw system_error(path, str("cannot read at byte ", grouped(done)));
    if (got == 0)
      throw Error(
          str(path.string(), ": ended at byte ", grouped(done), " of ", grouped(bytes.size()), " while it was read"),
          "another program is changing it.", ErrorKind::bad_file);
    done += static_cast<std::size_t>(got);
  }
  return bytes;
}

}  // namespace ft::inline FTLIB_ABI
