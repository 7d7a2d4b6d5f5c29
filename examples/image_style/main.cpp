// examples/image_style/main.cpp: from a folder of pictures to a model that draws in their style.
//
// Each subcommand is one header, registered below in the order in which a person uses them.
#include "draw.hpp"
#include "evaluate.hpp"
#include "prepare.hpp"
#include "serve.hpp"
#include "train.hpp"

#include <ftlib/core/version.hpp>

#include <CLI/CLI.hpp>
#include <iostream>

int main(int argc, char** argv) {
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
    std::cerr << "image_style: " << e.message() << (e.hint().empty() ? "" : " (hint: " + e.hint() + ")") << '\n';
  } catch (const std::exception& e) {
    std::cerr << "image_style: " << e.what() << '\n';
  }
  return 2;
}
