#include <CLI/CLI.hpp>

int main(int argc, char** argv) {
  CLI::App app("weft: distributed inference for large language models");
  CLI11_PARSE(app, argc, argv);
  return 0;
}
