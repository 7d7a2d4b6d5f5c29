// distributed/mpi.hpp: ranks that mpirun or srun has started. Include it in the program, which links ftlib::mpi; no
// other header does.
#pragma once
#include <ftlib/distributed/communicator.hpp>

#include <mpi.h>

#include <algorithm>   // std::min
#include <array>       // std::array
#include <atomic>      // std::atomic
#include <chrono>      // std::chrono
#include <cstdlib>     // std::getenv, std::atoi
#include <functional>  // std::function
#include <iostream>    // std::cerr
#include <thread>      // std::this_thread

namespace ft::inline FTLIB_ABI {

/// MPI's world, or what a program has split off it.
class MpiCommunicator final : public Communicator {
 public:
  /// MPI must have been started, and `world` outlive this. All of its ranks make one, at the same time.
  explicit MpiCommunicator(MPI_Comm world) : world_(world) {
    MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN);
    check(MPI_Comm_rank(world_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(world_, &size_), "MPI_Comm_size");
    check(MPI_Comm_dup(world_, &alarm_), "MPI_Comm_dup");
    check(MPI_Query_thread(&threads_), "MPI_Query_thread");
    char node[MPI_MAX_PROCESSOR_NAME];
    int length = 0;
    check(MPI_Get_processor_name(node, &length), "MPI_Get_processor_name");
    nodes_.resize(static_cast<std::size_t>(size_), "?");
    nodes_ = gather({node, static_cast<std::size_t>(length)});
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string name() const override { return name_of(rank_); }
  void cancel() override { cancelled_ = true; }
  bool any_thread() const override { return threads_ >= MPI_THREAD_SERIALIZED; }
  std::string node() const override { return nodes_[static_cast<std::size_t>(rank_)]; }

  // In pieces that go without being asked for, once both ranks are here. Of a message that is large for MPI the
  // receiver says when it is ready, and where one rank comes later, that word waits behind what its partner sends
  // already: over Open MPI's TCP, both directions then take turns. And pieces for a rank that still receives another's
  // would be lost on its link: four ranks of 100 Mbit/s took twice as long by either.
  void swap(int other, std::span<const std::byte> out, std::span<std::byte> in) override {
    constexpr std::size_t piece = std::size_t{60} << 10, most = std::size_t{8} << 20;
    std::vector<MPI_Request> requests;
    if (std::max(out.size(), in.size()) > piece) {
      check(MPI_Irecv(nullptr, 0, MPI_BYTE, other, 0, world_, &requests.emplace_back()), "MPI_Irecv");
      check(MPI_Isend(nullptr, 0, MPI_BYTE, other, 0, world_, &requests.emplace_back()), "MPI_Isend");
      wait(requests, "MPI_Isend");
    }
    for (std::size_t from = 0; from < std::max(out.size(), in.size()); from += most) {
      requests.clear();
      for (std::size_t i = from; i < std::min(from + most, in.size()); i += piece)
        check(MPI_Irecv(in.data() + i, static_cast<int>(std::min(piece, in.size() - i)), MPI_BYTE, other, 0, world_,
                        &requests.emplace_back()),
              "MPI_Irecv");
      for (std::size_t i = from; i < std::min(from + most, out.size()); i += piece)
        check(MPI_Isend(out.data() + i, static_cast<int>(std::min(piece, out.size() - i)), MPI_BYTE, other, 0, world_,
                        &requests.emplace_back()),
              "MPI_Isend");
      wait(requests, "MPI_Isend");
    }
  }
  std::vector<std::string> gather(std::string_view mine) override {
    const auto ranks = static_cast<std::size_t>(size_);
    const int length = static_cast<int>(mine.size());
    std::vector<int> lengths(ranks), begins(ranks);
    std::array<MPI_Request, 1> one;
    check(MPI_Iallgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, world_, &one[0]), "MPI_Iallgather");
    wait(one, "MPI_Iallgather");
    for (std::size_t r = 1; r < ranks; ++r) begins[r] = begins[r - 1] + lengths[r - 1];
    std::string all(static_cast<std::size_t>(begins.back() + lengths.back()), '\0');
    check(MPI_Iallgatherv(mine.data(), length, MPI_BYTE, all.data(), lengths.data(), begins.data(), MPI_BYTE, world_,
                          &one[0]),
          "MPI_Iallgatherv");
    wait(one, "MPI_Iallgatherv");
    std::vector<std::string> parts;
    for (std::size_t r = 0; r < ranks; ++r)
      parts.push_back(all.substr(static_cast<std::size_t>(begins[r]), static_cast<std::size_t>(lengths[r])));
    return parts;
  }

 private:
  using Clock = std::chrono::steady_clock;

