// io/mapped_file.hpp: a file seen as memory: weights are read from it page by page when they are used, and copied
// never.
#pragma once
#include <ftlib/io/file.hpp>

#include <sys/mman.h>  // ::mmap

#include <memory>  // std::shared_ptr
#include <span>    // std::span

namespace ft::inline FTLIB_ABI {

/// A read-only mapping of a regular file, gone with its last owner. Replacing the file by rename (io/atomic_file.hpp)
/// leaves a mapping whole; a program that shortens a mapped file in place ends this one with SIGBUS.
class MappedFile {
 public:
  /// Throws Error, with the system's text, for a file that is missing, empty, a folder, or no regular file.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path) {
    return std::shared_ptr<const MappedFile>(new MappedFile(path));
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() { ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& name() const { return name_; }

 private:
  explicit MappedFile(const std::filesystem::path& path) : name_(path.string()) {
    const auto file = detail::open_to_read(path);
    if (file.size == 0) throw Error(name_ + ": is empty", "the copy failed; fetch it again.", ErrorKind::bad_file);
    if (file.size > std::numeric_limits<std::size_t>::max() / 2)
      throw Error(name_ + ": is larger than the address space", {}, ErrorKind::bad_file);
    const auto size = static_cast<std::size_t>(file.size);
    void* start = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.descriptor.get(), 0);
    if (start == MAP_FAILED) throw system_error(path, str("cannot map its ", grouped(size), " bytes"));
    bytes_ = {static_cast<const std::byte*>(start), size};
    try {
      detail::refuse_substitute({static_cast<const char*>(start), std::min<std::size_t>(size, 64)}, name_);
    } catch (...) {  // no destructor runs for what was not constructed
      ::munmap(start, size);
      throw;
    }
  }

  std::string name_;
  std::span<const std::byte> bytes_;
};

}  // namespace ft::inline FTLIB_ABI
