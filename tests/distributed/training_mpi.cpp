// tests/distributed/training_mpi.cpp MODEL OUT: a training on the ranks of the MPI that this file is compiled with.
#include "training.hpp"

#include <ftlib/distributed/mpi.hpp>

int main(int argc, char** argv) {
  return ft::run_ranks(argc, argv, [&](ft::Communicator* world) {
    if (!world || argc != 3) throw ft::Error("training_mpi: MODEL OUT, under mpirun");
    return train_on_ranks(*world, argv[1], argv[2]);
  });
}