  // Not MPI_Wait, which a rank that hangs holds for ever. Lets other ranks of its cores go on, and after a millisecond
  // sleeps in between.
  void wait(std::span<MPI_Request> requests, const char* call) {
    const auto begin = Clock::now();
    auto looked = begin;
    for (int turns = 0;; ++turns) {
      int done = 0;
      check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE), call);
      if (done) return;
      if (cancelled_) throw Error(str(name(), ": cancelled, for this rank has failed"), {}, ErrorKind::cancelled);
      if (turns < 100) continue;
      const auto now = Clock::now();
      if (now - begin < std::chrono::milliseconds(1)) std::this_thread::yield();
      else std::this_thread::sleep_for(std::chrono::microseconds(20));
      if (now - looked < std::chrono::milliseconds(100)) continue;
      looked = now;
      int alarmed = 0;
      check(MPI_Iprobe(MPI_ANY_SOURCE, 0, alarm_, &alarmed, MPI_STATUS_IGNORE), "MPI_Iprobe");
      if (alarmed || now - begin > timeout_)
        give_up(std::chrono::duration_cast<std::chrono::milliseconds>(now - begin));
    }
  }

  // The time is up here, or elsewhere: all ranks that wait say so to one another, so that those which do not are known,
  // and the first of them throws; another one later, should that one not end the run.
  [[noreturn]] void give_up(std::chrono::milliseconds time) {
    std::vector<std::string> said(static_cast<std::size_t>(size_));
    said[static_cast<std::size_t>(rank_)] = announced_;
    std::vector<MPI_Request> requests;
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      MPI_Isend(announced_.data(), static_cast<int>(announced_.size()), MPI_CHAR, r, 0, alarm_,
                &requests.emplace_back());
    }
    for (const auto end = Clock::now() + std::chrono::seconds(1); Clock::now() < end;) {
      int there = 0, length = 0;
      MPI_Status status;
      check(MPI_Iprobe(MPI_ANY_SOURCE, 0, alarm_, &there, &status), "MPI_Iprobe");
      if (there) {
        check(MPI_Get_count(&status, MPI_CHAR, &length), "MPI_Get_count");
        std::string& heard = said[static_cast<std::size_t>(status.MPI_SOURCE)];
        heard.resize(static_cast<std::size_t>(length));
        check(MPI_Recv(heard.data(), length, MPI_CHAR, status.MPI_SOURCE, 0, alarm_, MPI_STATUS_IGNORE), "MPI_Recv");
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
    std::string silent, others;
    int first = size_, n = 0;
    for (int r = size_ - 1; r >= 0; --r) {
      const std::string& one = said[static_cast<std::size_t>(r)];
      if (!one.empty()) first = r;
      if (one.empty() && ++n <= 4) silent = name_of(r) + (silent.empty() ? "" : ", ") + silent;
      if (!one.empty() && r != rank_) others = str(name_of(r), " in ", one, others.empty() ? "" : "; ", others);
    }
    if (n > 4) silent = str(n, " ranks: ", silent, ", ...");
    if (n == 0) silent = "others that wait too: " + others;
    if (first != rank_) std::this_thread::sleep_for(std::chrono::seconds(30));
    throw Error(waited(time) + silent, waiting_hint, ErrorKind::other);
  }

  std::string name_of(int rank) const {
    return str("rank ", rank, " of ", size_, " (", nodes_[static_cast<std::size_t>(rank)], ')');
  }
  void check(int code, const char* call) const {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw Error(str(name(), ": ", call, ": ", std::string_view(text, static_cast<std::size_t>(length))), {},
                ErrorKind::other);
  }

  MPI_Comm world_, alarm_ = MPI_COMM_NULL;  // alarm_: of ranks whose time is up; MPI_Finalize frees it
  int rank_ = 0, size_ = 1, threads_ = MPI_THREAD_SINGLE;
  std::atomic<bool> cancelled_ = false;
  std::vector<std::string> nodes_;
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
  int given = 0, size = 0;
  if (MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &given) != MPI_SUCCESS) {
    std::cerr
        << "MPI_Init_thread failed (hint: start the program with the mpirun of the MPI that it was built with.)\n";
    return 2;
  }
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const char* started = std::getenv(name);
    if (!started || std::atoi(started) == size) continue;
    std::cerr << name << " is " << started << ", and MPI knows of a world of " << size
              << " (hint: start the program with the mpirun of the MPI that it was built with.)" << std::endl;
    MPI_Abort(MPI_COMM_WORLD, 2);
  }
  MpiCommunicator world(MPI_COMM_WORLD);
  const auto failed = [&](const std::string& what) {
    if (world.rank() > 0) std::this_thread::sleep_for(std::chrono::seconds(1));
    const bool named = world.size() == 1 || what.starts_with(world.name());
    std::cerr << (named ? std::string() : world.name() + ": ") << what << std::endl;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));  // MPICH's mpirun loses what it has not yet passed on
    MPI_Abort(MPI_COMM_WORLD, 2);
  };
  int code = 0;
  try {
    code = work(&world);
    world.announce("the end");
    world.gather("");  // MPI_Finalize waits for all ranks, for ever
  } catch (const Error& e) {
    failed(e.message() + (e.hint().empty() ? "" : " (hint: " + e.hint() + ")"));
  } catch (const std::exception& e) {
    failed(e.what());
  }
  MPI_Finalize();
  return code;
}

}  // namespace ft::inline FTLIB_ABI
