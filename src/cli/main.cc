#include "cli/commands.h"

int main(int argc, char** argv) {
  CLI::App app("weft: distributed inference for large language models");
  app.require_subcommand(1);
  weft::add_fetch(app);
  weft::add_launch(app);
  weft::add_selftest(app);
  CLI11_PARSE(app, argc, argv);
  return 0;
}
