// distributed/mpi.hpp: ranks that mpirun or srun has started. Include it in the program, which links ftlib::mpi; no
// other header does.
#pragma once
#include <ftlib/distributed/communicator.hpp>

#include <mpi.h>

#include <algorithm>   // std::min
#include <chrono>      // std::chrono
#include <cstdlib>     // std::getenv
#include <functional>  // std::function
#include <iostream>    // std::cerr
#include <thread>      // std::this_thread

namespace ft::inline FTLIB_ABI {

/// MPI's world, or what a program has split off it.
class MpiCommunicator final : public Communicator {
 public:
  /// MPI must have been started, and `world` outlive this.
  explicit MpiCommunicator(MPI_Comm world) : world_(world) {
    check(MPI_Comm_rank(world_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(world_, &size_), "MPI_Comm_size");
    char node[MPI_MAX_PROCESSOR_NAME];
    int length = 0;
    check(MPI_Get_processor_name(node, &length), "MPI_Get_processor_name");
    node_.assign(node, static_cast<std::size_t>(length));
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string name() const override { return str("rank ", rank_, " of ", size_, " (", node_, ')'); }
  const std::string& node() const { return node_; }

  void swap(int other, std::span<const std::byte> out, std::span<std::byte> in) override {
    constexpr std::size_t most = std::size_t{1} << 30;  // MPI counts in int
    for (std::size_t sent = 0, got = 0; sent < out.size() || got < in.size();) {
      const std::size_t s = std::min(most, out.size() - sent), g = std::min(most, in.size() - got);
      check(MPI_Sendrecv(out.data() + sent, static_cast<int>(s), MPI_BYTE, other, 0, in.data() + got,
                         static_cast<int>(g), MPI_BYTE, other, 0, world_, MPI_STATUS_IGNORE),
            "MPI_Sendrecv");
      sent += s;
      got += g;
    }
  }
  std::vector<std::string> gather(std::string_view mine) override {
    const auto ranks = static_cast<std::size_t>(size_);
    const int length = static_cast<int>(mine.size());
    std::vector<int> lengths(ranks), begins(ranks);
    check(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, world_), "MPI_Allgather");
    for (std::size_t r = 1; r < ranks; ++r) begins[r] = begins[r - 1] + lengths[r - 1];
    std::string all(static_cast<std::size_t>(begins.back() + lengths.back()), '\0');
    check(MPI_Allgatherv(mine.data(), length, MPI_BYTE, all.data(), lengths.data(), begins.data(), MPI_BYTE, world_),
          "MPI_Allgatherv");
    std::vector<std::string> parts;
    for (std::size_t r = 0; r < ranks; ++r)
      parts.push_back(all.substr(static_cast<std::size_t>(begins[r]), static_cast<std::size_t>(lengths[r])));
    return parts;
  }

 private:
  void check(int code, const char* call) const {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw Error(str(name(), ": ", call, ": ", std::string_view(text, static_cast<std::size_t>(length))), {},
                ErrorKind::other);
  }

  MPI_Comm world_;
  int rank_ = 0, size_ = 1;
  std::string node_ = "?";
};

/// Whether mpirun or srun has started this process, by the variables that Open MPI, MPICH's kin and PMIx set.
inline bool started_as_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK"})
    if (std::getenv(name)) return true;
  return false;
}

/// Runs work(world) on every rank, and returns what it returned; of a process that is no rank, work(nullptr), without
/// MPI. An exception ends all ranks with one message, "rank 3 of 8 (node2): ...": rank 0's where it has one too, for
/// then the others' is mostly the same.
///
///     int main(int argc, char** argv) {
///       return ft::run_ranks(argc, argv, [&](ft::Communicator* world) {
///         ft::Trainer trainer(lm, {.micro_batch_tokens = 128, .world = world});
///         ...
[[gnu::cold]] inline int run_ranks(int& argc, char**& argv, const std::function<int(Communicator*)>& work) {
  if (!started_as_rank()) return work(nullptr);
  int given = 0;
  if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &given) != MPI_SUCCESS)
    throw Error("MPI_Init_thread failed", "start the program with the mpirun of the MPI that it was built with.");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MpiCommunicator world(MPI_COMM_WORLD);
  const auto failed = [&](const std::string& what) {
    if (world.rank() > 0) std::this_thread::sleep_for(std::chrono::seconds(1));
    std::cerr << (world.size() > 1 ? world.name() + ": " : std::string()) << what << std::endl;
    MPI_Abort(MPI_COMM_WORLD, 2);
  };
  int code = 0;
  try {
    code = work(&world);
  } catch (const Error& e) {
    failed(e.message() + (e.hint().empty() ? "" : " (hint: " + e.hint() + ")"));
  } catch (const std::exception& e) {
    failed(e.what());
  }
  MPI_Finalize();
  return code;
}

}  // namespace ft::inline FTLIB_ABI
