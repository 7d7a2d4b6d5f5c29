// io/atomic_file.hpp: files and folders that are on disk whole or not at all, whenever the program is killed.
#pragma once
#include <ftlib/io/file.hpp>

#include <signal.h>    // ::kill
#include <sys/stat.h>  // ::stat, ::fchmod

#include <charconv>  // std::from_chars
#include <cstdio>    // ::renameat2, RENAME_EXCHANGE (Linux)
#include <span>      // std::span
#include <vector>    // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

inline std::filesystem::path parent_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

/// "name" + tag + process id: beside the target, so that the rename stays in one file system.
inline std::filesystem::path sibling(const std::filesystem::path& path, std::string_view tag) {
  return parent_of(path) / str(path.filename().string(), tag, ::getpid());
}

/// What a run that no longer lives left under sibling(path, tag). Its own process id counts as such: in a container
/// each run may have the same one.
inline std::vector<std::filesystem::path> leftovers(const std::filesystem::path& path, std::string_view tag) {
  std::vector<std::filesystem::path> found;
  const std::string prefix = path.filename().string() + std::string(tag);
  std::error_code error;
  for (std::filesystem::directory_iterator at(parent_of(path), error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    const char *first = name.data() + prefix.size(), *last = name.data() + name.size();
    pid_t process = 0;
    const auto [rest, failure] = std::from_chars(first, last, process);
    if (failure != std::errc{} || rest != last || process <= 0) continue;
    if (process == ::getpid() || (::kill(process, 0) != 0 && errno == ESRCH)) found.push_back(at->path());
  }
  return found;
}

inline void remove_leftovers(const std::filesystem::path& path, std::string_view tag) {
  std::error_code ignored;
  for (const auto& leftover : leftovers(path, tag)) std::filesystem::remove_all(leftover, ignored);
}

/// fsync of a file or a folder. Some file systems cannot sync a folder (EINVAL, ENOTSUP) and need none.
inline void sync_path(const std::filesystem::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) throw system_error(path, "cannot open to sync");
  if (::fsync(file.get()) != 0 && errno != EINVAL && errno != ENOTSUP) throw system_error(path, "cannot sync");
}

/// All that is in a folder, then the folder.
inline void sync_tree(const std::filesystem::path& folder) {
  for (const auto& path : files_in(folder)) {
    std::error_code error;
    const auto type = std::filesystem::symlink_status(path, error).type();
    if (type == std::filesystem::file_type::directory) sync_tree(path);
    else if (type == std::filesystem::file_type::regular) sync_path(path);
    else if (error) throw system_error(path, "cannot sync", {}, error.value());
  }
  sync_path(folder);
}

/// Where two folders cannot change names in one step: the old one steps aside first. A program killed in between leaves
/// no `path`, but both folders whole; recover_folder then puts the old one back.
inline void replace_in_two_steps(const std::filesystem::path& temporary, const std::filesystem::path& path,
                                 const std::filesystem::path& aside) {
  if (::rename(path.c_str(), aside.c_str()) != 0) throw system_error(path, "cannot step aside for the new folder");
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int code = errno;
    ::rename(aside.c_str(), path.c_str());
    throw system_error(path, "cannot put the new folder in place", {}, code);
  }
}

/// Gives the folder `temporary` the name of the folder `path`; the old one then lies under `temporary` or `aside`.
inline void exchange_folders(const std::filesystem::path& temporary, const std::filesystem::path& path,
                             const std::filesystem::path& aside) {
#ifdef RENAME_EXCHANGE
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) throw system_error(path, "cannot replace the folder");
#endif
  replace_in_two_steps(temporary, path, aside);
}

/// What a path means where it is a symbolic link, or a link to one: the file at the end, which may not be there yet.
inline std::filesystem::path through_links(std::filesystem::path path) {
  for (int links = 0; links < 40; ++links) {
    std::error_code error;
    const auto target = std::filesystem::read_symlink(path, error);
    if (error) return path;
    path = target.is_absolute() ? target : parent_of(path) / target;
  }
  throw Error(str(path.string(), ": is a symbolic link that leads back to itself"), {}, ErrorKind::bad_file);
}

/// Whether there is something that cannot be replaced by a file, and is written to: a device, a pipe, a socket.
inline bool is_channel(const std::filesystem::path& path) {
  const auto type = type_of(path);
  return type != std::filesystem::file_type::not_found && type != std::filesystem::file_type::none &&
         type != std::filesystem::file_type::regular && type != std::filesystem::file_type::directory;
}

}  // namespace detail

/// Throws Error where the disk that `path` is on, or will be, has less than `bytes` free: asked before work is done
/// whose result would not fit. Quotas, and what others write meanwhile, it cannot know.
inline void check_room(const std::filesystem::path& path, std::uint64_t bytes) {
  std::error_code error;
  auto at = std::filesystem::absolute(path, error);
  while (!error && !std::filesystem::exists(at, error) && at.has_relative_path()) at = at.parent_path();
  const auto space = std::filesystem::space(at, error);
  if (error || space.available == static_cast<std::uintmax_t>(-1) || space.available >= bytes) return;
  throw Error(
      str(path.string(), ": needs ", grouped(bytes), " bytes, the disk has ", grouped(space.available), " free"),
      "free some space, or write to another disk; nothing was written.", ErrorKind::no_space);
}

