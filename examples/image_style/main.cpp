// examples/image_style/main.cpp: from a folder of pictures to a model that draws in their style.
//
// Each subcommand is one header, registered below in the order in which a person uses them.
#include "draw.hpp"
#include "evaluate.hpp"
#include "prepare.hpp"
#include "serve.hpp"
#include "train.hpp"

#include <ftlib/core/version.hpp>
#if FTLIB_WITH_MPI
#include <ftlib/distributed/mpi.hpp>
#endif

#include <CLI/CLI.hpp>
#include <iostream>
#include <string_view>

namespace {
int run(int argc, char** argv) {
  const bool alone = !examples::ranks || examples::ranks->size() == 1;
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (!alone && command != "pretrain" && command != "train" && command != "finish")
    throw ft::Error("image_style: ranks share the work of pretrain, train and finish",
                    "start other commands without mpirun.");
  CLI::App app("Fine-tune a text-to-image model to a style.", "image_style");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("image_style (ftlib " FTLIB_VERSION ")"));
  try {
    image_style::add_prepare(app);
    image_style::add_pretrain(app);
    image_style::add_train(app);
    image_style::add_finish(app);
    image_style::add_evaluate(app);
    image_style::add_draw(app);
    image_style::add_serve(app);
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::cerr << "image_style: " << e.what() << " (see --help)\n";
  } catch (const ft::Error& e) {
    if (!alone) throw;  // one message for all ranks
    std::cerr << "image_style: " << e.message() << (e.hint().empty() ? "" : " (hint: " + e.hint() + ")") << '\n';
  } catch (const std::exception& e) {
    if (!alone) throw;
    std::cerr << "image_style: " << e.what() << '\n';
  }
  return 2;
}
}  // namespace

int main(int argc, char** argv) {
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
