// examples/qa/main.cpp: from question-answer files to a model that answers them: prepare, train, evaluate, ask, export.
//
// Each subcommand is a file beside this one. Needs one model (a GGUF file or a Hugging Face folder); SmolLM2-135M in
// Q4_1 trains in about 0.7 GB of memory. docs/qa.md walks through it.
#include "ask.hpp"
#include "evaluate.hpp"
#include "export.hpp"
#include "prepare.hpp"
#include "train.hpp"

#if FTLIB_WITH_MPI
#include <ftlib/distributed/mpi.hpp>
#endif

#include <CLI/CLI.hpp>
#include <csignal>
#include <iostream>
#include <string_view>

namespace {
int run(int argc, char** argv) {
  const bool alone = !examples::ranks || examples::ranks->size() == 1;
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (!alone && command != "train" && command != "evaluate")
    throw ft::Error("qa: ranks share the work of train and of evaluate", "start other commands without mpirun.");
  CLI::App app("Fine-tune a language model on questions and answers: prepare, train, evaluate, ask, export.", "qa");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("qa (ftlib " FTLIB_VERSION ")"));
  try {
    qa::add_prepare(app);
    qa::add_train(app);
    qa::add_evaluate(app);
    qa::add_ask(app);
    qa::add_export(app);
    app.parse(argc, argv);
    if (!std::cout.flush())
      throw ft::Error("standard output cannot be written to", "is its disk full, or its reader gone?");
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::cerr << "qa: " << e.what() << " (see --help)\n";
  } catch (const ft::Error& e) {
    if (!alone) throw;  // one message for all ranks
    std::cerr << "qa: " << e.message() << (e.hint().empty() ? "" : " (hint: " + e.hint() + ")") << '\n';
  } catch (const std::exception& e) {
    if (!alone) throw;
    std::cerr << "qa: " << e.what() << '\n';
  }
  return 2;
}
}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that goes away is a write that fails
#if FTLIB_WITH_MPI
  return ft::run_ranks(argc, argv, [&](ft::Communicator* world) {
    examples::ranks = world;
    examples::node = ft::share_node(world);
    const examples::Muted others(!examples::first_rank());
    return run(argc, argv);
  });
#else
  return run(argc, argv);
#endif
}
