// train/rank_files.inl.hpp: what train/rank_files.hpp declares.
#pragma once
#include <ftlib/io/safetensors.hpp>  // safetensors_layout, check_room
#include <ftlib/train/rank_files.hpp>

#include <chrono>  // std::chrono::system_clock
#include <map>     // std::map

namespace ft::inline FTLIB_ABI {

namespace detail {
/// Of this process and moment.
inline std::string never_there(const std::string& begin) {
  return str(begin, ::getpid(), '-', std::chrono::system_clock::now().time_since_epoch().count());
}
inline void write_at(const std::filesystem::path& path, const FileDescriptor& file, std::span<const std::byte> bytes,
                     std::uint64_t at) {
  while (!bytes.empty()) {
    const auto done = ::pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw system_error(path, str("cannot write at byte ", grouped(at)));
    bytes = bytes.subspan(static_cast<std::size_t>(done));
    at += static_cast<std::uint64_t>(done);
  }
}
/// Removes a file at its end, unless it has been put in place: also where another rank's failure ends this one.
struct PartOfRanks {
  std::filesystem::path path;
  bool kept = false;
  ~PartOfRanks() {
    if (!kept && !path.empty()) ::unlink(path.c_str());
  }
};
}  // namespace detail

FTLIB_INLINE bool is_same_folder(Communicator& world, const std::filesystem::path& folder) {
  world.announce("whether all ranks have the run's folder");
  std::string token;
  if (world.rank() == 0) {
    make_folders(folder);
    token = detail::never_there(".ranks-");
    write_atomically(folder / token, token);
  }
  token = world.gather(token)[0];
  std::error_code error;
  const bool seen = std::filesystem::file_size(folder / token, error) == token.size() && !error;
  const bool missed = world.any(!seen);
  if (world.rank() == 0) std::filesystem::remove(folder / token, error);
  return !missed;
}

FTLIB_INLINE void write_together(Communicator& world, const std::filesystem::path& given,
                                 const std::filesystem::path& file, std::vector<TensorEntry> entries,
                                 const std::vector<FilePiece>& pieces) {
  const auto folder = detail::through_links(given);
  const auto layout = detail::safetensors_layout(folder.string(), std::move(entries), {});
  std::map<std::string_view, std::uint64_t> begins;
  std::uint64_t end = layout.header.size();
  for (std::size_t i = 0; i < layout.entries.size(); ++i) {
    begins[layout.entries[i].name] = end;
    end += static_cast<std::uint64_t>(layout.sizes[i]);
  }

  std::string name, failure;
  std::filesystem::path part;
  detail::PartOfRanks removed;
  detail::FileDescriptor out;
  const auto attempt = [&](auto work) {
    try {
      if (failure.empty()) work();
    } catch (const Error& e) {
      failure = e.what();
    }
  };
  const auto open = [&](int flags) {
    part = detail::parent_of(folder) / name;
    out = detail::FileDescriptor(::open(part.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, 0666));
    if (!out) throw system_error(part, "cannot write");
  };
  if (world.rank() == 0)
    attempt([&] {
      check_room(folder, end);
      name = detail::never_there(folder.filename().string() + ".part-");
      open(O_CREAT | O_EXCL);
      removed.path = part;
      if (::ftruncate(out.get(), static_cast<off_t>(end)) != 0) throw system_error(part, "cannot write");
      detail::write_at(part, out, std::as_bytes(std::span(layout.header.data(), layout.header.size())), 0);
    });
  name = world.gather(name)[0];
  if (world.rank() > 0 && !name.empty()) attempt([&] { open(0); });
  attempt([&] {
    if (!out) return;
    for (const FilePiece& piece : pieces)
      detail::write_at(part, out, piece.bytes, begins.at(piece.tensor) + piece.begin);
    if (::fsync(out.get()) != 0 || !out.close()) throw system_error(part, "cannot write to the disk");
  });
  std::string failed;
  int rank = 0;
  for (const std::string& theirs : world.gather(failure)) {
    if (!theirs.empty() && failed.empty()) failed = str("rank ", rank, ": ", theirs);
    ++rank;
  }
  if (!failed.empty()) throw Error(failed, "what was saved before is unchanged.", ErrorKind::bad_file);
  if (world.rank() == 0 && ::rename(part.c_str(), file.c_str()) != 0)
    throw system_error(file, "cannot put it in place");
  removed.kept = true;
}

FTLIB_INLINE void remove_parts(const std::filesystem::path& given) {
  const auto folder = detail::through_links(given);
  const std::string prefix = folder.filename().string() + ".part-";
  std::error_code ignored;
  for (std::filesystem::directory_iterator at(detail::parent_of(folder), ignored), end; !ignored && at != end;
       at.increment(ignored))
    if (at->path().filename().string().starts_with(prefix)) ::unlink(at->path().c_str());
}

}  // namespace ft::inline FTLIB_ABI