/// Writes a file so that whoever opens `path`, whenever this program is killed, finds the old content or the new,
/// whole. The bytes go to `path`.tmp-PID; commit() syncs them to the disk, renames, and syncs the folder.
/// Without a commit the temporary is removed; one that a killed run left is removed by the next writer of the same
/// path. Two threads must not write one path at a time.
/// A link stays, and what it leads to is replaced, with the permissions that it had. A device or a pipe is written to:
/// there is nothing to replace, and what was written before an error is gone.
///
///   AtomicFile file("report.json");
///   file.write(text);
///   file.commit();
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path)
      : channel_(detail::is_channel(path)),
        path_(channel_ ? std::move(path) : detail::through_links(std::move(path))),
        temporary_(detail::sibling(path_, ".tmp-")) {
    if (!path_.has_filename() || is_folder(path_))
      throw Error(str(path_.string(), ": is a folder, a file was to be written"), {}, ErrorKind::bad_file);
    if (channel_) {
      file_ = detail::FileDescriptor(::open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
      if (!file_) throw system_error(path_, "cannot write");
      return;
    }
    detail::remove_leftovers(path_, ".tmp-");
    file_ =
        detail::FileDescriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (!file_) throw system_error(path_, "cannot write", errno == ENOENT ? "make its folder first." : "");
    struct ::stat before;
    if (::stat(path_.c_str(), &before) == 0) (void)::fchmod(file_.get(), before.st_mode & 0777);
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (!committed_ && !channel_) ::unlink(temporary_.c_str());
  }

  /// Throws Error where the disk is full or fails; what was under `path` before is untouched then.
  void write(std::span<const std::byte> bytes) {
    if (buffer_.size() + bytes.size() > buffer_limit) flush();
    if (bytes.size() > buffer_limit) put(bytes);
    else buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Bytes written so far.
  std::uint64_t size() const { return size_ + buffer_.size(); }

  /// Puts the file in place. Call once, last.
  void commit() {
    flush();
    if (channel_) {
      if (!file_.close()) throw fail("cannot write");
      committed_ = true;
      return;
    }
    if (::fsync(file_.get()) != 0 || !file_.close()) throw fail("cannot write to the disk");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw fail("cannot replace");
    committed_ = true;
    detail::sync_path(detail::parent_of(path_));
  }

 private:
  static constexpr std::size_t buffer_limit = std::size_t{1} << 16;

  Error fail(std::string_view what) const {
    const int code = errno;
    const bool full = kind_of_errno(code) == ErrorKind::no_space;
    return system_error(path_, what, full ? "free some space; what was there before is unchanged." : "", code);
  }
  void flush() {
    put(buffer_);
    buffer_.clear();
  }
  void put(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const auto done = ::write(file_.get(), bytes.data(), bytes.size());
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) throw fail(str("cannot write at byte ", grouped(size_)));
      size_ += static_cast<std::uint64_t>(done);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
    }
  }

  bool channel_;
  std::filesystem::path path_, temporary_;
  detail::FileDescriptor file_;
  std::vector<std::byte> buffer_;
  std::uint64_t size_ = 0;
  bool committed_ = false;
};

inline void write_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}
inline void write_atomically(const std::filesystem::path& path, std::string_view text) {
  write_atomically(path, std::as_bytes(std::span(text.data(), text.size())));
}

/// Puts back what a killed AtomicFolder::commit left aside, and removes what killed runs left beside `path`. Call it
/// before reading a folder that is written by AtomicFolder; the next writer does it as well.
inline void recover_folder(const std::filesystem::path& given) {
  const auto path = detail::through_links(given);
  std::error_code ignored;
  if (!std::filesystem::exists(std::filesystem::symlink_status(path, ignored)))
    for (const auto& aside : detail::leftovers(path, ".old-"))
      if (::rename(aside.c_str(), path.c_str()) == 0) break;
  detail::remove_leftovers(path, ".old-");
  detail::remove_leftovers(path, ".tmp-");
}

/// A whole folder, written as AtomicFile writes a file: fill folder(), then commit(). An older folder of that name
/// stays until the new one is complete and on the disk; then the two change names in one step (where the file system
/// cannot, in two: see recover_folder) and the old one is removed.
class AtomicFolder {
 public:
  explicit AtomicFolder(std::filesystem::path path)
      : path_(detail::through_links(path.has_filename() ? std::move(path) : path.parent_path())),
        temporary_(detail::sibling(path_, ".tmp-")) {
    if (path_exists(path_) && !is_folder(path_))
      throw Error(str(path_.string(), ": is a file, a folder was to be written"), {}, ErrorKind::bad_file);
    recover_folder(path_);
    std::error_code error;
    if (!std::filesystem::create_directory(temporary_, error))  // false without an error: it is there and stays
      throw system_error(path_, "cannot make the folder", {}, error ? error.value() : EEXIST);
  }
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  ~AtomicFolder() {
    std::error_code ignored;
    if (!committed_) std::filesystem::remove_all(temporary_, ignored);
  }

  /// Where to write the files; until commit() under a temporary name.
  const std::filesystem::path& folder() const { return temporary_; }

  /// Puts the folder in place. Call once, last.
  void commit() {
    detail::sync_tree(temporary_);
    std::error_code ignored;
    const auto aside = detail::sibling(path_, ".old-");
    if (std::filesystem::exists(std::filesystem::symlink_status(path_, ignored)))
      detail::exchange_folders(temporary_, path_, aside);
    else if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw system_error(path_, "cannot replace");
    committed_ = true;
    detail::sync_path(detail::parent_of(path_));
    std::filesystem::remove_all(temporary_, ignored);  // the old folder; what remains is the next writer's to remove
    std::filesystem::remove_all(aside, ignored);
  }

 private:
  std::filesystem::path path_, temporary_;
  bool committed_ = false;
};

}  // namespace ft::inline FTLIB_ABI
